"""A model samples answers to a benchmark's problems: `samples.jsonl`."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from weighted_mtp.data.schema import Problem, Solution
from weighted_mtp.data.tables import read_problems, read_solutions
from weighted_mtp.decoding.config import SamplingConfig
from weighted_mtp.decoding.engine import Prompt
from weighted_mtp.decoding.sample import Drawn
from weighted_mtp.evaluation.benchmarks import MBPP_SHOTS, AnswerForm, Benchmark, mbpp_prompt
from weighted_mtp.evaluation.evaluation_folder import EvaluationFolder, Speed, collect
from weighted_mtp.evaluation.journal import Journal
from weighted_mtp.evaluation.problems import ProblemSet
from weighted_mtp.evaluation.respondents import Respondent
from weighted_mtp.evaluation.samples import program_key, write_jsonl
from weighted_mtp.files import sha256
from weighted_mtp.manifest import MANIFEST, files_present, read_manifest
from weighted_mtp.models.adapters import adapted_source, holds_adapters
from weighted_mtp.models.card import CARD
from weighted_mtp.models.convert import find_model
from weighted_mtp.progress import Advance, progress
from weighted_mtp.runtime.distributed import agree, by_first_rank, is_first, of_ranks, rank, ranks


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

    Answers are kept a unit of the engine's at a time, and ranks take these in turn. Killed and started again, on any
    number of ranks, this process' engine writes the bytes that one undisturbed rank would have written.

    data_root  the prepared datasets: MBPP's own prompt shows problems of another split

    Raises UserError for what cannot be asked (`encode_prompt`, `Engine.draw`), and where it cannot be written.
    """
    engine, form = respondent.engine, respondent.form
    prompts = [_prompt(respondent, benchmark, problem, data_root) for problem in problems.statements]
    stop = benchmark.stop if form is AnswerForm.COMPLETION else ()
    options = sampling.model_copy(update={"stop": tuple(dict.fromkeys((*stop, *sampling.stop)))})
    sizes = _unit_sizes(len(prompts) * options.n_samples, engine.unit(options, len(prompts)))
    with folder.sampling() as journal:
        missing = by_first_rank(lambda: _missing_units(journal.records, sizes))
        mine = missing[rank() :: ranks()]
        total = sum(sizes) - sum(sizes[number] for number in set(missing) - set(mine))
        done = sum(sizes) - sum(sizes[number] for number in missing)
        with progress(f"sampling {benchmark.name}{of_ranks()}", total, done) as advance:
            names = [problem.problem_id for problem in problems.statements]
            for number, seconds, unit in _timed(engine.draw(prompts, options, mine, advance, names), advance):
                kept = {"unit": number, "seconds": seconds / len(unit)}
                journal.add({**kept, **_record(benchmark, problems.statements[one.prompt], one, form)} for one in unit)
    with agree():  # every rank is through
        pass
    with agree():
        if is_first():
            _write_samples(journal.path, problems, folder)


def _missing_units(records: Iterable[dict[str, Any]], sizes: Sequence[int]) -> list[int]:
    """Numbers of the units of which not every sample is recorded."""
    drawn = {(r.get("unit"), r["task_id"], r["sample"]) for r in records}  # an earlier version's records have no unit
    found = Counter(unit for unit, _, _ in drawn)
    return [number for number, size in enumerate(sizes) if found[number] < size]


def _unit_sizes(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]


_OF_JOURNAL = ("unit", "seconds", "passes")  # not samples' own, so that samples.jsonl is the same on any machine


def _write_samples(journal: Path, problems: ProblemSet, folder: EvaluationFolder) -> None:
    """Every sample once, in order, and how fast they came; then the journals go."""
    collect(journal)
    with Journal(journal) as whole:
        once = {(record["task_id"], record["sample"]): record for record in whole.records}
    order = sorted(once.values(), key=lambda record: (problems.row[record["task_id"]], record["sample"]))
    folder.write_speed(Speed.of(order))
    write_jsonl(folder.samples, ({k: v for k, v in record.items() if k not in _OF_JOURNAL} for record in order))
    journal.unlink()


def _timed(units: Iterator[tuple[int, list[Drawn]]], advance: Advance) -> Iterator[tuple[int, float, list[Drawn]]]:
    """The units, each with the seconds since the one before, and with a note of how fast all of them came."""
    start, tokens, passes, seconds = time.monotonic(), 0, 0, 0.0
    for number, unit in units:
        tokens += sum(drawn.completion.n_tokens for drawn in unit)
        passes += sum(drawn.completion.n_passes for drawn in unit)
        before, seconds = seconds, time.monotonic() - start
        advance(0, Speed(tokens=tokens, passes=passes, seconds=seconds).described)
        yield number, seconds - before, unit


def _record(benchmark: Benchmark, problem: Problem, drawn: Drawn, form: AnswerForm) -> dict[str, Any]:
    completion = drawn.completion
    extracted = benchmark.extracted(problem, completion.text, form)
    return {
        "task_id": problem.problem_id,
        "sample": drawn.sample,
        **program_key(problem, extracted.program),
        "taken": extracted.how,
        "text": completion.text,
        "tokens": completion.n_tokens,
        "passes": completion.n_passes,
        "finished": completion.finished,
    }


def _prompt(respondent: Respondent, benchmark: Benchmark, problem: Problem, data_root: Path) -> Prompt:
    """MBPP asked `plain` is its authors' three-shot prompt; everything else is what the template makes of it."""
    if benchmark.name == "mbpp" and respondent.template == "plain":
        text = mbpp_prompt(problem, _shots(data_root / "mbpp" / "prompt"))
        return respondent.continued(text, f"the prompt of {problem.problem_id}")
    return respondent.asked(problem)


@cache
def _shots(directory: Path) -> tuple[tuple[Problem, Solution], ...]:
    problems = {problem.problem_id: problem for problem in read_problems(directory)}
    solutions = {solution.problem_id: solution for solution in read_solutions(directory)}
    return tuple((problems[name], solutions[name]) for name in MBPP_SHOTS)
