"""`wmtp`: every task of the framework as one command with help of its own."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from weighted_mtp.models.convert import convert, export_plain
from weighted_mtp.pipelines import demo, run_baseline, run_evaluation, setup_datasets
from weighted_mtp.pipelines.command import Debug, one_line_errors
from weighted_mtp.training.state import newest_model

app = typer.Typer(
    help="Train code models with multi-token prediction in which the tokens that decide whether a program works count "
    "more. Start with `wmtp demo`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
models = typer.Typer(help="Make a policy with several heads from a causal LM, or a causal LM from a policy.")
train = typer.Typer(help="Train a policy from a YAML configuration; the same command resumes a stopped run.")
app.add_typer(models, name="models", no_args_is_help=True)
app.add_typer(train, name="train", no_args_is_help=True)

app.command("demo")(demo.main)
app.command("data")(setup_datasets.main)
train.command("baseline")(run_baseline.main)
app.command("evaluate")(run_evaluation.main)


@models.command("convert")
def models_convert(
    source: Annotated[str, typer.Argument(help="Causal LM: a model folder, a .gguf file or a hub id.")],
    output: Annotated[Path, typer.Argument(help="Folder of the policy that is written.")],
    n_future_tokens: Annotated[int, typer.Option(help="Heads: how many tokens ahead are predicted.")] = 4,
    head_init: Annotated[
        Literal["copy", "random"], typer.Option(help="Extra heads: copies of the last layer, or random ones.")
    ] = "copy",
    seed: Annotated[int, typer.Option(help="Of --head-init random.")] = 0,
    debug: Debug = False,
) -> None:
    """Put prediction heads on any Llama-, Qwen- or Mistral-like causal LM."""
    with one_line_errors(debug):
        policy = convert(source, output, n_future_tokens, head_init, seed=seed)
        parameters = sum(p.numel() for p in policy.parameters()) / 1e6
        print(f"{output}: {policy.config.n_future_tokens} heads, {parameters:.0f} M parameters")


@models.command("export")
def models_export(
    policy: Annotated[Path, typer.Argument(help="Policy folder, as `wmtp models convert` or a run writes it.")],
    output: Annotated[Path, typer.Argument(help="Folder of the causal LM that is written.")],
    debug: Debug = False,
) -> None:
    """Write trunk and head 1 of a policy as an ordinary causal LM, for any other tool."""
    with one_line_errors(debug):
        export_plain(newest_model(policy), output)
        print(output)


def main() -> None:
    """Entry point of the `wmtp` command."""
    app()
