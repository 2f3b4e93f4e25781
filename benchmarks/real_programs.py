"""What `real_pairs.py` measures on: real programs with verdicts, in folds by problem, and pairs of them."""

import argparse
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from weighted_mtp.data.batches import Batch, TokenStore, build_store, collate, plan_epoch
from weighted_mtp.data.index import read_index, write_index
from weighted_mtp.data.preparation.prepare import prepare
from weighted_mtp.data.prompts import encode_solutions
from weighted_mtp.data.sampling import PairConfig, sample_pairs
from weighted_mtp.data.schema import Problem, Solution
from weighted_mtp.data.sources.rows import read_rows
from weighted_mtp.data.tables import read_problems, read_solutions, write_tables
from weighted_mtp.models.checkpoint import load_tokenizer
from weighted_mtp.progress import progress

Pairs = dict[str, list[tuple[str, str]]]
"""Problem → (correct, incorrect) programs of it, by id."""

SEED = 0
MAX_TOKENS = 2048  # of a microbatch
PADDING = -1  # no token: what is computed of a row must not depend on how it is padded
VALIDATES = 8  # of so many problems one


@dataclass(frozen=True)
class Task:
    """A problem with its programs, and the fold that holds it out; None if none does."""

    problem: Problem
    solutions: tuple[Solution, ...]
    fold: int | None


@dataclass(frozen=True)
class Source:
    """Where programs come from, and what of them is used.

    read        (its name, folder of data, storage) → its problems
    max_length  tokens of prompt and program together; longer ones are left out
    programs    at most so many correct and so many incorrect ones of a problem
    repairs     whether correct program number n is the repair of incorrect program number n
    """

    name: str
    read: Callable[[str, Path, Path], list[Task]]
    folds: int
    max_length: int
    programs: int
    repairs: bool = False


def own_splits(name: str, data: Path, storage: Path) -> list[Task]:
    """A dataset of the package, prepared in `storage`; fold 0 holds out what is not in its training split."""
    prepare(name, storage, data)
    tasks = []
    for split in ("train", "validation", "test"):
        folder = storage / "datasets" / name / split
        programs: dict[str, list[Solution]] = {}
        for solution in read_solutions(folder):
            programs.setdefault(solution.problem_id, []).append(solution)
        for problem in read_problems(folder):
            tasks.append(Task(problem, tuple(programs.get(problem.problem_id, ())), None if split == "train" else 0))
    return tasks


def codet_humaneval(name: str, data: Path, _storage: Path) -> list[Task]:
    """CodeGen-16B's different programs for HumanEval with their verdicts; five folds, drawn by `SEED`."""
    labels = list(read_rows(data / name / "labels.jsonl", {"task_id": str, "passed": list}))
    asked = list(read_rows(data / name / "codegen16B_samples.jsonl.gz", {"prompt": str, "samples": list}))
    fold_of = np.random.default_rng(SEED).permutation(len(labels)) % 5
    tasks = []
    for label, row, fold in zip(labels, asked, fold_of.tolist(), strict=True):
        problem = Problem(label["task_id"], name, "test", description="", starter=row["prompt"])
        verdicts = dict(zip(row["samples"], label["passed"], strict=True))
        programs = tuple(
            Solution(f"{problem.problem_id}/{number}", problem.problem_id, text, bool(passed), origin="model")
            for number, (text, passed) in enumerate(verdicts.items())
        )
        tasks.append(Task(problem, programs, fold))
    return tasks


SOURCES = {
    source.name: source
    for source in (
        Source("condefects", own_splits, folds=1, max_length=384, programs=1, repairs=True),
        Source("codecontests_pairs", own_splits, folds=1, max_length=384, programs=2),
        Source("codet_humaneval", codet_humaneval, folds=5, max_length=256, programs=6),
    )
}


@dataclass(frozen=True)
class Fold:
    """A fold's data set, written for the package's own pipelines, and what is measured on its test split.

    store  tokens of the held-out programs
    pairs  kind → pairs of them
    """

    root: Path
    dataset: str
    store: TokenStore
    pairs: dict[str, Pairs]

    @cached_property
    def lengths(self) -> dict[str, int]:
        """Tokens of each held-out program, without its prompt."""
        return dict(zip(self.store.sample_ids, (self.store.lengths - self.store.response_start).tolist(), strict=True))


def make_fold(source: Source, number: int, options: argparse.Namespace) -> Fold:
    """Write train, validation and test split of a fold below the output; what is in them is a function of the data."""
    tokenizer = load_tokenizer(options.output / "model")
    tasks = [
        short
        for task in source.read(source.name, options.data, options.output)
        if (short := _chosen(_asked(task, options.statements), tokenizer, source)).solutions
    ]
    seen = [task for task in tasks if task.fold != number]
    order = np.random.default_rng([SEED, number]).permutation(len(seen))
    parts = {
        "train": [seen[i] for i in sorted(order[len(seen) // VALIDATES :])],
        "validation": [seen[i] for i in sorted(order[: len(seen) // VALIDATES])],
        "test": [task for task in tasks if task.fold == number],
    }
    root, dataset = options.output / "datasets", f"{source.name}-fold-{number}"
    for split, part in parts.items():
        write_tables(root / dataset / split, [t.problem for t in part], [s for t in part for s in t.solutions])
        write_index(root / dataset / split, options.output / "model")
    held_out = parts["test"]
    pairs = {"all": all_pairs(held_out, options.pairs_per_problem), "balanced": balanced_pairs(root / dataset / "test")}
    if source.repairs:
        pairs["repairs"] = repairs(held_out)
    examples = encode_solutions(
        tokenizer, "plain", (t.problem for t in held_out), (s for t in held_out for s in t.solutions)
    )
    return Fold(root, dataset, build_store(examples), pairs)


def _asked(task: Task, statements: bool) -> Task:
    """The task as it is asked: without `statements` a contest's problem by its name alone."""
    if statements or task.problem.starter:
        return task
    return replace(task, problem=replace(task.problem, description=task.problem.problem_id.rsplit("/", 1)[-1]))


def _chosen(task: Task, tokenizer: PreTrainedTokenizerBase, source: Source) -> Task:
    """The task with the first programs of each verdict that are not too long together with its prompt."""
    examples = encode_solutions(tokenizer, "plain", [task.problem], task.solutions)
    short = {name for name, example in examples if len(example.input_ids) <= source.max_length}
    fit = [s for s in task.solutions if s.solution_id in short]
    kept = [[s for s in fit if s.is_correct == label][: source.programs] for label in (True, False)]
    return replace(task, solutions=tuple(itertools.chain(*kept)) if all(kept) else ())


def all_pairs(tasks: Iterable[Task], limit: int) -> Pairs:
    """Every correct with every incorrect program of a problem; of more than `limit` that many, drawn at random."""
    pairs = {}
    for number, task in enumerate(tasks):
        labelled = ([s.solution_id for s in task.solutions if s.is_correct == label] for label in (True, False))
        found = list(itertools.product(*labelled))
        if found:
            drawn = np.random.default_rng([SEED, number]).permutation(len(found))[:limit]
            pairs[task.problem.problem_id] = [found[i] for i in sorted(drawn)]
    return pairs


def repairs(tasks: Iterable[Task]) -> Pairs:
    """Each incorrect program with its own repair, where both are there: programs of one number."""
    pairs: Pairs = {}
    for task in tasks:
        there = {s.solution_id for s in task.solutions}
        for name in sorted(there):
            repaired = name.replace("/incorrect/", "/correct/")
            if repaired != name and repaired in there:
                pairs.setdefault(task.problem.problem_id, []).append((repaired, name))
    return pairs


def balanced_pairs(split: Path) -> Pairs:
    """Pairs of a split as a run draws them, unique and balanced by length."""
    index, solutions = read_index(split), read_solutions(split)
    sampled = sample_pairs(index, PairConfig(), SEED)
    pairs: Pairs = {}
    for correct, incorrect in zip(sampled.correct, sampled.incorrect, strict=True):
        pair = (solutions[correct].solution_id, solutions[incorrect].solution_id)
        pairs.setdefault(solutions[correct].problem_id, []).append(pair)
    return pairs


@torch.no_grad()
def asked(ask: Callable[[Batch], Tensor], store: TokenStore, title: str) -> Tensor:
    """(N, …): what a question that gives (B, …) of a batch, padded with `PADDING`, says of a store's programs."""
    batches = plan_epoch(store.lengths, MAX_TOKENS, SEED, 0)
    given = []
    with progress(title, len(batches)) as advance:
        for rows in batches:
            given.append(ask(collate(store, rows, PADDING)))
            advance()
    return torch.cat(given)[torch.from_numpy(np.argsort(np.concatenate(batches)))]
