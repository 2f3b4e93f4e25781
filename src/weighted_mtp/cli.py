"""`wmtp`: every task of the framework as one command with help of its own.

A command is imported when it is used, and what it needs when it is called (`pipelines/commands`).
"""

import ast
import functools
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from weighted_mtp.pipelines import commands

COMMANDS = {
    "": {
        "demo": "demo.main",
        "data": "data.main",
        "verify": "verify.main",
        "doctor": "doctor.main",
        "options": "options.main",
        "recipe": "recipe.main",
        "plan": "plan.main",
        "study": "study.main",
        "evaluate": "evaluate.main",
        "generate": "generate.main",
        "label": "label.main",
        "compare": "compare.main",
        "weights": "weights.main",
        "report": "report.main",
    },
    "models": {
        "setup": "models.setup",
        "convert": "models.convert",
        "export": "models.export",
        "push": "models.push",
    },
    "train": {
        "ref-tuning": "train.ref_tuning",
        "critic": "train.critic",
        "baseline": "train.baseline",
        "verifiable": "train.verifiable",
        "rho1": "train.rho1",
        "third-party": "train.third_party",
    },
    "configs": {
        "list": "configs.show",
        "copy": "configs.copy",
    },
}
"""Group → command → its function in `pipelines/commands`."""


class _Command(TyperCommand):
    """A command that is imported when it is used; a list of commands only reads its docstring."""

    def __init__(self, name: str, function: str) -> None:
        super().__init__(name)
        self.module, _, self.function = function.partition(".")
        del self.help, self.params  # for the properties below

    @functools.cached_property
    def help(self) -> str:  # type: ignore[override]
        return _docstrings(self.module)[self.function]

    @functools.cached_property
    def params(self) -> list[Any]:  # type: ignore[override]
        return self.imported.params

    @functools.cached_property
    def imported(self) -> Any:
        module = import_module(f"{commands.__name__}.{self.module}")
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        alone.command(self.name)(getattr(module, self.function))
        return typer.main.get_command(alone)

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        return self.imported.make_context(*arguments, **options)


@functools.cache
def _docstrings(module: str) -> dict[str, str]:
    """Those of a module's functions."""
    source = Path(*commands.__path__, f"{module}.py").read_text(encoding="utf-8")
    return {
        node.name: ast.get_docstring(node) or "" for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)
    }


class _Group(TyperGroup):
    """The commands that `COMMANDS` has under its name, then the groups in it."""

    def __init__(self, *, name: str, commands: dict[str, Any], **options: Any) -> None:
        own = {command: _Command(command, function) for command, function in COMMANDS[name].items()}
        super().__init__(name=name, commands={**own, **commands}, **options)

    def get_params(self, ctx: Any) -> list[Any]:
        """A group's options, all of them flags: False if not given, since typer imports pydantic to coerce None."""
        params = super().get_params(ctx)
        for flag in params:
            flag.default = flag.default or False
        return params


app = typer.Typer(
    cls=_Group,
    help="Train code models with multi-token prediction in which the tokens that decide whether a program works count "
    "more. Start with `wmtp demo`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for group, about in {
    "models": "Set up models; make a policy with several heads from a causal LM, and the other way.",
    "train": "Train from a YAML configuration; the same command resumes a stopped run.",
    "configs": "The configurations that come with the package.",
}.items():
    app.add_typer(typer.Typer(cls=_Group, help=about, no_args_is_help=True), name=group)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"wmtp {version('weighted-mtp')}")
        raise typer.Exit


@app.callback()
def _common(
    show: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """What every command has: the help above comes from the app itself."""


def main() -> None:
    """Entry point of the `wmtp` command."""
    app()


if __name__ == "__main__":
    main()
