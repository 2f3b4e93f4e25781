"""The micro benchmark: true by construction, and a function of its seed."""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from weighted_mtp.data.schema import Problem, Records, Solution, Span, TestCase
from weighted_mtp.data.sources.micro import MicroConfig, generate_micro, train_tokenizer, write_micro
from weighted_mtp.data.sources.micro.composition import Composition, change_one_part, draw, is_worth_asking
from weighted_mtp.data.sources.micro.generator import (
    SPLITS,
    draw_mistake,
    held_out_pairs,
    make_problem,
    split_compositions,
    wrong_spans,
)
from weighted_mtp.data.sources.micro.parts import KINDS, PARTS, Part
from weighted_mtp.data.sources.micro.phrasing import phrase
from weighted_mtp.data.sources.micro.programs import draw_choices, render_program
from weighted_mtp.data.tables import read_problems, read_solutions
from weighted_mtp.errors import UserError

TINY = MicroConfig(n_train=12, n_validation=3, n_test=4, n_test_pairs=3, vocab_size=320)


def _run(code: str) -> Any:
    """The function of a program that our own generator wrote."""
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    return namespace["solve"]


def _passes(code: str, problem: Problem) -> bool:
    solve = _run(code)
    return all(repr(solve(*eval(test.input))) == test.output for test in problem.tests)


def _all_solutions(splits: dict[str, Records]) -> Iterator[tuple[Problem, Solution]]:
    for problems, solutions in splits.values():
        by_id = {problem.problem_id: problem for problem in problems}
        for solution in solutions:
            yield by_id[solution.problem_id], solution


def _draw(seed: int) -> tuple[random.Random, Composition]:
    rng = random.Random(seed)
    while not is_worth_asking(composition := draw(rng, 2, 2)):
        pass
    return rng, composition


seeds = st.integers(0, 2**32 - 1)


def test_correct_solutions_pass_every_test(small_micro: dict[str, Records]) -> None:
    wrong = [s.code for problem, s in _all_solutions(small_micro) if s.is_correct and not _passes(s.code, problem)]
    assert wrong == []


def test_incorrect_solutions_fail_a_test(small_micro: dict[str, Records]) -> None:
    right = [s.code for problem, s in _all_solutions(small_micro) if not s.is_correct and _passes(s.code, problem)]
    assert right == []


def test_solutions_carry_a_wrong_span_exactly_when_they_are_incorrect(small_micro: dict[str, Records]) -> None:
    for _, solution in _all_solutions(small_micro):
        assert any(span.kind == "wrong" for span in solution.spans) != solution.is_correct


def test_spans_lie_in_the_code_and_are_not_empty(small_micro: dict[str, Records]) -> None:
    for _, solution in _all_solutions(small_micro):
        assert all(0 <= span.start < span.end <= len(solution.code) for span in solution.spans)


def test_every_wrong_span_touches_a_semantic_one(small_micro: dict[str, Records]) -> None:
    for _, solution in _all_solutions(small_micro):
        semantic = [span for span in solution.spans if span.kind == "semantic"]
        for wrong in (span for span in solution.spans if span.kind == "wrong"):
            assert any(span.start <= wrong.start <= span.end for span in semantic)


@given(seeds)
@settings(max_examples=200, deadline=None)
def test_the_right_text_at_the_wrong_spans_gives_the_right_program(seed: int) -> None:
    rng, composition = _draw(seed)
    tests = _tests_of(composition)
    mistake = draw_mistake(rng, composition, draw_choices(rng), tests)
    code = mistake.wrong.code
    for span, text in reversed(list(wrong_spans(mistake))):
        code = code[: span.start] + text + code[span.end :]
    assert code == mistake.right.code


@given(seeds)
@settings(max_examples=100, deadline=None)
def test_a_program_differs_from_its_right_neighbour_at_the_first_wrong_span(seed: int) -> None:
    rng, composition = _draw(seed)
    mistake = draw_mistake(rng, composition, draw_choices(rng), _tests_of(composition))
    first = next(wrong_spans(mistake))[0]
    assert mistake.wrong.code[: first.start] == mistake.right.code[: first.start]
    if first.end < len(mistake.wrong.code):  # the program does not merely end too early
        assert mistake.wrong.code[: first.start + 1] != mistake.right.code[: first.start + 1]


def _tests_of(composition: Composition) -> tuple[TestCase, ...]:
    """The tests that a problem of this composition would have."""
    return make_problem(random.Random(0), composition, "micro/test/0", "test").tests


@given(seeds)
@settings(max_examples=200, deadline=None)
def test_programs_compute_what_their_composition_means(seed: int) -> None:
    rng, composition = _draw(seed)
    solve = _run(render_program(composition, draw_choices(rng)).code)
    for length in (0, 1, 4, 12):
        xs = [rng.randint(-30, 30) for _ in range(length)]
        assert solve(list(xs)) == composition(xs)


@pytest.mark.parametrize("part", [part for parts in PARTS.values() for part in parts], ids=str)
def test_every_part_means_what_its_code_does(part: Part) -> None:
    identity = Part(KINDS["reducer"][-1], 0)  # in reverse order: keeps every item
    slots = {"slice": None, "filter": (), "map": (), "reducer": identity}
    slots[part.kind.slot] = part if part.kind.slot in ("slice", "reducer") else (part,)
    composition = Composition(slots["slice"], slots["filter"], slots["map"], slots["reducer"])  # type: ignore[arg-type]
    solve = _run(render_program(composition, draw_choices(random.Random(1))).code)
    xs = list(range(-15, 16))
    assert all(solve(xs[:end]) == composition(xs[:end]) for end in range(len(xs) + 1))


def test_tests_cover_empty_single_negative_duplicate_and_zero_lists(small_micro: dict[str, Records]) -> None:
    for problems, _ in small_micro.values():
        for problem in problems:
            lists = [eval(test.input)[0] for test in problem.tests]
            assert 8 <= len(lists) <= 12
            assert [] in lists
            assert any(len(xs) == 1 for xs in lists)
            assert any(xs and max(xs) < 0 for xs in lists)
            assert any(len(set(xs)) < len(xs) for xs in lists)
            assert any(0 in xs for xs in lists)


def test_tests_see_nearly_every_mistake() -> None:
    seen = total = 0
    for seed in range(150):
        rng, composition = _draw(seed)
        tests = _tests_of(composition)
        for _ in range(10):
            changed, _ = change_one_part(rng, composition)
            lists = [[rng.randint(-30, 30) for _ in range(length)] for length in range(3, 15) for _ in range(10)]
            if any(changed(xs) != composition(xs) for xs in lists):
                total += 1
                seen += any(repr(changed(eval(test.input)[0])) != test.output for test in tests)
    assert seen / total > 0.98


def test_descriptions_tell_compositions_apart() -> None:
    said: dict[str, Composition] = {}
    for seed in range(3_000):
        rng = random.Random(seed)
        composition = draw(rng, 2, 2)
        assert said.setdefault(phrase(rng, composition), composition) == composition


def test_splits_have_the_sizes_asked_for(small_micro: dict[str, Records]) -> None:
    assert {split: len(problems) for split, (problems, _) in small_micro.items()} == {
        "train": 120,
        "validation": 20,
        "test": 40,
        "test_pairs": 40,
    }


def test_splits_share_no_composition() -> None:
    splits = split_compositions(TINY)
    compositions = [composition for split in splits.values() for composition in split]
    assert len(compositions) == len(set(compositions)) == 22


def test_held_out_pairs_occur_in_their_split_and_only_there() -> None:
    held_out = held_out_pairs(TINY.seed)
    for split, compositions in split_compositions(TINY).items():
        assert {bool(composition.kind_pairs & held_out) for composition in compositions} == {split == "test_pairs"}


def test_every_kind_of_part_is_still_seen_in_training() -> None:
    train = split_compositions(TINY.model_copy(update={"n_train": 1_500}))["train"]
    assert {part.kind for composition in train for part in composition.parts} == {
        k for ks in KINDS.values() for k in ks
    }


def test_there_are_at_least_twenty_thousand_compositions() -> None:
    rng = random.Random(0)
    drawn = {draw(rng, 1, 1) for _ in range(45_000)}
    worth = sum(is_worth_asking(composition) for composition in rng.sample(sorted(drawn, key=str), 1_000)) / 1_000
    assert worth * len(drawn) > 20_000


def test_asking_for_more_compositions_than_there_are_is_refused() -> None:
    with pytest.raises(UserError, match=r"hardly more than [0-9]+: lower them, or raise max_filters or max_maps"):
        generate_micro(MicroConfig(n_train=100_000, max_filters=0, max_maps=0))


def test_difficulty_is_the_number_of_parts(small_micro: dict[str, Records]) -> None:
    found = {problem.difficulty for problems, _ in small_micro.values() for problem in problems}
    assert found <= set(range(1, 7))
    assert len(found) >= 4


def test_equal_configurations_give_equal_records() -> None:
    assert generate_micro(TINY) == generate_micro(TINY)


def test_records_do_not_depend_on_the_process() -> None:
    program = (
        "from weighted_mtp.data.sources.micro import MicroConfig, generate_micro; "
        "config = MicroConfig(n_train=30, n_validation=3, n_test=3, n_test_pairs=3); "
        "print([(p.description, p.tests) for ps, _ in generate_micro(config).values() for p in ps]); "
        "print([s.code for _, ss in generate_micro(config).values() for s in ss])"
    )

    def printed(hash_seed: str) -> bytes:
        return subprocess.check_output([sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": hash_seed})

    assert printed("1") == printed("2")


def test_another_seed_gives_other_problems() -> None:
    other = generate_micro(TINY.model_copy(update={"seed": 1}))
    mine = {problem.description for problem in generate_micro(TINY)["train"][0]}
    assert len(mine & {problem.description for problem in other["train"][0]}) < 3


def test_progress_tells_of_every_problem() -> None:
    told: list[int] = []
    generate_micro(TINY, told.append)
    assert sum(told) == 22


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ValidationError, match="n_trian"):
        MicroConfig(n_trian=3)  # type: ignore[call-arg]


def _bytes(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def test_one_seed_gives_the_same_bytes_on_disk(tmp_path: Path) -> None:
    assert _bytes(write_micro(tmp_path / "a", TINY)) == _bytes(write_micro(tmp_path / "b", TINY))


def test_what_is_written_is_what_is_generated(tmp_path: Path) -> None:
    directory = write_micro(tmp_path, TINY)
    found = {split: (read_problems(directory / split), read_solutions(directory / split)) for split in SPLITS}
    assert found == generate_micro(TINY)


def test_the_same_configuration_is_not_generated_again(tmp_path: Path) -> None:
    write_micro(tmp_path, TINY)
    told: list[int] = []
    write_micro(tmp_path, TINY, told.append)
    assert told == []


def test_another_configuration_is_generated_over_the_old(tmp_path: Path) -> None:
    write_micro(tmp_path, TINY)
    directory = write_micro(tmp_path, TINY.model_copy(update={"n_train": 7}))
    assert len(read_problems(directory / "train")) == 7


def test_a_deleted_split_is_generated_again(tmp_path: Path) -> None:
    directory = write_micro(tmp_path, TINY)
    shutil.rmtree(directory / "test")
    write_micro(tmp_path, TINY)
    assert len(read_problems(directory / "test")) == TINY.n_test


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), Exception("No space left on device (os error 28)")], ids=repr
)
def test_a_full_disk_is_one_line_and_leaves_the_earlier_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(*_: object) -> None:
        raise error

    directory = write_micro(tmp_path, TINY)
    before = _bytes(directory)
    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", fails)
    with pytest.raises(UserError, match=r"^cannot write .*/micro: No space left on device[^\n]*$"):
        write_micro(tmp_path, TINY.model_copy(update={"n_train": 7}))
    assert _bytes(tmp_path) == {f"micro/{name}": data for name, data in before.items()}


def test_a_damaged_manifest_is_one_line(tmp_path: Path) -> None:
    (write_micro(tmp_path, TINY) / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest.json is damaged: delete the folder"):
        write_micro(tmp_path, TINY)


def test_the_written_tokenizer_is_the_trained_one(tmp_path: Path, small_micro: dict[str, Records]) -> None:
    directory = write_micro(tmp_path, TINY)
    problems, solutions = generate_micro(TINY)["train"]
    trained = train_tokenizer([*(p.description for p in problems), *(s.code for s in solutions)], TINY.vocab_size)
    loaded = AutoTokenizer.from_pretrained(directory / "tokenizer")
    codes = [solution.code for _, solution in _all_solutions(small_micro)]
    assert [loaded.encode(code) for code in codes] == [trained.encode(code) for code in codes]
    assert (loaded.eos_token_id, loaded.pad_token_id) == (trained.eos_token_id, trained.pad_token_id)


@given(st.text())
@settings(deadline=None)
def test_every_text_round_trips(micro_tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = micro_tokenizer.encode(text, split_special_tokens=True)
    assert micro_tokenizer.decode(ids) == text


def test_programs_are_short(small_micro: dict[str, Records]) -> None:
    codes = [solution.code for _, solution in _all_solutions(small_micro)]
    tokenizer = train_tokenizer(codes, 768)
    lengths = sorted(len(tokenizer.encode(code)) for code in codes)
    assert lengths[int(0.95 * len(lengths))] <= 90


def test_semantic_spans_are_in_order_and_apart(small_micro: dict[str, Records]) -> None:
    for _, solution in _all_solutions(small_micro):
        spans: list[Span] = [span for span in solution.spans if span.kind == "semantic"]
        assert all(a.end <= b.start for a, b in pairwise(spans))
