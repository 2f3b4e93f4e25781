"""`wmtp generate`"""

from pathlib import Path
from typing import Annotated

import typer

from weighted_mtp.pipelines.command import Debug, user_errors
from weighted_mtp.pipelines.commands import sampling


def main(
    checkpoint: sampling.Checkpoint = None,
    engine: sampling.Engine = None,
    base_url: sampling.BaseUrl = None,
    model: sampling.Model = None,
    api_key_env: sampling.ApiKeyEnv = None,
    tokenizer: sampling.ServerTokenizer = None,
    request_timeout: sampling.RequestTimeout = None,
    prompt: Annotated[str | None, typer.Option(help="One prompt. Without it and --file they are typed.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="A .jsonl file of objects with a key prompt, or a text file: one prompt.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write completions as JSON lines. Default: standard output.")
    ] = None,
    show_drafts: Annotated[
        bool | None,
        typer.Option("--show-drafts", help="Show which tokens each pass drafted, and which of them were accepted."),
    ] = None,
    template: sampling.Template = None,
    date: sampling.Date = None,
    n_samples: sampling.NSamples = None,
    temperature: sampling.Temperature = None,
    top_p: sampling.TopP = None,
    max_new_tokens: sampling.MaxNewTokens = None,
    batch_size: sampling.BatchSize = None,
    stop: sampling.Stop = None,
    draft: sampling.Draft = None,
    seed: sampling.Seed = None,
    dtype: sampling.Dtype = None,
    debug: Debug = False,
) -> None:
    """Complete one prompt, a file of them, or what is typed, with any model or server."""
    options = {key: value for key, value in locals().items() if key != "debug" and value is not None}
    with user_errors(debug):
        from weighted_mtp.config import validated
        from weighted_mtp.pipelines.generate import GenerateConfig, generate

        generate(validated(GenerateConfig, sampling.sections(options)))
