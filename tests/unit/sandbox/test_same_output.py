"""What counts as the expected output, and as the expected value."""

import pytest

from weighted_mtp.data.schema import TestCase
from weighted_mtp.sandbox import Job, SandboxPool
from weighted_mtp.sandbox.same_output import same_output


@pytest.fixture(scope="module")
def pool():
    with SandboxPool(workers=1) as pool:
        yield pool


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("1 2\n3\n", "1\n2 3"),
        ("YES\n", "Yes"),
        ("0.33333333", "0.333333"),
        ("3.0", "3"),
        ("-1E-3", "-0.001"),
        ("", "\n"),
        (".5", "0.5"),
        ("a 1.000001 b", "a 1.0 b"),
    ],
)
def test_white_space_case_and_the_last_digits_do_not_count(printed: str, expected: str) -> None:
    assert same_output(printed, expected)


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("1 2", "1 2 3"),
        ("1", "2"),
        ("0.33335", "0.33333"),
        (str(2**60), str(2**60 + 1)),  # the same double
        ("1000000", "1000000.1"),
        ("nan", "1.0"),
        ("1_0", "10.0"),
        ("0x10", "16.0"),
        ("inf", "1e999"),
        ("yes", "no"),
        ("ß", "SS"),
        ("١.5", "1.5"),  # a digit, but not in ASCII
    ],
)
def test_everything_else_does(printed: str, expected: str) -> None:
    assert not same_output(printed, expected)


@pytest.mark.parametrize(
    ("returned", "expected", "atol", "status"),
    [
        ("0.1 + 0.2", "0.3", 0.0, "failed"),
        ("0.1 + 0.2", "0.3", 1e-6, "passed"),
        ("1.00001", "1.0", 1e-6, "failed"),
        ("1e9 + 50", "1e9", 1e-6, "passed"),  # 1e-7 of the expected value
        ("[1.0000001, (2, 3.0)]", "[1.0, (2, 3)]", 1e-6, "passed"),
        ("(1.0000001,)", "[1.0]", 1e-6, "failed"),
        ("[1.0000001]", "[1.0, 1.0]", 1e-6, "failed"),
        ("1", "1.0000001", 1e-6, "failed"),  # not of one type, and not equal
        ("1", "1.0", 1e-6, "passed"),
        ("['a', 1.0000001]", "['a', 1.0]", 1e-6, "failed"),  # numpy cannot compare these, nor does EvalPlus
        ("float('nan')", "1.0", 1e-6, "failed"),
        ("float('inf')", "1.0", 1e-6, "failed"),
        ("1.0", "1e999", 1e-6, "failed"),
        ("float('inf')", "1e999", 1e-6, "passed"),
        ("1.0000001 + 2j", "(1+2j)", 1e-6, "passed"),
    ],
)
def test_numbers_may_be_off_by_a_tests_tolerance(
    pool: SandboxPool, returned: str, expected: str, atol: float, status: str
) -> None:
    test = TestCase("call", "()", expected, atol=atol)
    assert pool.run_many([Job(f"def f():\n    return {returned}\n", "f", [test])])[0].status == status
