"""A model is asked a benchmark's problems; what it answers is `samples.jsonl`."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from weighted_mtp.data.prompts import encode_problem, encode_prompt, instruction_of, render_prompt
from weighted_mtp.data.schema import Problem, Solution
from weighted_mtp.data.tables import read_problems, read_solutions
from weighted_mtp.decoding.engine import Message, Prompt, TorchEngine
from weighted_mtp.decoding.sample import Drawn, SamplingConfig
from weighted_mtp.evaluation.benchmarks import MBPP_SHOTS, AnswerForm, Benchmark, mbpp_prompt
from weighted_mtp.evaluation.folder import EvaluationFolder, collect
from weighted_mtp.evaluation.journal import Journal
from weighted_mtp.evaluation.problems import ProblemSet
from weighted_mtp.evaluation.respondents import Respondent
from weighted_mtp.evaluation.samples import program_key, write_jsonl
from weighted_mtp.files import sha256
from weighted_mtp.manifest import MANIFEST, are_there, read_manifest
from weighted_mtp.models.adapters import adapted_source, holds_adapters
from weighted_mtp.models.card import CARD
from weighted_mtp.models.checkpoint import check_embedded
from weighted_mtp.models.convert import find_model
from weighted_mtp.progress import Advance, progress
from weighted_mtp.runtime.distributed import by_first_rank, is_first, of_ranks, rank, ranks, together


def model_checksum(source: Path) -> str:
    """SHA-256 over a model folder's files, or of a `.gguf` file; from a manifest that still fits where there is one.

    Of adapters, also over what they were put on.
    """
    if source.is_file():
        return sha256(source)
    names = sorted(file.name for file in source.iterdir() if file.is_file() and file.name not in (MANIFEST, CARD))
    manifest = read_manifest(source) or {}
    if are_there(source, manifest, names):
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
    sizes = _unit_sizes(len(prompts) * options.n_samples, engine.unit(options))
    with folder.sampling() as journal:
        missing = by_first_rank(lambda: _missing_units(journal.records, sizes))
        mine = missing[rank() :: ranks()]
        total = sum(sizes) - sum(sizes[number] for number in set(missing) - set(mine))
        done = sum(sizes) - sum(sizes[number] for number in missing)
        with progress(f"sampling {benchmark.name}{of_ranks()}", total, done) as advance:
            names = [problem.problem_id for problem in problems.statements]
            for number, batch in _timed(engine.draw(prompts, options, mine, advance, names), advance):
                journal.add(_record(benchmark, problems.statements[one.prompt], one, form, number) for one in batch)
    with together():  # every rank is through
        pass
    with together():
        if is_first():
            _write_samples(journal.path, problems, folder.samples)


def _missing_units(records: Iterable[dict[str, Any]], sizes: Sequence[int]) -> list[int]:
    """Numbers of the units of which not every sample is recorded."""
    found = Counter(unit for unit, _, _ in {_key(record) for record in records})
    return [number for number, size in enumerate(sizes) if found[number] < size]


def _unit_sizes(total: int, size: int) -> list[int]:
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


def _timed(units: Iterator[tuple[int, list[Drawn]]], advance: Advance) -> Iterator[tuple[int, list[Drawn]]]:
    """The units, each with a note of the tokens per second so far."""
    start, tokens = time.monotonic(), 0
    for number, unit in units:
        tokens += sum(drawn.completion.n_tokens for drawn in unit)
        advance(0, f"{tokens / (time.monotonic() - start):,.0f} tokens/s")
        yield number, unit


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


def _prompt(respondent: Respondent, benchmark: Benchmark, problem: Problem, data_root: Path) -> Prompt:
    """MBPP asked `plain` is its authors' three-shot prompt; everything else is what the template makes of it."""
    shots = benchmark.name == "mbpp" and respondent.template == "plain"
    own = mbpp_prompt(problem, _shots(data_root / "mbpp" / "prompt")) if shots else None
    if respondent.engine.takes_text:
        return own or _text(respondent, problem)
    name, tokenizer = f"the prompt of {problem.problem_id}", respondent.tokenizer
    assert tokenizer is not None
    if own is not None:
        ids = encode_prompt(tokenizer, own, name=name, special_tokens=False)
    else:
        ids = encode_problem(tokenizer, respondent.template, problem, respondent.day)
    if isinstance(respondent.engine, TorchEngine):
        check_embedded(respondent.engine.model, tokenizer, lambda: max(ids), name)
    return ids


def _text(respondent: Respondent, problem: Problem) -> str | Message:
    """A prompt for a server, which tokenizes it, and puts BOS before it if that is what its tokenizer does."""
    template, tokenizer = respondent.template, respondent.tokenizer
    if template == "chat" and tokenizer is None:
        return Message(instruction_of(problem))
    text = render_prompt(template, problem, tokenizer, respondent.day)
    if tokenizer is not None and tokenizer.bos_token and tokenizer.encode("")[:1] == [tokenizer.bos_token_id]:
        return text.removeprefix(tokenizer.bos_token)
    return text


@cache
def _shots(directory: Path) -> tuple[tuple[Problem, Solution], ...]:
    problems = {problem.problem_id: problem for problem in read_problems(directory)}
    solutions = {solution.problem_id: solution for solution in read_solutions(directory)}
    return tuple((problems[name], solutions[name]) for name in MBPP_SHOTS)
