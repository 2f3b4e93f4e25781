"""Help and mistyped commands are answered before anything large is imported."""

import gc
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from weighted_mtp.cli import app
from weighted_mtp.data.preparation.registry import ALL, NAMES
from weighted_mtp.data.schema import Problem, TestCase
from weighted_mtp.data.sources.codecontests import LANGUAGES
from weighted_mtp.data.tables import write_tables
from weighted_mtp.evaluation.benchmarks import BENCHMARKS
from weighted_mtp.manifest import write_manifest
from weighted_mtp.models.catalog import KNOWN
from weighted_mtp.pipelines import setup_datasets, setup_models
from weighted_mtp.pipelines.command import starting
from weighted_mtp.pipelines.config import DatasetsConfig, ModelSetupConfig
from weighted_mtp.sandbox.confinement import offered

LARGE = {"torch", "transformers", "numpy", "scipy", "pyarrow", "matplotlib", "mlflow", "omegaconf", "joblib"}
PROGRAM = """
import sys
from weighted_mtp.cli import app
try:
    app(sys.argv[1:])
except SystemExit:
    pass
print("\\nLOADED", *sorted(sys.modules))
"""


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command by the words that are typed, groups of them included."""
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(app)))
FOLDER = "weighted_mtp.pipelines.commands."


def run(*arguments: str, cwd: Path | None = None) -> tuple[str, set[str]]:
    """What a command says, and the modules that are imported when it has ended."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, cwd=cwd)
    said, _, loaded = done.stdout.rpartition("\nLOADED ")
    assert loaded, done.stderr
    return said + done.stderr, set(loaded.split())


def commands_in(loaded: set[str]) -> set[str]:
    """The modules of commands among those that are imported; `flags` makes flags of a section, with pydantic."""
    return {name.removeprefix(FOLDER) for name in loaded if name.startswith(FOLDER)}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_imports_one_command_and_nothing_large(path: tuple[str, ...]) -> None:
    said, loaded = run(*path, "--help")
    command = getattr(COMMANDS[path], "module", None)
    assert "Usage:" in said
    assert loaded & LARGE == set()
    assert commands_in(loaded) - {"flags"} == ({command} if command else set())
    assert "flags" in commands_in(loaded) or "pydantic" not in loaded
    assert "pydantic.plugin._loader" not in loaded, "help validates nothing"


@pytest.mark.parametrize("path", [path for path in COMMANDS if path], ids=" ".join)
def test_a_list_says_of_a_command_what_its_own_help_does(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    imported = getattr(command, "imported", command)
    assert first_paragraph(command.help) == first_paragraph(imported.help) != ""


def first_paragraph(text: str) -> str:
    return text.partition("\n\n")[0]


@pytest.mark.parametrize(
    "arguments", [["evaluat"], ["evaluate", "--nothing"], ["train", "critic"], ["study", "--config"]], ids=" ".join
)
def test_a_mistyped_command_imports_nothing_large(arguments: list[str]) -> None:
    said, loaded = run(*arguments)
    assert "Error" in said
    assert loaded & LARGE == set()


def test_a_command_that_is_not_there_imports_none() -> None:
    said, loaded = run("evaluat")
    assert "Did you mean 'evaluate'?" in said
    assert commands_in(loaded) == set()
    assert "pydantic" not in loaded


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["compare", "a", "b"], "holds no results.jsonl"),
        (["weights"], "give either --critic"),
        (["evaluate", "--samples", "x", "--benchmark", "humaneval", "--data-root", ".", "--output", "y"], "error:"),
        (["data", "--import", "a", "--name", "b"], "--import a: does not exist"),
    ],
    ids=["compare", "weights", "evaluate --samples", "data"],
)
def test_what_computes_nothing_with_tensors_imports_no_torch(
    tmp_path: Path, arguments: list[str], expected: str
) -> None:
    (tmp_path / "humaneval").mkdir()
    said, loaded = run(*arguments, cwd=tmp_path)
    assert expected in said
    assert "torch" not in loaded


def test_nothing_is_collected_while_a_command_imports(capfd: pytest.CaptureFixture[str]) -> None:
    with starting("a command"):
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0


NOT_FOR_SAMPLES = {"torch", "transformers", "huggingface_hub", "pandas", "joblib", "markdown_it", "omegaconf", "sympy"}


@pytest.mark.skipif(not offered().is_enough, reason="this machine cannot confine programs")
def test_scoring_a_file_of_samples_imports_only_what_it_needs(tmp_path: Path) -> None:
    tests = (TestCase("code", "", "assert f(1) == 2"),)
    problem = Problem("tiny/0", "tiny", "test", "Add one.", "def f(x):\n", "f", tests=tests)
    write_tables(tmp_path / "tiny" / "test", [problem], [])
    write_manifest(tmp_path / "tiny", {"dataset": "tiny"})
    (tmp_path / "samples.jsonl").write_text(json.dumps({"task_id": "tiny/0", "completion": "    return x + 1"}) + "\n")
    options = {"samples": "samples.jsonl", "benchmark": "tiny", "data-root": ".", "output": "out", "workers": "1"}
    given = [word for name, value in options.items() for word in (f"--{name}", value)]
    said, loaded = run("evaluate", *given, cwd=tmp_path)
    assert "pass@1" in said, said
    assert loaded & NOT_FOR_SAMPLES == set()


FIRST_LINE = """
import sys
class Listening:
    def write(self, text):
        print(text, *sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stdout, flush=True)
        raise SystemExit
    def flush(self): ...
    def isatty(self): return False
    def fileno(self): return 2
sys.stderr = Listening()
from weighted_mtp.cli import app
app(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "baseline", "--config", "local/baseline_local"], "train baseline:"),
        (["evaluate", "--checkpoint", "x", "--benchmark", "micro", "--output", "y"], "evaluate:"),
        (["evaluate", "--samples", "x", "--benchmark", "micro", "--output", "y"], "evaluate:"),
        (["data", "--datasets", "micro"], "data:"),
        (["recipe", "mine", "--model", "micro"], "recipe:"),
        (["plan", "--config", "local/baseline_local"], "plan:"),
        (["study", "--config", "local/demo"], "study:"),
        (["demo"], "demo:"),
    ],
)
def test_a_command_says_what_begins_before_it_imports_anything_large(arguments: list[str], says: str) -> None:
    done = subprocess.run([sys.executable, "-c", FIRST_LINE, *arguments], capture_output=True, text=True)
    said, _, loaded = done.stdout.partition("…")
    assert said.startswith(says), done.stdout + done.stderr
    assert set(loaded.split()) & LARGE == set()


def option_help(command: tuple[str, ...], name: str) -> str:
    return next(str(getattr(p, "help", "")) for p in COMMANDS[command].params if p.name == name)


@pytest.mark.parametrize(
    ("command", "option", "names"),
    [
        (("data",), "datasets", NAMES),
        (("data",), "steps", [*setup_datasets.STEPS]),
        (("data",), "keep_languages", LANGUAGES[1:]),
        (("evaluate",), "benchmark", [*BENCHMARKS]),
        (("models", "setup"), "model", [*KNOWN]),
        (("models", "setup"), "steps", setup_models.STEPS),
    ],
)
def test_help_names_all_there_are(command: tuple[str, ...], option: str, names: list[str]) -> None:
    assert [name for name in names if name not in option_help(command, option)] == []


def test_help_says_what_all_is_and_defaults_are_known() -> None:
    assert NAMES[:5] == ALL
    assert set(DatasetsConfig.model_fields["steps"].default) <= setup_datasets.STEPS.keys()
    assert ModelSetupConfig.model_fields["model"].default in KNOWN
