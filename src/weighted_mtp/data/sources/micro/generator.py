"""Problems, tests, right and wrong solutions, and their splits: all of it a function of one seed."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from weighted_mtp.data.schema import Problem, Records, Solution, Span, TestCase
from weighted_mtp.data.sources.micro.composition import Composition, change_one_part, draw, is_worth_asking
from weighted_mtp.data.sources.micro.parts import KINDS, Kind
from weighted_mtp.data.sources.micro.phrasing import phrase
from weighted_mtp.data.sources.micro.programs import ENTRY_POINT, Choices, MicroProgram, draw_choices, render_program
from weighted_mtp.errors import UserError

SPLITS = ("train", "validation", "test", "test_pairs")

_HELD_OUT_SHARE = 0.04  # of all pairs of kinds from different slots: about a fifth of the compositions has one
_PATIENCE = 2_000  # draws in a row without a new composition before the space counts as exhausted
_MUTATIONS = 200  # tries at a neighbour that fails a test


class MicroConfig(BaseModel):
    """What is generated. Two equal configurations give the same bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0
    n_train: int = Field(5_000, ge=1, description="problems to train on")
    n_validation: int = Field(500, ge=1, description="problems to validate on")
    n_test: int = Field(1_000, ge=1, description="problems with compositions that training never shows")
    n_test_pairs: int = Field(300, ge=1, description="problems with pairs of parts that training never shows together")
    n_correct: int = Field(2, ge=1, description="correct solutions per problem")
    n_incorrect: int = Field(2, ge=0, description="incorrect solutions per problem")
    max_filters: int = Field(1, ge=0, le=2, description="filters in one composition")
    max_maps: int = Field(1, ge=0, le=2, description="maps in one composition")
    vocab_size: int = Field(768, ge=300, description="of the tokenizer that is trained on the training split")


@dataclass(frozen=True)
class Mistake:
    """A wrong program and the right one under the same choices."""

    wrong: MicroProgram
    right: MicroProgram
    part: int  # index of the changed part


def generate_micro(config: MicroConfig, on_progress: Callable[[int], None] | None = None) -> dict[str, Records]:
    """Problems and solutions of each split: train, validation, test, test_pairs.

    No composition is in two splits. Pairs of kinds drawn for `test_pairs` occur together in no other split.
    `on_progress` is called once per finished problem.

    Raises UserError if there are fewer compositions than asked for.
    """
    splits: dict[str, Records] = {}
    for split, compositions in split_compositions(config).items():
        problems: list[Problem] = []
        solutions: list[Solution] = []
        for number, composition in enumerate(compositions):
            rng = random.Random(f"micro {config.seed} {composition}")
            problem = make_problem(rng, composition, f"micro/{split}/{number}", split)
            problems.append(problem)
            solutions += _solutions(rng, composition, problem, config)
            if on_progress is not None:
                on_progress(1)
        splits[split] = (problems, solutions)
    return splits


def held_out_pairs(seed: int) -> frozenset[frozenset[Kind]]:
    """The pairs of kinds, from different slots, that occur only in `test_pairs`."""
    slots = list(KINDS)
    pairs = [
        frozenset((a, b))
        for i, slot in enumerate(slots)
        for other in slots[i + 1 :]
        for a in KINDS[slot]
        for b in KINDS[other]
    ]
    return frozenset(random.Random(f"micro pairs {seed}").sample(pairs, round(_HELD_OUT_SHARE * len(pairs))))


def split_compositions(config: MicroConfig) -> dict[str, list[Composition]]:
    """The distinct compositions of each split. Raises UserError if there are fewer than asked for."""
    rng = random.Random(f"micro {config.seed}")
    held_out = held_out_pairs(config.seed)
    n_common = config.n_train + config.n_validation + config.n_test
    common: list[Composition] = []
    held: list[Composition] = []
    seen: set[Composition] = set()
    unproductive = 0
    while len(common) < n_common or len(held) < config.n_test_pairs:
        composition = draw(rng, config.max_filters, config.max_maps)
        unproductive += 1
        if unproductive > _PATIENCE:
            raise UserError(
                f"n_train, n_validation, n_test and n_test_pairs ask for {n_common + config.n_test_pairs} compositions "
                f"and there are hardly more than {len(seen)}: lower them, or raise max_filters or max_maps"
            )
        pool, size = (held, config.n_test_pairs) if composition.kind_pairs & held_out else (common, n_common)
        if len(pool) < size and composition not in seen and is_worth_asking(composition):
            seen.add(composition)
            pool.append(composition)
            unproductive = 0
    rng.shuffle(common)  # short compositions run out early, and would otherwise gather in the first split
    first, second = config.n_train, config.n_train + config.n_validation
    return dict(zip(SPLITS, (common[:first], common[first:second], common[second:], held), strict=True))


def make_problem(rng: random.Random, composition: Composition, problem_id: str, split: str) -> Problem:
    """A phrasing of the composition, and tests with the values that it takes."""
    return Problem(
        problem_id=problem_id,
        source="micro",
        split=split,
        description=phrase(rng, composition),
        entry_point=ENTRY_POINT,
        difficulty=composition.difficulty,
        tests=tuple(TestCase("call", f"({xs!r},)", repr(composition(xs))) for xs in _inputs(rng, composition)),
        time_limit=1.0,
    )


def draw_mistake(
    rng: random.Random, composition: Composition, choices: Choices, tests: tuple[TestCase, ...]
) -> Mistake:
    """A program with one part changed so that it fails at least one of the tests."""
    inputs = [_parse(test.input) for test in tests]
    expected = [test.output for test in tests]
    for _ in range(_MUTATIONS):
        changed, part = change_one_part(rng, composition)
        if any(repr(changed(xs)) != output for xs, output in zip(inputs, expected, strict=True)):
            return Mistake(render_program(changed, choices), render_program(composition, choices), part)
    raise AssertionError(f"the tests see no mistake in {composition}")


def wrong_spans(mistake: Mistake) -> Iterator[tuple[Span, str]]:
    """Where the wrong program differs from the right one, and the right text there: replacing them all fixes it.

    A span begins at the first character that is wrong and is as short as it can be: in `[:3]` for `[:4]` it is the
    3. In `sum(xs)` for `sum(set(xs))` it is the x, which stands where `set(` should; only where a program ends too
    early is it the last character.
    """
    wrong, right = mistake.wrong, mistake.right
    for (start, end), (right_start, right_end) in zip(
        wrong.places[mistake.part], right.places[mistake.part], strict=True
    ):
        bad, good = wrong.code[start:end], right.code[right_start:right_end]
        if bad == good:
            continue
        head = _shared_prefix(bad, good)
        if head == len(bad) and end < len(wrong.code):
            yield Span("wrong", end, end + 1), good[head:] + wrong.code[end]
            continue
        head = min(head, len(bad) - 1)
        tail = _shared_prefix(bad[head + 1 :][::-1], good[head:][::-1])
        yield Span("wrong", start + head, end - tail), good[head : len(good) - tail]


def _inputs(rng: random.Random, composition: Composition) -> Iterator[list[int]]:
    """Lists that mistakes show on: empty, one item, negatives, duplicates, zeros, and long mixed ones.

    The long ones are rich in values at the edges of the filters, where neighbouring filters differ.
    """
    yield []
    yield [rng.randint(-9, 20)]
    yield [rng.randint(-20, -1) for _ in range(6)]
    yield [rng.choice((-4, 3, 7, 12)) for _ in range(9)]
    yield [rng.randint(-9, 20) if place % 3 else 0 for place in range(8)]
    edges = [factor * part.constant + step for part in composition.filters for factor in (1, 2) for step in (-1, 0, 1)]
    for length in (7, 9, 10, 11, 12, 12, 12):
        yield [rng.choice(edges) if edges and rng.random() < 0.4 else rng.randint(-12, 20) for _ in range(length)]


def _solutions(
    rng: random.Random, composition: Composition, problem: Problem, config: MicroConfig
) -> Iterator[Solution]:
    for number in range(config.n_correct):
        program = render_program(composition, draw_choices(rng))
        yield Solution(
            solution_id=f"{problem.problem_id}/correct/{number}",
            problem_id=problem.problem_id,
            code=program.code,
            is_correct=True,
            origin="synthetic",
            spans=_semantic_spans(program),
        )
    for number in range(config.n_incorrect):
        mistake = draw_mistake(rng, composition, draw_choices(rng), problem.tests)
        yield Solution(
            solution_id=f"{problem.problem_id}/incorrect/{number}",
            problem_id=problem.problem_id,
            code=mistake.wrong.code,
            is_correct=False,
            origin="synthetic",
            spans=(*_semantic_spans(mistake.wrong), *(span for span, _ in wrong_spans(mistake))),
        )


def _semantic_spans(program: MicroProgram) -> tuple[Span, ...]:
    places = sorted(place for part in program.places for place in part)
    return tuple(Span("semantic", start, end) for start, end in places)


def _parse(arguments: str) -> list[int]:
    """The list in a test's input, which this module wrote as "([…],)"."""
    return [int(item) for item in arguments[2:-3].split(", ") if item]


def _shared_prefix(a: str, b: str) -> int:
    length = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        length += 1
    return length
