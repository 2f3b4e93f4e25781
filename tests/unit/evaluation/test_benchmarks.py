"""From a model's text to the program that is scored."""

import pytest

from weighted_mtp.data.preparation.registry import DATASETS
from weighted_mtp.data.schema import Problem, Solution, TestCase
from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.benchmarks import BENCHMARKS, CONTESTS, AnswerForm, Benchmark, benchmark, mbpp_prompt

STARTER = 'from typing import List\n\n\ndef grow(x: int) -> int:\n    """One more."""\n'
FUNCTION = Problem("HumanEval/x", "humaneval", "test", "One more.", starter=STARTER, entry_point="grow",
                   tests=(TestCase("code", "", "assert grow(1) == 2"),))  # fmt: skip
TASK = Problem("mbpp/x", "mbpp", "test", "Write a function to add one.", entry_point="grow", tests=(
    TestCase("code", "", "assert grow(1) == 2", "public"),
    TestCase("code", "", "assert grow(-1) == 0", "generated")))  # fmt: skip
WHOLE = "def grow(x):\n    return x + 1\n"


def program(name: str, problem: Problem, text: str, form: AnswerForm) -> str:
    return benchmark(name).extracted(problem, text, form).program


@pytest.mark.parametrize(
    "after", ["\ndef other():\n    pass", "\nclass A: pass", "\nif x:", "\nprint(grow(1))", "\n# next", "\n```\nDone!"]
)
def test_a_continued_function_ends_where_another_thing_begins(after):
    text = "    if x:\n        # a comment\n        return x + 1\n"
    assert program("humaneval", FUNCTION, text + after, AnswerForm.COMPLETION) == STARTER + text


def test_scoring_uses_a_completion_verbatim():
    text = "    return x + 1\n\ndef other():\n    pass\nprint(1)\n"
    assert BENCHMARKS["humaneval"].job(FUNCTION, text).program == STARTER + text


def test_the_program_of_a_chat_answer_is_extracted() -> None:
    answer = f"Here it is:\n\n```python\n{WHOLE}```\nIt adds one."
    assert program("mbpp", TASK, answer, AnswerForm.CHAT) == WHOLE
    assert program("humaneval", FUNCTION, answer, AnswerForm.CHAT) == f"{STARTER}\n{WHOLE}"


@pytest.mark.parametrize(
    ("name", "text", "form", "how"),
    [
        ("mbpp", f"```\n{WHOLE}```", AnswerForm.CHAT, "last block that defines `grow`"),
        ("mbpp", f"{WHOLE}[DONE]\n", AnswerForm.COMPLETION, "text before '[DONE]'"),
        ("mbpp", f"{WHOLE}\n```\n[DONE]\n", AnswerForm.COMPLETION, "text before '\\n```'"),
        ("mbpp", WHOLE, AnswerForm.COMPLETION, "whole text"),
        ("gsm8k", "It is 2.", AnswerForm.CHAT, "whole answer"),
    ],
)
def test_it_says_how_a_program_was_taken(name: str, text: str, form: AnswerForm, how: str) -> None:
    assert benchmark(name).extracted(TASK, text, form).how == how


def test_mbpp_is_scored_by_the_tests_that_upstream_shows():
    assert [test.output for test in BENCHMARKS["mbpp"].tests(TASK)] == ["assert grow(1) == 2"]
    assert BENCHMARKS["humaneval"].tests(FUNCTION) == FUNCTION.tests


def test_a_problems_own_limits_go_before_the_benchmarks():
    problem = Problem("p", "s", "test", "d", tests=TASK.tests, time_limit=2.5, memory_limit=256 << 20)
    limits = Benchmark("any", time_factor=2.0).job(problem, "").limits
    assert (limits.cpu_seconds, limits.memory_mb) == (5.0, 256)


def test_elapsed_time_leaves_room_for_a_long_cpu_limit():
    problem = Problem("p", "s", "test", "d", tests=TASK.tests, time_limit=10.0)
    limits = BENCHMARKS["codecontests"].job(problem, "").limits
    assert limits.cpu_seconds == 50.0
    assert limits.wall_seconds >= 4 * limits.cpu_seconds


def test_a_worked_answer_is_kept_and_graded_as_a_text():
    problem = Problem("gsm8k/test/0", "gsm8k", "test", "1 + 1?", tests=(TestCase("answer", "", "2"),))
    scored = BENCHMARKS["gsm8k"]
    text = "```python\nprint(3)\n```\nSo it is 2."
    assert scored.extracted(problem, text, AnswerForm.CHAT).program == text
    assert scored.extracted(problem, f"{text}\nQuestion: 1 + 2?", AnswerForm.COMPLETION).program == text
    assert scored.grade(problem, text).status == "passed"
    assert BENCHMARKS["humaneval"].grade(FUNCTION, text) is None


def test_the_few_shot_prompt_is_mbpps():
    shot = (TASK, Solution("s", "mbpp/x", WHOLE, True))
    task = (
        "You are an expert Python programmer, and here is your task: Write a function to add one. "
        "Your code should pass these tests:\n\nassert grow(1) == 2\n[BEGIN]\n"
    )
    assert mbpp_prompt(TASK) == task
    assert mbpp_prompt(TASK, [shot]) == f"{task}{WHOLE}[DONE]\n\n{task}"


def test_a_few_shot_completion_ends_at_its_marker():
    assert program("mbpp", TASK, f"{WHOLE}[DONE]\n\nYou are", AnswerForm.COMPLETION) == WHOLE


def test_an_unknown_benchmark_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"humaneval, humaneval\+, mbpp, mbpp\+, codecontests, gsm8k, micro"):
        benchmark("human_eval")


def test_every_dataset_that_can_be_prepared_says_how_its_programs_are_scored():
    assert set(BENCHMARKS) | set(CONTESTS) == {*DATASETS, "micro"}
