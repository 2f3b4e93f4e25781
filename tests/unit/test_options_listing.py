"""`wmtp options`: every option is shown with what a reader needs, in tables, on the page and to editors."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pydantic import Field
from typer.testing import CliRunner

from weighted_mtp import configurations
from weighted_mtp.cli import app
from weighted_mtp.config import read_options
from weighted_mtp.options import Option, as_markdown, json_schema, parts_of
from weighted_mtp.pipelines.commands.options import page, schemas
from weighted_mtp.section import Section, options_of

ROOT = Path(__file__).resolve().parents[2]


class Inner(Section):
    """Something in it."""

    rates: tuple[float, ...] = (0.5,)
    """How fast."""
    mode: Literal["a", "b"] | None = None
    """Which way | or not."""


class Outer(Section):
    """What holds it."""

    name: str
    """What it is called."""
    steps: int = Field(3, ge=1, lt=2**20)
    """How far."""
    inner: Inner = Inner(rates=(0.25,))
    maybe: Inner | None = None
    many: dict[str, Inner] = {}  # noqa: RUF012


def all_options(schema: type[Section]) -> list[Option]:
    return [option for part in parts_of(schema) for option in part.options]


def test_an_option_has_type_bounds_default_and_the_docstring_below_it() -> None:
    name, steps, rates, mode = all_options(Outer)[:4]
    assert name == Option("name", "text", "", None, "What it is called.")
    assert steps == Option("steps", "integer", "≥ 1, < 2^20", "3", "How far.")
    assert rates == Option("inner.rates", "list of number", "", "[0.25]", "How fast.")  # of this place, not the class
    assert mode == Option("inner.mode", "a | b or null", "", "null", "Which way | or not.")


def test_sections_say_when_they_apply() -> None:
    found = [(part.name, part.condition) for part in parts_of(Outer)]
    assert found == [("", ""), ("inner", ""), ("maybe", "null if not given"), ("many.NAME", "")]


def test_a_bar_does_not_break_a_table() -> None:
    assert r"| `inner.mode` | a \| b or null | `null` | Which way \| or not. |" in as_markdown([*parts_of(Outer)], 2)


@pytest.mark.parametrize("name", schemas())
def test_every_option_is_there_and_described(name: str) -> None:
    found = all_options(schemas()[name])
    assert [option.name for option in found if not option.description] == []
    sections = {part.name.replace(".NAME", "") for part in parts_of(schemas()[name])}
    shown = {option.name.replace(".NAME", "") for option in found}
    assert shown | sections == {*options_of(schemas()[name]), ""}


def test_the_page_is_current() -> None:
    """If it is not: uv run wmtp options --format markdown > docs/OPTIONS.md"""
    assert (ROOT / "docs" / "OPTIONS.md").read_text() == page(), test_the_page_is_current.__doc__


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["options", *arguments], env={"COLUMNS": "80"})
    return done.exit_code, done.output


def test_without_a_pipeline_all_are_listed() -> None:
    code, said = run()
    assert code == 0
    assert {line.split()[0] for line in said.partition("\n\n")[0].splitlines()} == {*schemas()}


@pytest.mark.parametrize("name", schemas())
def test_tables_fit_80_columns(name: str) -> None:
    code, said = run(name)
    assert code == 0
    assert max(map(len, said.splitlines())) <= 80
    names = {line.split()[0] for line in said.splitlines() if line.strip()}
    assert [option.name for option in all_options(schemas()[name]) if option.name not in names] == []


def test_one_section_is_shown_by_itself() -> None:
    _, said = run("third-party", "--section", "model.lora")
    assert said.startswith("model.lora (null if not given)\n")
    assert "model.lora.r " in said
    assert "n_future_tokens" not in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["verifible"], "near it: verifiable"),
        (["xyz"], "there are: ref_tuning, critic"),
        (["critic", "--section", "trainin"], "near it: training"),
        (["--section", "training"], "needs a pipeline"),
        (["critic", "--section", "training", "--format", "json-schema"], "no effect"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_shown_is_refused_with_what_can(arguments: list[str], expected: str) -> None:
    code, said = run(*arguments)
    assert code == 2
    assert expected in " ".join(said.split())


def nodes(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from nodes(inner)


def accepts(schema: dict[str, Any], node: dict[str, Any], value: Any) -> bool:
    """Whether a JSON schema takes a value, by the keywords that ours have about structure and type."""
    if "$ref" in node:
        return accepts(schema, schema["$defs"][node["$ref"].removeprefix("#/$defs/")], value)
    if "anyOf" in node:
        return any(accepts(schema, choice, value) for choice in node["anyOf"])
    if ("const" in node and value != node["const"]) or ("enum" in node and value not in node["enum"]):
        return False
    if isinstance(value, dict):
        known, others = node.get("properties", {}), node.get("additionalProperties", True)
        return node.get("type") == "object" and all(
            accepts(schema, known[key], inner) if key in known else others is not False for key, inner in value.items()
        )
    types = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", type(None): "null"}
    kind = types.get(type(value), "string")
    return "type" not in node or node["type"] in (kind, "number" if kind == "integer" else kind)


@pytest.mark.parametrize("name", schemas())
def test_the_schema_is_whole(name: str) -> None:
    code, said = run(name, "--format", "json-schema")
    schema = json.loads(said)
    assert code == 0
    references = {node["$ref"] for node in nodes(schema) if isinstance(node.get("$ref"), str)}
    assert references <= {f"#/$defs/{section}" for section in schema.get("$defs", {})}
    assert not any(isinstance(node.get("required"), list) or "oneOf" in node for node in nodes(schema))
    assert {"extends", *schemas()[name].model_fields} == schema["properties"].keys()


@pytest.mark.parametrize("name", configurations.names())
def test_the_schema_takes_our_own_configurations(name: str) -> None:
    file = configurations.find(Path(name))
    pipeline = read_options(file, resolve=False).get("pipeline", "study")
    schema = json_schema(schemas()[pipeline], pipeline)
    options = yaml.safe_load(file.read_text())
    assert accepts(schema, schema, options)
    assert not accepts(schema, schema, {**options, "nonsense": 1})


def test_a_pipelines_help_leads_to_its_options() -> None:
    done = CliRunner().invoke(app, ["train", "third-party", "--help"])
    assert "wmtp options third-party" in " ".join(done.output.split())
