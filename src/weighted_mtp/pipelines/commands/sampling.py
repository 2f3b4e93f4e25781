"""Options of commands that sample: what from, how, and where it is."""

from typing import Annotated, Any, Literal

import typer

Checkpoint = Annotated[
    str | None, typer.Option(help="Model to sample from: run, checkpoint, model folder, .gguf file or hub id.")
]
Engine = Annotated[
    Literal["torch", "vllm"] | None,
    typer.Option(help="What samples from it: torch, the default and reference, or vllm."),
]
BaseUrl = Annotated[
    str | None, typer.Option(help="Or an OpenAI-compatible server to sample from, as http://127.0.0.1:8000/v1.")
]
Model = Annotated[str | None, typer.Option(help="The server's name for the model. Default: the only one it serves.")]
ApiKeyEnv = Annotated[str | None, typer.Option(help="Environment variable that holds the server's key.")]
ServerTokenizer = Annotated[
    str | None,
    typer.Option(help="Folder or hub id; renders a server's chat prompts. Default: the server's own chat template."),
]
RequestTimeout = Annotated[
    float | None, typer.Option(help="Longest wait for one answer of the server, seconds; 600 by default.")
]
Template = Annotated[
    str | None, typer.Option(help="How problems are asked: alpaca, plain (a raw prompt to continue) or chat.")
]
Date = Annotated[
    str | None,
    typer.Option(help="Today, to a chat template that names a date. Default: the run's, or that of the first start."),
]
NSamples = Annotated[int | None, typer.Option("--n", "--n-samples", help="Samples of each prompt; 1 by default.")]
Temperature = Annotated[float | None, typer.Option(help="0, the default, is greedy.")]
TopP = Annotated[float | None, typer.Option(help="Nucleus sampling; 1, the default, keeps all tokens.")]
MaxNewTokens = Annotated[int | None, typer.Option(help="Longest answer; 256 tokens by default.")]
BatchSize = Annotated[
    int | None,
    typer.Option(help="Samples decoded together, or requests to a server at a time; 64 by default. Changes no result."),
]
Stop = Annotated[
    list[str] | None,
    typer.Option(help="An answer ends before this text; may be repeated. A benchmark has its own."),
]
Draft = Annotated[
    Literal["heads", "none"] | None,
    typer.Option(
        help="Whether a policy's further heads draft, which changes speed and no token. Default: where a batch is so "
        "small that it is faster."
    ),
]
Seed = Annotated[int | None, typer.Option(help="Seed of the sampling; 0 by default.")]
Dtype = Annotated[str | None, typer.Option(help="float32, the default, or bfloat16: faster, and rarely another token.")]

_SAMPLING = ("n_samples", "temperature", "top_p", "max_new_tokens", "batch_size", "stop", "draft", "seed")
_SERVER = {
    "base_url": "base_url",
    "model": "model",
    "api_key_env": "api_key_env",
    "tokenizer": "tokenizer",
    "request_timeout": "timeout_seconds",
}


def sections(options: dict[str, Any]) -> dict[str, Any]:
    """Options as a configuration has them: those of `sampling` and `server` in sections of their own.

    Raises UserError for an option of a server without one.
    """
    from weighted_mtp.errors import UserError

    server = {_SERVER[name]: value for name, value in options.items() if name in _SERVER}
    if server and "base_url" not in server:
        given = next(name for name in options if name in _SERVER)
        raise UserError(f"--{given.replace('_', '-')} has no effect without --base-url: leave it out")
    rest = {name: value for name, value in options.items() if name not in (*_SAMPLING, *_SERVER)}
    sampling = {name: value for name, value in options.items() if name in _SAMPLING}
    return {**rest, "sampling": sampling, **({"server": server} if server else {})}
