"""References in the sandbox: the values that they return."""

import pytest

from weighted_mtp.errors import UserError
from weighted_mtp.sandbox.reference import ReferenceRunner


@pytest.fixture(scope="module")
def reference():
    with ReferenceRunner() as runner:
        yield runner


def test_values_come_back_as_they_were_returned(reference):
    program = "import re\n\ndef f(x):\n    return re.match('a', 'a') if x is None else (x, {str(x)}, 10**5000)\n"
    first, second = reference(program, "f", ["(2,)", "(None,)"])
    assert first == (2, {"2"}, 10**5000)
    assert type(second) is object


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("def f(x):\n    return 1 // x\n", "call 2: failed: ZeroDivisionError"),
        ("def g(x):\n    return x\n", "call 1: failed: NameError"),
        ("def f(x):\n    return x +\n", "broken"),
        ("import os\ndef f(x):\n    return x or os._exit(0)\n", "does not answer"),
        ("open('/etc/passwd')\n", "refused"),
    ],
)
def test_a_reference_that_does_not_answer_is_an_error(reference, program, says):
    with pytest.raises(UserError, match=says):
        reference(program, "f", ["(1,)", "(0,)"])


def test_the_next_reference_is_answered_all_the_same(reference):
    assert reference("def f(x):\n    return -x\n", "f", ["(1,)", "(0,)"]) == [-1, 0]
