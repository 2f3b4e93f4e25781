"""`wmtp models setup|convert|export|push`"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from weighted_mtp.pipelines.command import Debug, Tokenizer, user_errors
from weighted_mtp.pipelines.commands.flags import takes
from weighted_mtp.pipelines.config import ModelSetupConfig


@takes("models_setup")
def setup(config: ModelSetupConfig) -> None:
    """Set up a model for training: download, convert to safetensors with prediction heads, verify.

    `--model meta-llama-mtp` is Meta's 7B multi-token predictor, `--model ref-sheared-llama` the reference of the same
    vocabulary. Gated models: accept the terms on the model's page, put HF_TOKEN=… into .env.
    """
    from weighted_mtp.pipelines.setup_models import setup

    setup(config)


def convert(
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
    seed: Annotated[int, typer.Option(help="Seed for --head-init random.", min=0, max=2**32 - 1)] = 0,
    tokenizer: Tokenizer = None,
    debug: Debug = False,
) -> None:
    """Put prediction heads on any Llama-, Qwen-, Mistral-, Gemma- or Phi-like causal LM."""
    with user_errors(debug):
        from weighted_mtp.models import convert as conversion
        from weighted_mtp.models.model_folder import check_model

        conversion.convert(source, output, n_future_tokens or "as stored", head_init, seed=seed, tokenizer=tokenizer)
        print(f"{output}: {check_model(output)}")


def export(
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
    """Write a policy as an ordinary causal LM, as a checkpoint in Meta's format, or only its adapters."""
    with user_errors(debug):
        from weighted_mtp.errors import UserError
        from weighted_mtp.models.adapters import export_adapters
        from weighted_mtp.models.checkpoint import newest_model
        from weighted_mtp.models.convert import export_plain
        from weighted_mtp.models.meta import export_meta

        if form == "meta":
            export_meta(policy, output, tokenizer=tokenizer)
        elif tokenizer is not None:
            raise UserError(f"--tokenizer {tokenizer}: is only useful with --format meta; leave it out")
        elif form == "adapter":
            export_adapters(newest_model(policy), output)
        else:
            export_plain(policy, output)
        print(output)


def push(
    folder: Annotated[Path, typer.Argument(help="Policy folder, what `wmtp models export` wrote, checkpoint or run.")],
    repo: Annotated[str, typer.Argument(help="Repository on the hub: OWNER/NAME; made if it is not there.")],
    evaluations: Annotated[
        list[Path] | None,
        typer.Option(
            "--evaluation",
            help="Folder of evaluations of these weights; may be repeated. Default: storage/evaluations.",
        ),
    ] = None,
    licence: Annotated[
        str, typer.Option("--license", help="For the card, such as apache-2.0. Default: that of the base model.")
    ] = "",
    public: Annotated[bool, typer.Option("--public", help="Let everybody read a new repository.")] = False,
    update: Annotated[bool, typer.Option("--update", help="Replace what the repository holds.")] = False,
    debug: Debug = False,
) -> None:
    """Put a policy on the hub, with a card that has its pass@k. Needs a token that may write, as HF_TOKEN=… in .env."""
    with user_errors(debug):
        from weighted_mtp.pipelines.push_model import push_model

        print(
            push_model(folder, repo, evaluations=evaluations or (), licence=licence, private=not public, update=update)
        )
