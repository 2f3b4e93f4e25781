"""The notebook's commands are the program's, its paths those of the demo, its other lines Python."""

import json
import shlex
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from weighted_mtp.cli import app
from weighted_mtp.study.demo import demo_config

FILE = Path(__file__).resolve().parents[2] / "examples" / "demo.ipynb"
NAMES = {"STEPS": 2, "SEED": 0}
CELLS = ["".join(cell["source"]) for cell in json.loads(FILE.read_text())["cells"] if cell["cell_type"] == "code"]
STUDY = "storage/runs/demo-seeds-0-2-steps"


def filled(line: str) -> str:
    return line.format(**NAMES, study=STUDY)


COMMANDS = [filled(line[1:]) for cell in CELLS for line in cell.splitlines() if line.startswith("!")]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_one_with_these_options(line: str) -> None:
    program, *arguments = shlex.split(line)
    assert program == "wmtp"
    command = get_command(app)
    while isinstance(command, TyperGroup):
        command = command.commands[arguments.pop(0)]
    command.make_context(command.name, arguments)  # raises UsageError


def test_there_are_commands() -> None:
    assert {line.split()[1] for line in COMMANDS} == {"doctor", "demo", "weights"}


def test_it_looks_where_its_demo_writes() -> None:
    config = demo_config(Path("storage"), NAMES["STEPS"], [NAMES["SEED"]])
    (where,) = (line for cell in CELLS for line in cell.splitlines() if line.startswith("study ="))
    assert (
        eval(where.partition("=")[2], {"Path": Path, **NAMES}) == config.storage / "runs" / config.name == Path(STUDY)
    )
    assert {"critic", "reference", "policy"} <= config.stages.keys()


def test_the_other_lines_are_python() -> None:
    for cell in CELLS:
        compile("\n".join(line for line in cell.splitlines() if not line.startswith("!")), "cell", "exec")


def test_no_output_was_saved_with_it() -> None:
    assert all(not cell.get("outputs") for cell in json.loads(FILE.read_text())["cells"])
