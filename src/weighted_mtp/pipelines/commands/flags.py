"""A command's flags, made of the section that it takes: an option's name, help, default and type are said there."""

import datetime
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from weighted_mtp.options import Option, parts_of
from weighted_mtp.pipelines.command import Debug, Overrides, user_errors
from weighted_mtp.pipelines.config import COMMANDS, flag
from weighted_mtp.section import Flag, sections_in

OptionsFile = Annotated[Path | None, typer.Option("--config", help="YAML file of these options; flags come after it.")]


def takes(name: str, *sections: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make the command `name` of a function of its configuration, whose section is in `COMMANDS`.

    The command has `--config`, `--override`, a flag for every option at the section's top and in these `sections` of
    it, and the keyword parameters that the function has beside the configuration. What is given is merged in this
    order: file, `--override`, flags.
    """
    schema = COMMANDS[name]
    flags = dict(_flags(schema, sections))

    def spell(place: str) -> str:
        return _spelled(flags[place]) if place in flags else f"`{place}`"

    def command_of(main: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(main)
        def command(config: Path | None, override: list[str] | None, debug: bool, **given: Any) -> None:
            typed = {place: given.pop(flag.name) for place, flag in flags.items()}
            with user_errors(debug):
                from weighted_mtp.configurations import find
                from weighted_mtp.section import validated

                file = None if config is None else find(config)
                options: dict[str, Any] = {}
                if file is not None or override:
                    from weighted_mtp.config import read_options  # and OmegaConf

                    options = read_options(file, override or ())
                for place, value in typed.items():
                    if value is not None and value != []:
                        _set(options, place, value)
                main(validated(schema, options, f"{file}: " if file else "", spell), **given)

        own = [*inspect.signature(main).parameters.values()][1:]
        common = [_keyword("config", OptionsFile), _keyword("override", Overrides), _keyword("debug", Debug, False)]
        parameters = [*flags.values(), *own, *common]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        paragraphs = [" ".join(text.split()) for text in (inspect.getdoc(main) or "").split("\n\n")]
        command.__doc__ = "\n\n".join([*paragraphs, f"All options: `wmtp options {name}`."])
        return command

    return command_of


def _spelled(parameter: inspect.Parameter) -> str:
    """A flag as it is typed, an argument as help shows it."""
    info = typing.get_args(parameter.annotation)[1]
    names = (info.default, *(info.param_decls or ()))  # typer takes the first name of an annotation for a default
    return next((name for name in names if isinstance(name, str) and name.startswith("--")), parameter.name.upper())


def _set(options: dict[str, Any], place: str, value: object) -> None:
    section, _, name = place.rpartition(".")
    if section and not isinstance(options.get(section), dict):
        options[section] = {}
    (options[section] if section else options)[name] = value


def _flags(schema: type[BaseModel], sections: tuple[str, ...]) -> Iterator[tuple[str, inspect.Parameter]]:
    """The place of each option that has a flag, and what typer makes the flag of."""
    for place in ("", *sections):
        section = next(sections_in(schema.model_fields[place].annotation)) if place else schema
        for option in sorted(next(parts_of(section, place)).options, key=lambda option: option.default is not None):
            field = section.model_fields[option.name.rpartition(".")[2]]
            yield option.name, _parameter(option, field, place)


def _parameter(option: Option, field: FieldInfo, section: str) -> inspect.Parameter:
    spelled = next((item for item in field.metadata if isinstance(item, Flag)), Flag(option.name.rpartition(".")[2]))
    kind = str if _is_comma_list(field.metadata) else _type(field.annotation)
    says = option.description
    if option.default is None:
        says += "" if section else " Must be given."  # a section as a whole may be left out
    elif option.default not in ("null", "[]", "false"):
        says += f" Default: {option.default.strip('[]').replace(chr(34), '')}."
    if not spelled.names:
        return _keyword(option.name, Annotated[kind | None, typer.Argument(help=says)])
    info = typer.Option(*map(flag, spelled.names), help=says, rich_help_panel=section.title() or None)
    if choices := typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ():
        kind, info.metavar, info.autocompletion = str, "|".join(choices), lambda: list(choices)
    return _keyword(option.name.replace(".", "_"), Annotated[kind | None, info])


def _type(annotation: Any) -> Any:
    """The type that typer parses an option as; pydantic checks the rest."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return _type(next(argument for argument in arguments if argument is not types.NoneType))
    if origin is Annotated:
        return str if _is_comma_list(arguments) else _type(arguments[0])
    if origin is tuple:
        return list[_type(arguments[0])]  # type: ignore[misc]
    return str if annotation is datetime.date else annotation


def _is_comma_list(metadata: typing.Iterable[object]) -> bool:
    """Whether an option is `Names`, which is typed as one text."""
    return any(isinstance(item, BeforeValidator) for item in metadata)


def _keyword(name: str, annotation: Any, default: object = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
