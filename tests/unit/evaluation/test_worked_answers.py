"""The number that a worked answer ends with."""

import gzip
import json
from decimal import Decimal
from pathlib import Path

import pytest

from weighted_mtp.data.schema import records
from weighted_mtp.data.sources import gsm8k
from weighted_mtp.data.sources.rows import Reading
from weighted_mtp.evaluation.worked_answers import final_number, graded


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 3 + 4 = 7\n#### 7", "7"),
        ("#### 7\nQuestion: 1 + 1? It is 2", "7"),  # the first marked one, whatever follows
        ("#### $1,234.50 a week, of 7 days", "1234.50"),
        ("####18", "18"),
        ("He has 3 apples and 4 pears, 7 in all.", "7"),
        ("The total is $1,000,000.", "1000000"),
        ("A: -12", "-12"),
        ("It costs -$5", "-5"),
        ("a half, .5", ".5"),
        ("**42**", "42"),
        ("\\boxed{42}", "42"),
        ("#### none\nbut 3", "3"),
        ("####\n18 of 20", "18"),
        ("#### **18** dollars of 20", "18"),
        ("#### \\boxed{18} of 20", "18"),
        ("#### Answer: 18 (in 3 days)", "18"),
        ("It costs \u22125", "-5"),
        ("It costs \uff0d5", "-5"),
        ("It is \u20135 degrees", "-5"),
        ("It is (\u2013$5)", "-5"),
        ("#### \u20135 of 3", "-5"),
        ("from 3\u20135", "5"),
        ("3 \u2013 5 is too little", "5"),
        ("3 \u20135", "5"),
        ("of plan A\u20135", "5"),
        ("It is \uff11\uff18.\uff15", "18.5"),
        ("#### \uff04\uff17\uff10\uff0c\uff10\uff10\uff10", "70000"),
        ("a half, \uff0e\uff15", ".5"),
    ],
)
def test_it_is_the_marked_one_or_else_the_last(text: str, number: str) -> None:
    assert final_number(text) == Decimal(number)


SEPARATORS = [
    "{,}",
    r"\,",
    r"\!",
    r"\;",
    r",\!",
    r"{\,}",
    r"\ ",
    r"\text{,}",
    r"\\,",
    "\u00a0",
    "\u202f",
    "\u2009",
    "\u2007",
    ",",
    "~",
    "'",
    "\u2019",
    "_",
    "\uff0c",
    r"\thinspace ",
    r"\thinspace{}",
    r"\thinspace",
    r"\medspace ",
]


@pytest.mark.parametrize("number", [*(f"70{mark}000" for mark in SEPARATORS), r"\$70{,}000", r"70{,}000.00"])
def test_thousands_are_separated_as_latex_does(number: str) -> None:
    for text in (f"The total is {number}.", f"$\\boxed{{{number}}}$ for 3 of them", f"#### {number}\n5 more"):
        assert final_number(text) == 70000


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (r"\boxed{42} apples for 3 days", "42"),
        (r"\boxed{7}, no: \boxed{8} of 9", "8"),
        (r"\boxed{\text{18 apples}} in 3 days", "18"),
        (r"\boxed{-\$18} of 20", "-18"),
        (r"\boxed{x = 18} of 20", "18"),
        (r"\boxed{3 \times 6 = 18} of 20", "18"),
        (r"\boxed{} of 20", "20"),
        (r"\boxed{18", "18"),
        (r"\boxed{- 5} of 20", "-5"),
        (r"\boxed{-\ 5} of 20", "-5"),
        (r"\boxed{$- 5$} of 20", "-5"),
        (r"\boxed{x = - \$5} of 20", "-5"),
        (r"\boxed{3 - 5 = - 2} of 20", "-2"),
        (r"\boxed{\frac12} of 20", "0.5"),
        (r"\boxed{\frac{1}{2}} of 20", "0.5"),
        (r"\boxed{\frac 1 2} of 20", "0.5"),
        (r"\boxed{-\dfrac{3}{4}} of 20", "-0.75"),
        (r"\boxed{- \tfrac{3}{4}} of 20", "-0.75"),
        (r"\boxed{x = \frac{1}{2}} of 20", "0.5"),
        (r"\boxed{1\frac{1}{2}} of 20", "1.5"),
        (r"\boxed{$\frac{1,000}{4}$} of 20", "250"),
        (r"\boxed{\frac{1}{2}\text{ cups}} of 20", "0.5"),
        (r"\boxed{\frac{1}{2} \text{ of a cup}} of 20", "0.5"),
        (r"\boxed{\text{1/2 cup}} of 20", "0.5"),
        (r"\boxed{\mathbf{\frac{1}{2}}} of 20", "0.5"),
        (r"\boxed{\frac{-1.5}{2}} of 20", "-0.75"),
        (r"\boxed{1 1/2} of 20", "1.5"),
        (r"\boxed{11/2} of 20", "5.5"),
        (r"\boxed{\frac{3}{4}\%} of 20", "0.75"),
        (r"\boxed{1/2} of 20", "0.5"),
        (r"\boxed{1/2 cup} of 20", "0.5"),
        (r"\boxed{-1/2} of 20", "-0.5"),
        (r"\boxed{\frac{6}{2} = 3} of 20", "3"),
    ],
)
def test_a_box_holds_the_answer_whatever_follows(text: str, number: str) -> None:
    assert final_number(text) == Decimal(number)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 1. Add them\n3 + 4 = 7\n#### 2. Say it\nIt is 7.", "7"),
        ("#### 1) Add 3\n#### 2) Take 5\n#### 18\nin 5 days", "18"),
        ("#### 1: Add 3\n#### 7\nin 5 days", "7"),
        ("#### Step 1: add 5\nso it is 18", "18"),
        ("#### 18. That is all, in 3 days", "18"),  # no first heading has this number
        ("#### 1. 5 apples", "5"),
        ("#### 1) $5", "5"),
        ("#### 1. 5 apples were eaten", "1"),  # a sentence may begin with a number, and follow another
        ("#### 1. 5 apples\n#### 2. 3 pears", "1"),
        ("#### 1.5 apples", "1.5"),
        ("#### 9 * 2 = 18", "18"),
        ("#### 5 - 3 = 2 apples", "2"),
        ("#### 36 eggs = 3 dozen", "36"),
    ],
)
def test_a_numbered_heading_is_no_answer_and_a_sum_is_its_result(text: str, number: str) -> None:
    assert final_number(text) == Decimal(number)


@pytest.mark.parametrize(
    "content", [r"\frac{x}{2}", r"\frac{1}{0}", r"\frac{1}{2} + 3", r"2\cdot\frac{1}{2}", r"\frac{\sqrt{2}}{2}"]
)
def test_a_fraction_that_is_no_number_is_none(content: str) -> None:
    assert final_number(rf"\boxed{{{content}}} of 20") is None


@pytest.mark.parametrize("text", ["", "no number", "####", "$", ",", "9" * 101, "٣"])
def test_there_may_be_none(text: str) -> None:
    assert final_number(text) is None


def test_numbers_are_compared_and_not_their_digits() -> None:
    assert graded("#### 5.00", "5").status == "passed"
    outcome = graded("#### 5.01", "5")
    assert (outcome.status, outcome.detail, outcome.test) == ("failed", "answered 5.01, expected 5", 1)
    assert graded("I do not know", "5").detail == "answered no number, expected 5"


def test_references_are_right_and_verdicts_on_models_answers_are_the_published_ones(shared: Path) -> None:
    problems, references = records(gsm8k.read(shared / "gsm8k" / "test.jsonl.gz", Reading(split="test")))
    expected = [problem.tests[0].output for problem in problems]
    assert [graded(s.code, e).status for s, e in zip(references, expected, strict=True)] == ["passed"] * 1319
    with gzip.open(shared / "gsm8k" / "example_model_solutions.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    answers = [(row[m], e) for row, e in zip(rows, expected, strict=True) for m in row if isinstance(row[m], dict)]
    assert len(answers) == 4 * 1319
    assert [graded(a["solution"], e).status == "passed" for a, e in answers] == [a["is_correct"] for a, _ in answers]
