"""Format, lint, types and the direction of imports: part of the tests, so that one command checks everything."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "weighted_mtp"

# Data flows one way (docs/ARCHITECTURE.md): a layer imports from those before it, never from those after it.
LAYERS = [
    ["errors", "files", "progress", "parallel", "manifest", "extras", "hub"],
    ["synonyms", "configurations", "config"],
    ["runtime"],
    ["data"],
    ["models"],
    ["value_weighting"],
    ["losses"],
    ["decoding"],
    ["training"],
    ["evaluation"],
    ["report"],
    ["pipelines"],
    ["cli"],
]
FLOOR = {name: number for number, names in enumerate(LAYERS) for name in names}


@pytest.mark.parametrize(
    "command",
    [["ruff", "format", "--check", "."], ["ruff", "check", "."], ["mypy"]],
    ids=["format", "lint", "types"],
)
def test_the_code_is_clean(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def imports() -> list[tuple[str, str]]:
    """(importing file, imported module of the package)."""
    found = []
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found += [(str(file.relative_to(PACKAGE)), n) for n in names if n.startswith("weighted_mtp.")]
    return found


def layer(name: str) -> str:
    return name.split("/")[0].removesuffix(".py")


def test_imports_point_one_way() -> None:
    wrong = [(file, module) for file, module in imports() if FLOOR[layer(file)] < FLOOR[layer(module.split(".")[1])]]
    assert wrong == []
    assert len(imports()) > 50


def test_every_part_of_the_package_has_its_layer() -> None:
    parts = {layer(p.name) for p in PACKAGE.iterdir() if not p.name.startswith("__")}
    assert parts == set(FLOOR)
