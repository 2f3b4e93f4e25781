"""A model samples answers to a benchmark's problems: `samples.jsonl`."""

import datetime
import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from weighted_mtp.data.prompts import encode_problem, encode_prompt
from weighted_mtp.data.schema import Problem, Solution
from weighted_mtp.data.tables import read_problems, read_solutions
from weighted_mtp.decoding.sample import Drawn, SamplingConfig, sample_batches
from weighted_mtp.evaluation.benchmarks import MBPP_SHOTS, AnswerForm, Benchmark, mbpp_prompt
from weighted_mtp.evaluation.evaluation_folder import EvaluationFolder, collect
from weighted_mtp.evaluation.journal import Journal
from weighted_mtp.evaluation.problems import ProblemSet
from weighted_mtp.evaluation.samples import program_key, write_jsonl
from weighted_mtp.files import sha256
from weighted_mtp.manifest import MANIFEST, files_present, read_manifest
from weighted_mtp.models.adapters import adapted_source, holds_adapters
from weighted_mtp.models.card import CARD
from weighted_mtp.models.checkpoint import Dtype, check_embedded, run_of
from weighted_mtp.models.convert import find_model, load_base
from weighted_mtp.progress import Advance, progress
from weighted_mtp.runtime.distributed import agree, by_first_rank, is_first, of_ranks, rank, ranks


@dataclass(frozen=True)
class Respondent:
    """A model with its tokenizer, the template by which it is asked, and what that takes for today."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    template: str
    day: datetime.date | None = None

    @property
    def form(self) -> AnswerForm:
        """How its answers are to be read."""
        return AnswerForm.COMPLETION if self.template == "plain" else AnswerForm.CHAT


def load_respondent(
    source: Path, template: str | None, dtype: Dtype, device: torch.device, day: datetime.date | None = None
) -> Respondent:
    """The model at `source`, asked as its run was trained where no template is given, else `chat` or `alpaca`.

    day  what a chat template takes for today; today where not given

    Raises UserError as `load_base`.
    """
    model, tokenizer = load_base(str(source), dtype)
    model.to(device).eval()  # type: ignore[arg-type]
    default = "chat" if tokenizer.chat_template else "alpaca"
    return Respondent(model, tokenizer, template or _trained_template(source) or default, day)


def model_checksum(source: Path) -> str:
    """SHA-256 over a model folder's files, or of a `.gguf` file; from a manifest that still fits where there is one.

    Of adapters, also over what they were put on.
    """
    if source.is_file():
        return sha256(source)
    names = sorted(file.name for file in source.iterdir() if file.is_file() and file.name not in (MANIFEST, CARD))
    manifest = read_manifest(source) or {}
    if files_present(source, manifest, names):
        found = [manifest["files"][name]["sha256"] for name in names]
    else:
        with progress("checksums of the model's files", len(names)) as advance:
            found = [_summed(source / name, advance) for name in names]
    if holds_adapters(source):
        found.append(model_checksum(find_model(adapted_source(source))))
    return hashlib.sha256(json.dumps([names, found]).encode()).hexdigest()


def _summed(file: Path, advance: Advance) -> str:
    checksum = sha256(file)
    advance(1)
    return checksum


def draw_samples(
    respondent: Respondent,
    benchmark: Benchmark,
    problems: ProblemSet,
    sampling: SamplingConfig,
    folder: EvaluationFolder,
    data_root: Path,
) -> None:
    """Ask everything that has no answer yet, and write `samples.jsonl`: problems in order, the samples of each in turn.

    Answers are kept a batch at a time, and ranks take the batches in turn. Killed and started again, on any number of
    ranks, it writes the bytes that one undisturbed rank would have written.

    data_root  the prepared datasets: MBPP's own prompt shows problems of another split

    Raises UserError for what cannot be asked (`encode_prompt`, `sample_batches`), and where it cannot be written.
    """
    model, tokenizer, form = respondent.model, respondent.tokenizer, respondent.form
    prompts = [_prompt(respondent, benchmark, problem, data_root) for problem in problems.statements]
    stop = benchmark.stop if form is AnswerForm.COMPLETION else ()
    options = sampling.model_copy(update={"stop": tuple(dict.fromkeys((*stop, *sampling.stop)))})
    with folder.sampling() as journal:
        missing = by_first_rank(lambda: _missing_batches(journal.records, len(prompts), options))
        mine = missing[rank() :: ranks()]
        sizes = _batch_sizes(len(prompts), options)
        total = sum(sizes) - sum(sizes[number] for number in set(missing) - set(mine))
        done = sum(sizes) - sum(sizes[number] for number in missing)
        with progress(f"sampling {benchmark.name}{of_ranks()}", total, done) as advance:
            names = [problem.problem_id for problem in problems.statements]
            drawn = sample_batches(model, tokenizer, prompts, options, mine, advance, names)
            for number, batch in zip(mine, _timed(drawn, advance), strict=True):
                journal.add(_record(benchmark, problems.statements[one.prompt], one, form, number) for one in batch)
    with agree():  # every rank is through
        pass
    with agree():
        if is_first():
            _write_samples(journal.path, problems, folder.samples)


def _missing_batches(records: Iterable[dict[str, Any]], n_prompts: int, options: SamplingConfig) -> list[int]:
    """Numbers of the batches of which not every sample is recorded."""
    found = Counter(batch for batch, _, _ in {_key(record) for record in records})
    return [number for number, size in enumerate(_batch_sizes(n_prompts, options)) if found[number] < size]


def _batch_sizes(n_prompts: int, options: SamplingConfig) -> list[int]:
    total, size = n_prompts * options.n_samples, options.batch_size
    return [min(size, total - start) for start in range(0, total, size)]


def _key(record: dict[str, Any]) -> tuple[int, str, int]:
    return record["batch"], record["task_id"], record["sample"]


def _write_samples(journal: Path, problems: ProblemSet, samples: Path) -> None:
    """Every sample once, in order; then the journals go."""
    collect(journal)
    with Journal(journal) as whole:
        once = {(record["task_id"], record["sample"]): record for record in whole.records}
    order = sorted(once.values(), key=lambda record: (problems.row[record["task_id"]], record["sample"]))
    write_jsonl(samples, ({k: v for k, v in record.items() if k != "batch"} for record in order))
    journal.unlink()


def _timed(batches: Iterator[list[Drawn]], advance: Advance) -> Iterator[list[Drawn]]:
    """The batches, each with a note of its tokens per second."""
    start = time.monotonic()
    for batch in batches:
        tokens, seconds = sum(drawn.completion.n_tokens for drawn in batch), time.monotonic() - start
        advance(0, f"{tokens / seconds:,.0f} tokens/s")
        yield batch
        start = time.monotonic()


def _record(benchmark: Benchmark, problem: Problem, drawn: Drawn, form: AnswerForm, batch: int) -> dict[str, Any]:
    completion = drawn.completion
    extracted = benchmark.extracted(problem, completion.text, form)
    return {
        "batch": batch,
        "task_id": problem.problem_id,
        "sample": drawn.sample,
        **program_key(problem, extracted.program),
        "taken": extracted.how,
        "text": completion.text,
        "tokens": completion.n_tokens,
        "finished": completion.finished,
    }


def _trained_template(source: Path) -> str | None:
    """The template of the run that `source` (the run, or something in it) belongs to."""
    run = run_of(source)
    return None if run is None else yaml.safe_load((run / "config.yaml").read_text())["data"]["template"]


def _prompt(respondent: Respondent, benchmark: Benchmark, problem: Problem, data_root: Path) -> list[int]:
    """MBPP asked `plain` is its authors' three-shot prompt; everything else is what the template makes of it."""
    if benchmark.name == "mbpp" and respondent.template == "plain":
        text = mbpp_prompt(problem, _shots(data_root / "mbpp" / "prompt"))
        name = f"the prompt of {problem.problem_id}"
        ids = encode_prompt(respondent.tokenizer, text, name=name, special_tokens=False)
    else:
        ids = encode_problem(respondent.tokenizer, respondent.template, problem, respondent.day)
    check_embedded(respondent.model, respondent.tokenizer, lambda: max(ids), f"the prompt of {problem.problem_id}")
    return ids


@cache
def _shots(directory: Path) -> tuple[tuple[Problem, Solution], ...]:
    problems = {problem.problem_id: problem for problem in read_problems(directory)}
    solutions = {solution.problem_id: solution for solution in read_solutions(directory)}
    return tuple((problems[name], solutions[name]) for name in MBPP_SHOTS)
