"""A section: typed options, what is wrong with a value in one line, all options of it by name.

Nothing here reads a file, and nothing large is imported: help is made of sections.
"""

import ast
import functools
import inspect
import itertools
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator
from pydantic_core import to_jsonable_python

from weighted_mtp.errors import UserError
from weighted_mtp.synonyms import SYNONYMS
from weighted_mtp.wording import nearest


class Section(BaseModel):
    """A part of the configuration: immutable, without keys that nobody reads, and of finite numbers.

    A name may be a number, such as a job's; a number may not be `true`, nor text empty.

    interpolated  whether `${name}` in a file is replaced by the option of that name as it is read
    """

    interpolated: ClassVar[bool] = True

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        allow_inf_nan=False,
        coerce_numbers_to_str=True,
        defer_build=True,  # for help, which validates nothing
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        """Take the text below a field as its description, as `use_attribute_docstrings` does in ten times the time."""
        for name, text in _texts_below_fields(sys.modules[cls.__module__]).get(cls.__qualname__, {}).items():
            if name in cls.model_fields:  # not of the class itself
                cls.model_fields[name].description = text

    @model_validator(mode="before")
    @classmethod
    def _values_are_what_they_look_like(cls, values: Any) -> Any:
        for name, value in values.items() if isinstance(values, dict) else ():
            kinds = list(_plain_types(cls.model_fields[name].annotation)) if name in cls.model_fields else [Any]
            if isinstance(value, bool) and bool not in kinds and Any not in kinds:
                word = str(value).lower()
                raise ValueError(f"{name}={word}, as YAML reads on, off, yes and no, too; put a name in quotes")
            if isinstance(value, int) and abs(value) > _LARGEST:
                raise ValueError(f"{name}={value} is too large a number; give one below {_LARGEST}")
            if value == "" and (str in kinds or Path in kinds):
                raise ValueError(f"{name} is empty; give a value, or leave the option out")
        return values


@functools.cache
def _texts_below_fields(module: ModuleType) -> dict[str, dict[str, str]]:
    """Class → field → the text below it; nothing for a module whose source is not there."""
    try:
        source = ast.parse(inspect.getsource(module))
    except (OSError, TypeError):
        return {}
    return dict(_texts_in(source, ""))


def _texts_in(node: ast.AST, place: str) -> Iterator[tuple[str, dict[str, str]]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield f"{place}{child.name}", dict(_texts_of(child.body))
            yield from _texts_in(child, f"{place}{child.name}.")
        elif isinstance(child, ast.FunctionDef):
            yield from _texts_in(child, f"{place}{child.name}.<locals>.")


def _texts_of(body: Sequence[ast.stmt]) -> Iterator[tuple[str, str]]:
    for field, below in itertools.pairwise(body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, inspect.cleandoc(text)


_LARGEST = 2**53  # exact in JSON, in fp64, and far from where 64 bits overflow


def _plain_types(annotation: Any) -> Iterator[Any]:
    """The types in an annotation, without what it is made of."""
    arguments = typing.get_args(annotation)
    if not arguments or typing.get_origin(annotation) is typing.Literal:
        yield annotation
    for argument in arguments:
        yield from _plain_types(argument)


T = TypeVar("T", bound=Section)


def _split(value: Any) -> Any:
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
"""Several names: a list, or one text with commas."""


class Flag:
    """How an option is given on the command line if `--` and its name will not do: by other `names` (without dashes),
    or by position if there are none."""

    def __init__(self, *names: str) -> None:
        self.names = names


def validated(schema: type[T], values: Any, prefix: str = "", spell: Callable[[str], str] = "`{}`".format) -> T:
    """Build a section from plain values; what is wrong with them is one `UserError` line after `prefix`.

    spell  how a missing option is written
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise UserError(prefix + "; ".join(_explain(schema, error, spell))) from error


def flatten(config: Section) -> dict[str, Any]:
    """All options as `{"a.b": value}`, for trackers and for naming a difference."""
    return dict(leaves(config.model_dump(mode="json")))


def differences(old: Section, new: Section) -> list[str]:
    """The options in which two configurations differ, each as `a.b: old → new`."""
    before, after = flatten(old), flatten(new)
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [f"{key}: {before.get(key)} → {after.get(key)}" for key in keys]


def changed(schema: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """The options in a resolved configuration that differ from the schema's defaults, as `{"a.b": value}`.

    `values` are plain and not checked: a configuration of an older version is shown as it was.
    """
    usual = dict(leaves(_defaults(schema)))
    return {key: value for key, value in leaves(values) if key not in usual or usual[key] != value}


def _defaults(schema: type[BaseModel]) -> dict[str, Any]:
    """Plain defaults; of a section that must be given, those of its options."""
    found = {}
    for name, field in schema.model_fields.items():
        if not field.is_required():
            found[name] = to_jsonable_python(field.get_default(call_default_factory=True))
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found[name] = _defaults(field.annotation)
    return found


def options_of(schema: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """All options and sections of a schema, as `a.b`."""
    for name, field in schema.model_fields.items():
        yield f"{prefix}{name}"
        for section in sections_in(field.annotation):
            yield from options_of(section, f"{prefix}{name}.")


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested options as (`a.b`, value)."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _explain(schema: type[BaseModel], error: ValidationError, spell: Callable[[str], str]) -> Iterator[str]:
    for item in error.errors():
        location = [str(part) for part in item["loc"]]
        name = ".".join(location)
        if item["type"] == "extra_forbidden":
            yield f"unknown option `{name}`; {_advice(schema, location)}"
        elif item["type"] == "value_error":
            message = str(item["ctx"]["error"])
            yield f"`{name}`: {message}" if name else message
        elif item["type"] == "missing":
            yield f"{spell(name)} must be given"
        else:
            yield f"`{name}`: {item['msg']}, not {item['input']!r}"


def _advice(schema: type[BaseModel], location: Sequence[str]) -> str:
    """What to write instead: another trainer's name in our words, the same name elsewhere, or the nearest one here."""
    *place, name = location
    options = list(options_of(schema))
    known = _known_keys(schema, place)
    near = nearest(name, known, 0.75)
    other = name.lower() if name.lower() in SYNONYMS or near else nearest(name, SYNONYMS, 0.6)
    if called := [option for option in SYNONYMS.get(other, ()) if option in options]:
        return f"here it is called `{called[0]}`"
    if not near and (elsewhere := [option for option in options if option.rpartition(".")[2] == name]):
        return f"it is `{elsewhere[0]}`"
    return f"the nearest known one is `{'.'.join([*place, near or nearest(name, known)])}`"


def _known_keys(schema: type[BaseModel], location: Sequence[str]) -> list[str]:
    """The keys at a place, in which pydantic names the keys of mappings, and of a union the tag of what was chosen."""
    sections = [schema]
    for part in location:
        fields = [section.model_fields[part] for section in sections if part in section.model_fields]
        inner = [found for field in fields for found in sections_in(field.annotation)]
        sections = inner or [section for section in sections if part in _tags(section)] or sections
    return list(dict.fromkeys(key for section in sections for key in section.model_fields))


def sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from sections_in(argument)


def _tags(section: type[BaseModel]) -> set[str]:
    """By which of its values a union tells this section from others."""
    annotations = [field.annotation for field in section.model_fields.values()]
    return {tag for a in annotations if typing.get_origin(a) is typing.Literal for tag in typing.get_args(a)}
