"""Format, lint, types and the direction of imports: part of the tests, so that one command checks everything."""

import ast
import itertools
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "weighted_mtp"

# Data flows one way (docs/ARCHITECTURE.md): a layer imports from those before it, never from those after it. A folder
# that is not named belongs to the layer of the folder around it.
LAYERS = [
    ["errors", "wording", "files", "progress", "parallel", "manifest", "extras", "hub"],
    ["synonyms", "section", "configurations", "config", "options"],
    ["runtime"],
    ["data"],
    ["sandbox"],
    ["models"],
    ["value_weighting"],
    ["losses"],
    ["decoding"],
    ["training"],
    ["evaluation"],
    ["report"],
    ["pipelines"],
    ["memory", "study"],
    ["pipelines/commands"],
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
    """(importing file, imported file), both as paths inside the package without `.py`; but for what a file imports
    only when it is run as a script."""
    files = {str(file.relative_to(PACKAGE).with_suffix("")) for file in PACKAGE.rglob("*.py")}
    found = []
    for name in sorted(files):
        tree = ast.parse((PACKAGE / f"{name}.py").read_text())
        statements = [s for s in tree.body if not (isinstance(s, ast.If) and "__main__" in ast.unparse(s.test))]
        for node in itertools.chain.from_iterable(map(ast.walk, statements)):
            for choices in imported(node, name.rpartition("/")[0]):
                paths = [module.replace(".", "/").removeprefix("weighted_mtp/") for module in choices]
                found += [(name, p) for path in paths for p in (path, f"{path}/__init__") if p in files][:1]
    return found


def imported(node: ast.AST, folder: str) -> list[list[str]]:
    """For each name that a statement in a file of `folder` imports: the modules it may come from, likeliest first."""
    if isinstance(node, ast.Import):
        return [[alias.name] for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    parts = ["weighted_mtp", *folder.split("/")]
    above = ".".join(parts[: len(parts) + 1 - node.level]) if node.level else ""
    base = ".".join(part for part in (above, node.module) if part)
    return [[f"{base}.{alias.name}", base] for alias in node.names]


def layer(path: str) -> int:
    parts = path.split("/")
    return next(FLOOR[key] for n in range(len(parts), 0, -1) if (key := "/".join(parts[:n])) in FLOOR)


def test_imports_point_one_way() -> None:
    wrong = [(file, module) for file, module in imports() if file != "__init__" and layer(file) < layer(module)]
    assert wrong == []
    assert len(imports()) > 500


def test_no_file_imports_itself_through_others() -> None:
    graph: dict[str, set[str]] = {}
    for file, module in imports():
        graph.setdefault(file, set()).add(module)
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the files


# Names of several modules: what plays one role in each. A command has its flags; what it calls has the same name.
ROLES = {
    "read": "of every module in data/sources",
    "run": "of the sandbox, and of both guests that it starts",
    "start": "of the sandbox's confinement, and of both guests",
    "setup": "of a command, and of each pipeline that it calls",
}


def test_a_public_name_stands_for_one_thing() -> None:
    places: dict[str, list[str]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        path = str(file.relative_to(PACKAGE))
        if not path.startswith("pipelines/commands/"):
            for node in ast.parse(file.read_text()).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_":
                    places.setdefault(node.name, []).append(path)
    twice = {name: files for name, files in places.items() if len(files) > 1 and name not in {"main", *ROLES}}
    assert twice == {}
    assert all(len(places[name]) > 1 for name in ROLES)


def test_every_part_of_the_package_has_its_layer() -> None:
    parts = {p.name.removesuffix(".py") for p in PACKAGE.iterdir() if not p.name.startswith("__")}
    assert parts == {name for name in FLOOR if "/" not in name}


def modules_in_the_picture() -> list[str]:
    """The files that docs/ARCHITECTURE.md's tree names, as paths inside the package."""
    tree = (ROOT / "docs" / "ARCHITECTURE.md").read_text().partition("src/weighted_mtp/\n")[2].partition("```")[0]
    folders: list[str] = []
    found = []
    for line in tree.splitlines():
        folders = folders[: (len(line) - len(line.lstrip())) // 2 - 1]
        names = re.split(r"\s{2,}", line.strip())[0]
        if names.endswith("/"):
            folders.append(names)
        else:
            found += ["".join(folders) + name for name in names.split(", ")]
    return found


def test_the_picture_in_the_architecture_names_every_module_once() -> None:
    files = [str(file.relative_to(PACKAGE)) for file in PACKAGE.rglob("*.py") if file.name != "__init__.py"]
    assert sorted(modules_in_the_picture()) == sorted(files)
