"""`wmtp options`"""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from weighted_mtp.pipelines.command import Debug, user_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from weighted_mtp.options import OptionSection
    from weighted_mtp.section import Section

PAGE = """# Options

Every option of every pipeline, written by `uv run wmtp options --format markdown > docs/OPTIONS.md`. Set one in YAML or
with `--override name=value`; [TRAINING](TRAINING.md) says which matter most, and how an editor completes them.
"""


class Format(StrEnum):
    """How options are shown."""

    text = "text"
    markdown = "markdown"
    json_schema = "json-schema"


def main(
    pipeline: Annotated[
        str | None,
        typer.Argument(help="A training pipeline, or a command. Without it: a list of them."),
    ] = None,
    section: Annotated[str | None, typer.Option("--section", help="Only this section, such as training.")] = None,
    form: Annotated[
        Format, typer.Option("--format", help="json-schema is for editors: see docs/TRAINING.md.")
    ] = Format.text,
    debug: Debug = False,
) -> None:
    """Show all options of a pipeline: name, type, bounds, default and meaning."""
    with user_errors(debug):
        _show(pipeline, section, form)


def _show(pipeline: str | None, section: str | None, form: Format) -> None:
    import json

    from weighted_mtp.errors import UserError
    from weighted_mtp.options import as_markdown, json_schema, parts_of

    if pipeline is None:
        if section is not None or form is Format.json_schema:
            given = "--section" if section is not None else "--format json-schema"
            raise UserError(f"{given} needs a pipeline, such as `wmtp options verifiable`: name one")
        print(page(), end="") if form is Format.markdown else _list()
        return
    name, schema = _named(pipeline)
    if form is Format.json_schema:
        if section is not None:
            raise UserError("--section has no effect with --format json-schema, which is of whole files: leave it out")
        print(json.dumps(json_schema(schema, f"wmtp {name}"), indent=2, ensure_ascii=False))
        return
    parts = list(parts_of(schema))
    if section is not None:
        parts = _section(parts, section, name)
    print(as_markdown(parts, 2), end="") if form is Format.markdown else _tables(parts)


def schemas() -> "dict[str, type[Section]]":
    """Everything that options are read for: the training pipelines, then the commands with options of their own."""
    from weighted_mtp.pipelines.config import COMMANDS
    from weighted_mtp.pipelines.kinds import PIPELINES
    from weighted_mtp.study.config import StudyConfig

    training = {name: pipeline.schema for name, pipeline in PIPELINES.items()}
    return {**training, **COMMANDS, "study": StudyConfig}


def page() -> str:
    """docs/OPTIONS.md."""
    from weighted_mtp.options import as_markdown, parts_of

    written = [PAGE]
    seen: dict[str, str] = {}  # a section's table → the pipeline that has it first
    for name, schema in schemas().items():
        written.append(f"## {name}\n")
        same: dict[str, list[str]] = {}
        for part in parts_of(schema):
            table = as_markdown([part], 3)
            if table in seen:
                same.setdefault(seen[table], []).append(f"`{part.name}`")
            else:
                seen[table] = name
                written.append(table)
        written += [
            f"Same as in [{other}](#{other}): {', '.join(dict.fromkeys(names))}.\n" for other, names in same.items()
        ]
    return "\n".join(written)


def _named(pipeline: str) -> "tuple[str, type[Section]]":
    from weighted_mtp.errors import UserError

    known, name = schemas(), pipeline.replace("-", "_")
    if name not in known:
        raise UserError(f"{pipeline}: no such pipeline{_near(name, known)}")
    return name, known[name]


def _section(parts: "Sequence[OptionSection]", section: str, pipeline: str) -> "list[OptionSection]":
    from weighted_mtp.errors import UserError
    from weighted_mtp.options import under

    names = list(dict.fromkeys(part.name for part in parts if part.name))
    if section not in names:
        raise UserError(f"--section {section}: {pipeline} has no such section{_near(section, names)}")
    return under(parts, section)


def _near(name: str, known: "Iterable[str]") -> str:
    from weighted_mtp.wording import near_names

    return near_names(name, known) or f"; there are: {', '.join(known)}"


def _list() -> None:
    known = schemas()
    width = max(map(len, known))
    for name, schema in known.items():
        print(f"{name:{width}}  {' '.join((schema.__doc__ or '').split())}")
    print("\n`wmtp options NAME` shows the options of one")


def _tables(parts: "Sequence[OptionSection]") -> None:
    """A table per section, as wide as the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from weighted_mtp.options import heading

    console = Console(highlight=False)
    width = max((len(option.name) for part in parts for option in part.options), default=0)
    for part in parts:
        console.print(Text(heading(part), style="bold"))
        console.print(Text(part.description))
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(width=min(width, 36), overflow="fold")
        table.add_column()
        for option in part.options:
            facts = Text(option.facts, style="cyan")
            table.add_row(Text(option.name), Text("\n").join([facts, Text(option.description)]))
        console.print(table)
        console.print()
