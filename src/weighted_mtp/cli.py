"""`wmtp`: every task of the framework as one command with help of its own.

What a command needs is imported when it is called (`pipelines/commands`).
"""

from typing import Annotated

import typer

from weighted_mtp.pipelines.commands import (
    compare,
    configs,
    data,
    demo,
    doctor,
    evaluate,
    generate,
    label,
    models,
    options,
    plan,
    recipe,
    report,
    study,
    train,
    verify,
    weights,
)

app = typer.Typer(
    help="Train code models with multi-token prediction in which the tokens that decide whether a program works count "
    "more. Start with `wmtp demo`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
of_models = typer.Typer(help="Set up models; make a policy with several heads from a causal LM, and the other way.")
of_training = typer.Typer(help="Train from a YAML configuration; the same command resumes a stopped run.")
of_configurations = typer.Typer(help="The configurations that come with the package.")
app.add_typer(of_models, name="models", no_args_is_help=True)
app.add_typer(of_training, name="train", no_args_is_help=True)
app.add_typer(of_configurations, name="configs", no_args_is_help=True)


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


app.command("demo")(demo.main)
app.command("data")(data.main)
of_models.command("setup")(models.setup)
of_models.command("convert")(models.convert)
of_models.command("export")(models.export)
of_models.command("push")(models.push)
of_configurations.command("list")(configs.show)
of_configurations.command("copy")(configs.copy)
app.command("verify")(verify.main)
app.command("doctor")(doctor.main)
of_training.command("ref-tuning")(train.ref_tuning)
of_training.command("critic")(train.critic)
of_training.command("baseline")(train.baseline)
of_training.command("verifiable")(train.verifiable)
of_training.command("rho1")(train.rho1)
of_training.command("third-party")(train.third_party)
app.command("options")(options.main)
app.command("recipe")(recipe.main)
app.command("plan")(plan.main)
app.command("study")(study.main)
app.command("evaluate")(evaluate.main)
app.command("generate")(generate.main)
app.command("label")(label.main)
app.command("compare")(compare.main)
app.command("weights")(weights.main)
app.command("report")(report.main)


def main() -> None:
    """Entry point of the `wmtp` command."""
    app()


if __name__ == "__main__":
    main()
