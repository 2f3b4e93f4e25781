"""Programs that put something of theirs in the place of what the test uses. The attacks of the package are apart."""

import pytest

from weighted_mtp.data.schema import TestCase


@pytest.mark.parametrize(
    ("program", "test"),
    {
        "a builtin": ("def f(x): return [0]\nset = lambda x: 1", "assert set(f(1)) == set([40961])"),
        "assert's function": ("def f(x): return [0]\nall = lambda x: True", "assert all(x == 40961 for x in f(1))"),
        "a module": (
            "class math:\n    isclose = staticmethod(lambda *a: True)\ndef f(x): return 0",
            "assert math.isclose(f(1), 40961)",
        ),
        "a helper of the context": ("def helper(x): return 0\ndef f(x): return 0", "assert f(1) == helper(1)"),
        "the end of an iteration": ("def f(x): raise StopIteration", "assert list(map(f, [1])) == [1][:0] + [1]"),
        "the comparison's other side": (
            "class A:\n    def __radd__(s, o): return 1\n    def __rsub__(s, o): return 0\ndef f(x): return A()",
            "assert abs(40961 - f(1)) < 1e-6",
        ),
        "a number in the test's arithmetic": (
            "class A:\n    n = 0\n    def __float__(s):\n        A.n += 1\n        return 1.2 if A.n == 1 else 0.0\n"
            "    __index__ = __float__\ndef f(x): return A()",
            "import math\nx = f(1)\nassert abs(6 - 5 * math.pow(x, 1) + math.pow(x, 2)) < 1e-6",
        ),
        "the test's own list": ("def f(x):\n    x.clear()\n    return []", "x = [40961]\nassert f(x) == x"),
        "length and truth": (
            "class A:\n    def __len__(s): return 40961\n    def __bool__(s): return True\ndef f(x): return A()",
            "assert isinstance(f(1), list) and len(f(1)) == 40961",
        ),
    }.values(),
)
def test_a_program_cannot_take_the_place_of_what_the_test_uses(worker, program, test):
    outcome = worker.run(program, TestCase("code", "", test), context="def helper(x):\n    return x + 40960\n")
    assert outcome.status in ("failed", "cannot_be_compared"), outcome
