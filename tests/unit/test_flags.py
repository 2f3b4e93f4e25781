"""Flags that are made of a section: what a file, `--override` and flags give is merged, in this order."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner, Result

from weighted_mtp.pipelines.commands import flags
from weighted_mtp.pipelines.config import COMMANDS
from weighted_mtp.section import Flag, Names, Section


class Inner(Section):
    """Something in it."""

    rate: Annotated[float, Flag("rate", "inner-rate")] = Field(0.5, gt=0)
    """How fast."""


class Hidden(Section):
    """What has no flags."""

    depth: int = 3
    """How deep."""


class Options(Section):
    """What the command takes."""

    places: Annotated[tuple[Path, ...], Flag()] = ()
    """Where to look."""
    name: str
    """What it is called."""
    steps: Names = ("first", "second")
    """What to do."""
    k: tuple[int, ...] = ()
    """How many."""
    loud: bool = False
    """Say all."""
    inner: Inner = Inner()
    hidden: Hidden = Hidden()


Run = Callable[..., tuple[Result, Options | None]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setitem(COMMANDS, "sample", Options)
    given: list[Options] = []

    @flags.takes("sample", "inner")
    def main(config: Options, *, more: Annotated[bool, typer.Option("--more", help="And this.")] = False) -> None:
        """Do it.

        Lines of a paragraph
        are joined.
        """
        given.append(config)
        print(f"more={more}")

    app = typer.Typer()
    app.command()(main)

    def run(*arguments: object) -> tuple[Result, Options | None]:
        given.clear()
        result = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200"})
        return result, given[0] if given else None

    return run


def test_what_is_not_given_is_the_sections_default(run: Run) -> None:
    result, config = run("--name", "x")
    assert config == Options(name="x")
    assert config.model_fields_set == {"name"}
    assert result.stdout == "more=False\n"


def test_a_flag_comes_after_an_override_and_that_after_the_file(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    file.write_text("name: file\nsteps: [a]\ninner: {rate: 1}\nhidden: {depth: 4}\nplaces: [p]\n")
    assert run("--config", file)[1] == Options(
        name="file", steps=("a",), inner=Inner(rate=1), hidden=Hidden(depth=4), places=(Path("p"),)
    )
    _, config = run("--config", file, "--override", "inner.rate=2", "--override", "name=over", "--inner-rate", 3)
    assert config is not None
    assert (config.name, config.inner.rate, config.hidden.depth) == ("over", 3, 4)


def test_values_are_typed_as_the_section_says(run: Run) -> None:
    _, config = run("a", "b", "--name", "${x}: [", "--steps", "one, two", "--k", 1, "--k", 10, "--loud", "--rate", 2)
    assert config == Options(
        name="${x}: [",
        places=(Path("a"), Path("b")),
        steps=("one", "two"),
        k=(1, 10),
        loud=True,
        inner=Inner(rate=2),
    )


def test_help_is_what_the_section_says(run: Run) -> None:
    output = run("--help")[0].stdout
    assert any("Lines of a paragraph are joined." in line for line in output.splitlines())
    said = " ".join(output.replace("│", " ").split())
    for text in (
        "Do it.",
        "wmtp options sample",
        "Where to look.",
        "What it is called. Must be given.",
        "What to do. Default: first, second.",
        "How fast. Default: 0.5.",
        "--rate,--inner-rate",
        "And this.",
        "--config",
        "--override",
    ):
        assert text in said
    assert "How deep." not in said
    assert "--hidden" not in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--loud",), "--name must be given"),
        (("--name", "x", "--rate", "0"), "`inner.rate`: Input should be greater than 0"),
        (("--name", "x", "--override", "hiden.depth=1"), "unknown option `hiden`; the nearest known one is `hidden`"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_option(run: Run, arguments: tuple[str, ...], expected: str) -> None:
    result, _ = run(*arguments)
    (line,) = result.stderr.splitlines()
    assert result.exit_code == 2
    assert line.startswith(f"error: {expected}")


def test_a_mistake_in_a_file_names_the_file(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    file.write_text("name: x\nloud: very\n")
    result, _ = run("--config", file)
    assert result.stderr.startswith(f"error: {file}: `loud`: ")
