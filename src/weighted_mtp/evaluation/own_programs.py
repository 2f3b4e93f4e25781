"""A dataset of a policy's own programs: executed samples of an evaluation, with their verdicts as labels.

It has the form of any prepared dataset, so critics learn from its pairs and policies from its correct programs.
"""

import ast
import io
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from pathlib import Path
from typing import Any

from weighted_mtp.data.index import write_index
from weighted_mtp.data.preparation.registry import NAMES, TRAIN
from weighted_mtp.data.prepared import require_manifest, split_checksums
from weighted_mtp.data.schema import SMALL, Counts, Problem, Solution, Span
from weighted_mtp.data.tables import (
    SplitWriter,
    read_statements,
    read_verdicts,
    stream_problems,
    stream_solutions,
)
from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.config import LabelOptions
from weighted_mtp.evaluation.samples import Sample, read_samples
from weighted_mtp.files import atomic_directory, sha256, writing_to
from weighted_mtp.manifest import Manifest, files_present, made_from, read_manifest, write_manifest
from weighted_mtp.progress import progress
from weighted_mtp.sandbox.messages import UNDECIDED
from weighted_mtp.wording import near_paths

_VERSION = 3  # of this code: raise it with any change that changes what the same results give
_UNDEFINED = re.compile(r"\b(?:NameError|UnboundLocalError): [^']*'(\w+)'")
"""How Python names the variable that is not there."""


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    folder           that `wmtp evaluate` wrote
    dataset          the prepared dataset whose problems were evaluated
    split            of these
    problems_sha256  of the split's file of problems at that time
    config           all options, as its report keeps them
    """

    folder: Path
    dataset: Path
    split: str
    problems_sha256: str
    config: dict[str, Any]

    @property
    def results(self) -> Path:
        return self.folder / "results.jsonl"


def read_evaluation(folder: Path) -> Evaluation:
    """A finished evaluation. Raises UserError if there is none, or its report is damaged."""
    file = folder / "report.json"
    if not file.is_file():
        raise UserError(
            f"{folder} holds no finished evaluation: make one first, with `uv run wmtp evaluate --split {TRAIN} --n 8 "
            f"--temperature 1 --output {folder} …`{near_paths(folder)}"
        )
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        config = report["config"]
        dataset = Path(config["data_root"], config["benchmark"])
        return Evaluation(folder, dataset, str(config["split"]), str(report["problems_sha256"]), config)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged or of another version: evaluate again") from error


def labelled_evaluations(dataset: Path) -> list[Evaluation]:
    """The evaluations that a dataset of own programs was made from, of those that are still there; [] of any other."""
    described = (read_manifest(dataset) or {}).get("evaluations", {}).values()
    folders = [Path(one["folder"]) for group in described for one in group]
    return [read_evaluation(folder) for folder in folders if (folder / "report.json").is_file()]


def executed_programs(evaluation: Evaluation, problems: Sequence[Problem]) -> Iterator[tuple[Solution, bool]]:
    """Every program of an evaluation with its verdict as its label, and whether it ended within the longest answer.

    problems  statements of the split that was evaluated
    """
    of_problem: defaultdict[str, list[Sample]] = defaultdict(list)
    for sample in read_samples(evaluation.results, problems):
        of_problem[sample.problem.problem_id].append(sample)
    for problem in problems:
        samples = of_problem.get(problem.problem_id, [])
        for sample, solution in zip(samples, _solutions(problem, samples), strict=True):
            yield solution, sample.record.get("finished") != "length"


def write_labelled(folder: Path, evaluations: Sequence[Evaluation], options: LabelOptions) -> tuple[Manifest, bool]:
    """Write the programs of evaluations to a dataset folder; returns its manifest, and whether anything had to be done.

    A split holds what was evaluated of the split of that name: its problems, and each program once, labelled by
    whether it passed; one that does not compile is as incorrect as any. Left out, and counted: programs repeated,
    unfinished, undecided, or of both verdicts (a limit of time decided), and problems without a program.

    Raises UserError for evaluations of several datasets, of a split that is not wanted or of problems that are not
    there any more, for a folder that holds another dataset, if no program is left of a split, and for a full disk.
    """
    source, by_split = _one_dataset(evaluations), _by_split(evaluations, options)
    there = _labelled_before(folder)
    checksums = _checksums(require_manifest(source), by_split)
    wanted = {
        "dataset": folder.name,
        "version": _VERSION,
        "options": {"keep_solutions": options.keep_solutions, "keep_unfinished": options.keep_unfinished},
        "source": checksums,
        "evaluations": {split: [_described(e) for e in group] for split, group in by_split.items()},
    }
    if made_from(there, wanted) and files_present(folder, there, there["files"]):
        return there, False
    with writing_to(folder), atomic_directory(folder) as partial:
        copying = _Copying(options)
        counts = {
            split: copying.copy(source / split, partial / split, [e.results for e in group])
            for split, group in by_split.items()
        }
        for split in counts:
            write_index(partial / split)
        made = {"rows_in": copying.rows, "dropped": copying.account(), "splits": counts}
        return write_manifest(partial, {**wanted, **made, "index": {"tokenizer": None}}), True


def _one_dataset(evaluations: Sequence[Evaluation]) -> Path:
    first, *others = evaluations
    for other in others:
        if other.dataset != first.dataset:
            raise UserError(
                f"{other.folder} is an evaluation on {other.dataset}, {first.folder} one on {first.dataset}: "
                "make a dataset of each"
            )
    return first.dataset


def _by_split(evaluations: Sequence[Evaluation], options: LabelOptions) -> dict[str, list[Evaluation]]:
    for evaluation in evaluations:
        if evaluation.split not in options.splits:
            more = ",".join((*options.splits, evaluation.split))
            raise UserError(
                f"{evaluation.folder} is an evaluation on {evaluation.dataset.name}/{evaluation.split}, a split not to "
                f"be learned from: evaluate --split {TRAIN}; or keep it apart, as a split of that name, with "
                f"--splits {more}"
            )
    splits = dict.fromkeys(evaluation.split for evaluation in evaluations)
    return {split: [e for e in evaluations if e.split == split] for split in splits}


def _checksums(manifest: Manifest, by_split: Mapping[str, Sequence[Evaluation]]) -> dict[str, list[str]]:
    """Split → checksums of its files; they hold the problems that were evaluated."""
    checksums = {split: split_checksums(manifest, split) for split in by_split}
    for split, evaluations in by_split.items():
        for evaluation in evaluations:
            if evaluation.problems_sha256 != checksums[split][0]:
                raise UserError(
                    f"{evaluation.folder}: {evaluation.dataset / split} has been rebuilt since, with other problems: "
                    "evaluate again, to another folder"
                )
    return checksums


def _labelled_before(folder: Path) -> Manifest:
    """The manifest of such a dataset in `folder`, {} if there is nothing."""
    if folder.name.removesuffix(SMALL) in NAMES:
        raise UserError(f"{folder}: `uv run wmtp data` makes the dataset of that name; choose another")
    there = read_manifest(folder) or {}
    if folder.exists() and "evaluations" not in there:
        raise UserError(f"{folder} holds something else than programs of evaluations: choose another name")
    return there


def _described(evaluation: Evaluation) -> dict[str, Any]:
    return {"folder": str(evaluation.folder), "sha256": sha256(evaluation.results), "config": evaluation.config}


def authors_differ(split: Path) -> float:
    """The share of a split's pairs in which one program is a policy's and the other is not.

    A critic that sees only such pairs need not look at correctness: it can tell who wrote them (docs/LOG.md).
    """
    solutions = read_verdicts(split, "origin")
    found = Counter((problem, is_correct, origin == "model") for problem, is_correct, origin in solutions)
    pairs: Counter[bool] = Counter()
    for problem in {problem for problem, _, _ in found}:
        for good, bad in product((True, False), repeat=2):
            pairs[good != bad] += found[problem, True, good] * found[problem, False, bad]
    return pairs[True] / pairs.total() if pairs.total() else 0.0


class _Copying:
    """Results → split folders, with an account of every program."""

    def __init__(self, options: LabelOptions) -> None:
        self.options = options
        self.rows = 0
        self._dropped: Counter[str] = Counter()

    def copy(self, source: Path, target: Path, results: Sequence[Path]) -> Counts:
        """Write what `results` hold of the split `source`; returns what the split then holds."""
        statements = read_statements(source)
        samples = self._samples(statements, results)
        rows = [row for row, problem in enumerate(statements) if problem.problem_id in samples]
        known = _known_solutions(source, samples.keys()) if self.options.keep_solutions else lambda _: []
        title = f"labelling {source.parent.name}/{source.name}"
        with SplitWriter(target) as writer, progress(title, len(rows)) as advance:
            for problem in stream_problems(source, rows):
                found = [*known(problem.problem_id), *_solutions(problem, samples[problem.problem_id])]
                if kept := self._distinct(found):
                    writer.add(problem, kept)
                else:
                    self._dropped["problem without a program left"] += 1
                advance(1)
        if not writer.counts["problems"]:
            raise UserError(
                f"{source}: of its evaluation no program is left ({self.account()}): evaluate with a larger "
                "--max-new-tokens, or give --keep-unfinished"
            )
        return writer.counts

    def account(self) -> dict[str, int]:
        """Reason → what was left out for it."""
        return dict(sorted((+self._dropped).items()))

    def _samples(self, statements: Sequence[Problem], results: Sequence[Path]) -> dict[str, list[Sample]]:
        """Problem → its samples in order; of one whose samples were all left out, none."""
        samples: defaultdict[str, list[Sample]] = defaultdict(list)
        for sample in (sample for file in results for sample in read_samples(file, statements)):
            of_problem = samples[sample.problem.problem_id]
            self.rows += 1
            if sample.record.get("finished") == "length" and not self.options.keep_unfinished:
                self._dropped["program cut at the longest answer"] += 1
            elif sample.record.get("status") == UNDECIDED:
                self._dropped["program whose value cannot be compared"] += 1
            else:
                of_problem.append(sample)
        return samples

    def _distinct(self, solutions: Sequence[Solution]) -> list[Solution]:
        """Each program once, none of both labels."""
        alike: defaultdict[tuple[str, str], list[Solution]] = defaultdict(list)
        for solution in solutions:
            alike[solution.language, solution.code].append(solution)
        kept = []
        for group in alike.values():
            if len({solution.is_correct for solution in group}) == 1:
                kept.append(group[0])
                self._dropped["program repeated in its problem"] += len(group) - 1
            else:
                self._dropped["program of both verdicts"] += len(group)
        return kept


def _solutions(problem: Problem, samples: Sequence[Sample]) -> Iterator[Solution]:
    """A problem's samples as solutions."""
    language = "text" if any(test.kind == "answer" for test in problem.tests) else "python3"
    for number, sample in enumerate(samples):
        code = sample.text if sample.is_whole else problem.starter + sample.text
        yield Solution(
            solution_id=f"{problem.problem_id}/sampled/{number}",
            problem_id=problem.problem_id,
            code=code,
            is_correct=sample.record["passed"],
            language=language,
            origin="model",
            spans=_undefined_name(code, sample.record.get("detail", "")),
        )


def _undefined_name(code: str, detail: str) -> tuple[Span, ...]:
    """Where a program that failed for an undefined name first uses it: of all that a program can do wrong, the one
    thing whose place the outcome tells. () for any other outcome."""
    found = _UNDEFINED.search(detail)
    if found is None:
        return ()
    try:
        nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)]
    except (SyntaxError, ValueError, RecursionError):
        return ()
    uses = [(n.lineno, n.col_offset) for n in nodes if n.id == found[1] and isinstance(n.ctx, ast.Load)]
    if not uses:
        return ()
    line, column = min(uses)
    lines = io.StringIO(code, newline="").readlines()  # as Python counts them: a form feed ends none
    start = len("".join(lines[: line - 1])) + len(lines[line - 1].encode()[:column].decode())
    return (Span("wrong", start, start + len(found[1])),)


def _known_solutions(split: Path, wanted: Collection[str]) -> Callable[[str], list[Solution]]:
    """What the split itself holds for a problem, to be read for `wanted` ones in the order of the file."""
    rows = [row for row, (name, _) in enumerate(read_verdicts(split)) if name in wanted]
    groups = groupby(stream_solutions(split, rows), key=lambda solution: solution.problem_id)
    waiting = next(groups, None)

    def of(name: str) -> list[Solution]:
        nonlocal waiting
        if waiting is None or waiting[0] != name:
            return []
        found = list(waiting[1])
        waiting = next(groups, None)
        return found

    return of
