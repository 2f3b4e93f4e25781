"""All options of a schema: name, type, default, bounds and description, read from the sections; as text, Markdown and
JSON schema.
"""

import json
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from weighted_mtp.section import sections_in

_NAMES = {bool: "true or false", int: "integer", float: "number", str: "text", Path: "path", NoneType: "null"}
_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


@dataclass(frozen=True)
class Option:
    """name as in `--override name=value`; type, bounds (empty if there are none) and default as YAML would say them;
    default None if the option must be given."""

    name: str
    type: str
    bounds: str
    default: str | None
    description: str

    @property
    def facts(self) -> str:
        """Type, bounds and default in one line."""
        default = "must be given" if self.default is None else f"default {self.default}"
        return ", ".join(part for part in (self.type, self.bounds, default) if part)


@dataclass(frozen=True)
class OptionSection:
    """A section of a schema: where it is ("" at the top), what it is for, and its own options, not those of sections in
    it. `condition` says when it applies, "" if always."""

    name: str
    condition: str
    description: str
    options: Sequence[Option]


def parts_of(
    schema: type[BaseModel], name: str = "", condition: str = "", default: object = None
) -> Iterator[OptionSection]:
    """The section `schema` at `name`, then all sections in it; a section that may be one of several is each of them.

    default  a section that gives its values as defaults, None for those of its class
    """
    fields, prefix = schema.model_fields, f"{name}." if name else ""

    def value(key: str) -> object:
        if isinstance(default, schema):
            return getattr(default, key)
        return fields[key].get_default(call_default_factory=True)

    choices = {key: list(sections_in(field.annotation)) for key, field in fields.items()}
    plain = [key for key, sections in choices.items() if not sections]
    own = [_option(f"{prefix}{key}", fields[key], value(key), _description(schema, key)) for key in plain]
    yield OptionSection(name, condition, _one_paragraph(schema.__doc__), own)
    for key, sections in choices.items():
        for choice in sections:
            yield from _inner(choice, f"{prefix}{key}", fields[key], value(key), len(sections) > 1)


def _inner(
    choice: type[BaseModel], place: str, field: FieldInfo, value: object, several: bool
) -> Iterator[OptionSection]:
    conditions = []
    if typing.get_origin(field.annotation) is dict:
        place += ".NAME"
    if several:
        tag = next(key for key, f in choice.model_fields.items() if typing.get_origin(f.annotation) is typing.Literal)
        conditions.append(f"with {tag}: {_type(choice.model_fields[tag].annotation)}")
    if value is None:
        conditions.append("null if not given")
    elif isinstance(value, choice) and several:
        conditions.append("the default")
    yield from parts_of(choice, place, "; ".join(conditions), value)


def _description(schema: type[BaseModel], key: str) -> str:
    """The docstring below an option, in the nearest class that has one."""
    classes = [cls for cls in schema.__mro__ if issubclass(cls, BaseModel) and key in cls.model_fields]
    found = next((says for cls in classes if (says := cls.model_fields[key].description)), None)
    is_tag = typing.get_origin(schema.model_fields[key].annotation) is typing.Literal
    return _one_paragraph(found or ("Says which of the alternatives this section is." if is_tag else ""))


def _option(place: str, field: FieldInfo, value: object, description: str) -> Option:
    default = None if value is PydanticUndefined else _yaml(value)
    bounds = _bounds(field.metadata)
    return Option(place, _type(field.annotation), bounds, default, description)


def _yaml(value: object) -> str:
    """A default as it would be written in YAML."""
    plain = to_jsonable_python(value)
    return plain if isinstance(plain, str) and plain else json.dumps(plain, ensure_ascii=False)


def _type(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " | ".join(str(value) for value in arguments)
    if origin is typing.Annotated:
        metadata = [m for a in arguments[1:] for m in (a.metadata if isinstance(a, FieldInfo) else [a])]
        return " ".join(part for part in (_type(arguments[0]), _bounds(metadata)) if part)
    if origin is tuple:
        of = [_type(argument) for argument in arguments if argument is not Ellipsis]
        return f"list of {of[0]}" if Ellipsis in arguments else f"[{', '.join(of)}]"
    if origin is dict:
        return "mapping"
    if arguments:
        return " or ".join(_type(argument) for argument in arguments)
    return _NAMES.get(annotation) or annotation.__name__


def _bounds(metadata: Sequence[Any]) -> str:
    bounds = [
        f"{sign} {_number(getattr(item, kind))}"
        for item in metadata
        for kind, sign in _SIGNS.items()
        if getattr(item, kind, None) is not None
    ]
    bounds += [f"at least {item.min_length}" for item in metadata if getattr(item, "min_length", None)]
    return ", ".join(bounds)


def _number(value: float) -> str:
    exponent = int(value).bit_length() - 1
    return f"2^{exponent}" if value == 2**exponent and exponent > 12 else f"{value:.12g}"


def _one_paragraph(text: str | None) -> str:
    return " ".join((text or "").split())


def under(parts: Sequence[OptionSection], section: str) -> list[OptionSection]:
    """Those of `parts` that are the section of this name, or in it."""
    return [part for part in parts if part.name == section or part.name.startswith(f"{section}.")]


def heading(part: OptionSection) -> str:
    """A section's name and when it applies."""
    name = part.name or "top level"
    return f"{name} ({part.condition})" if part.condition else name


def as_markdown(parts: Sequence[OptionSection], level: int) -> str:
    """One heading of this level and one table per section."""
    return "\n".join(line for part in parts for line in _markdown(part, level))


def _markdown(part: OptionSection, level: int) -> Iterator[str]:
    yield f"{'#' * level} {heading(part)}"
    yield from ("", part.description, "")
    if part.options:
        yield from ("| option | type | default | meaning |", "|---|---|---|---|")
    for option in part.options:
        kind = ", ".join(text for text in (option.type, option.bounds) if text)
        default = "must be given" if option.default is None else f"`{option.default}`"
        cells = (f"`{option.name}`", kind, default, option.description)
        escaped = (cell.replace("|", r"\|") for cell in cells)
        yield f"| {' | '.join(escaped)} |"
    if part.options:
        yield ""


def json_schema(schema: type[BaseModel], title: str) -> dict[str, Any]:
    """A JSON schema for files of these options, as editors use it to complete and to check.

    It also knows `extends`. What must be given may come from the file that another extends, so nothing is required;
    alternatives that only differ in what they require would then both match, so they are `anyOf`, not `oneOf`.
    """
    found = _lenient(schema.model_json_schema())
    extends = {"type": "string", "description": "Another YAML file whose options these are merged into."}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **found,
        "title": title,
        "properties": {"extends": extends, **found["properties"]},
    }


def _lenient(node: Any, is_keyword: bool = True) -> Any:
    """Without `required`, and with `anyOf` for `oneOf`; the names in `properties` and `$defs` are no keywords."""
    if isinstance(node, list):
        return [_lenient(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    if not is_keyword:
        return {name: _lenient(value) for name, value in node.items()}
    left_out = ("required", "discriminator")
    return {
        "anyOf" if key == "oneOf" else key: value
        if key == "default"
        else _lenient(value, key not in ("properties", "$defs"))
        for key, value in node.items()
        if key not in left_out
    }
