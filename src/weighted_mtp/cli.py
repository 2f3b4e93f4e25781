"""`wmtp`: every task of the framework as one command with help of its own."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from weighted_mtp.errors import UserError
from weighted_mtp.models.adapters import export_adapters
from weighted_mtp.models.checkpoint import newest_model
from weighted_mtp.models.convert import convert, export_plain
from weighted_mtp.models.folder import check_model
from weighted_mtp.models.meta import export_meta
from weighted_mtp.pipelines import (
    compare,
    demo,
    doctor,
    label_samples,
    plan,
    run_baseline,
    run_critic,
    run_evaluation,
    run_ref_tuning,
    run_rho1,
    run_study,
    run_third_party,
    run_verifiable,
    setup_datasets,
    setup_models,
    token_weights,
    verify_storage,
)
from weighted_mtp.pipelines.command import Debug, Tokenizer, one_line_errors

app = typer.Typer(
    help="Train code models with multi-token prediction in which the tokens that decide whether a program works count "
    "more. Start with `wmtp demo`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
models = typer.Typer(help="Set up models; make a policy with several heads from a causal LM, and the other way.")
train = typer.Typer(help="Train from a YAML configuration; the same command resumes a stopped run.")
app.add_typer(models, name="models", no_args_is_help=True)
app.add_typer(train, name="train", no_args_is_help=True)

app.command("demo")(demo.main)
app.command("data")(setup_datasets.main)
models.command("setup")(setup_models.main)
app.command("verify")(verify_storage.main)
app.command("doctor")(doctor.main)
train.command("ref-tuning")(run_ref_tuning.main)
train.command("critic")(run_critic.main)
train.command("baseline")(run_baseline.main)
train.command("verifiable")(run_verifiable.main)
train.command("rho1")(run_rho1.main)
train.command("third-party")(run_third_party.main)
app.command("plan")(plan.main)
app.command("study")(run_study.main)
app.command("evaluate")(run_evaluation.main)
app.command("label")(label_samples.main)
app.command("compare")(compare.main)
app.command("weights")(token_weights.main)


@models.command("convert")
def models_convert(
    source: Annotated[
        str, typer.Argument(help="Causal LM: a model folder, run, .gguf file or hub id; or Meta's consolidated.pth.")
    ],
    output: Annotated[Path, typer.Argument(help="Folder of the policy that is written.")],
    n_future_tokens: Annotated[
        int | None, typer.Option(help="Heads: how many tokens ahead are predicted. Default: as stored, else 4.", min=1)
    ] = None,
    head_init: Annotated[
        Literal["copy", "random"], typer.Option(help="Extra heads: copies of the last layer, or random ones.")
    ] = "copy",
    seed: Annotated[int, typer.Option(help="Of --head-init random.", min=0, max=2**32 - 1)] = 0,
    tokenizer: Tokenizer = None,
    debug: Debug = False,
) -> None:
    """Put prediction heads on any Llama-, Qwen-, Mistral-, Gemma- or Phi-like causal LM."""
    with one_line_errors(debug):
        convert(source, output, n_future_tokens or "as stored", head_init, seed=seed, tokenizer=tokenizer)
        print(f"{output}: {check_model(output)}")


@models.command("export")
def models_export(
    policy: Annotated[Path, typer.Argument(help="Policy folder, as `wmtp models convert` or a run writes it.")],
    output: Annotated[Path, typer.Argument(help="Folder that is written.")],
    form: Annotated[
        Literal["plain", "meta", "adapter"],
        typer.Option(
            "--format",
            help="plain: trunk and head 1, for any other tool; meta: consolidated.pth; adapter: of a run with "
            "training.save_lora_only, the adapters of trunk and head 1, for PEFT on the plain model.",
        ),
    ] = "plain",
    tokenizer: Tokenizer = None,
    debug: Debug = False,
) -> None:
    """Write a policy as an ordinary causal LM, as a checkpoint in Meta's format, or its adapters alone."""
    with one_line_errors(debug):
        if form == "meta":
            export_meta(policy, output, tokenizer=tokenizer)
        elif tokenizer is not None:
            raise UserError(f"--tokenizer {tokenizer}: is of use with --format meta alone; leave it out")
        elif form == "adapter":
            export_adapters(newest_model(policy), output)
        else:
            export_plain(policy, output)
        print(output)


def main() -> None:
    """Entry point of the `wmtp` command."""
    app()


if __name__ == "__main__":
    main()
