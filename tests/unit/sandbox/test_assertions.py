"""Assertions whose calls are known beforehand: which those are, and that the verdict is that of a conversation."""

import pytest

from weighted_mtp.data.schema import TestCase
from weighted_mtp.sandbox import Job, Limits, SandboxPool, exchange, interpreter
from weighted_mtp.sandbox.assertions import planned_calls

CHECK = "METADATA = {'author': 'x'}\n\ndef check(candidate):\n    '''All.'''\n    %s\n\ncheck(f)\n"


def planned(*codes, setup=""):
    return planned_calls([TestCase("code", setup, code) for code in codes], "f")


@pytest.mark.parametrize(
    ("code", "calls"),
    [
        ("assert f(1, [2, 'x']) == 3", [["t", 1, ["l", 2, "x"]]]),
        ("assert sorted(f(-1))[0] == f(f_arg := 2)", None),
        (
            "assert abs(f(1.5) - 0.5) < 1e-6 and f({'a': (None,)}) in [1, 2]",
            [["t", 1.5], ["t", ["d", "a", ["t", None]]]],
        ),
        ("assert f(3 * 19 + 1) == f('a' + 'b'), 'said ' + str(f(4))", [["t", 58], ["t", "ab"]]),
        ("got = f(1)\nassert got == 2", [["t", 1]]),
        (CHECK % "assert candidate(1) == 2\n    assert f(2)", [["t", 1], ["t", 2]]),
        ("assert True", []),
        ("x = [1]\nassert f(x) == x", None),
        ("assert f(1)(2) == 3", None),
        ("assert f(x=1) == 2", None),
        ("assert f('a' * 10 ** 10)", None),
        ("assert f(1).real == 1", None),
        ("assert [f(x) for x in [1, 2]]", None),
        ("assert open('x') == f(1)", None),
        ("for x in range(3):\n    assert f(x)", None),
        ("import math\nassert math.isclose(f(1), 2)", None),
        ("f = abs\nassert f(1)", None),
        ("def abs(x):\n    assert x\nassert abs(f(1))", None),
        ("def check(candidate):\n    for _ in [1]:\n        assert candidate(1)\ncheck(f)", None),
        ("def check(candidate):\n    return\ncheck(f)", None),
        ("assert f(1) ==", None),
        ("assert " + "(" * 1000, None),
        ("assert f(1 + 'a')", None),
    ],
)
def test_only_assertions_over_calls_with_literals_are_planned(code, calls):
    assert planned(code) == (None if calls is None else [calls])


def test_one_test_that_is_not_planned_spoils_all():
    assert planned("assert f(1)", "assert f(2)", setup="x = 1") == [[["t", 1]], [["t", 2]]]
    assert planned("assert f(1)", "assert g(2)") is None


@pytest.fixture(scope="module")
def pool():
    with SandboxPool(workers=1) as pool:
        yield pool


COUNTING = "calls = []\ndef f(x):\n    calls.append(x)\n    return len(calls)\n"


@pytest.mark.parametrize(
    ("program", "code", "status"),
    {
        "passes": ("def f(x): return x + 1", CHECK % "assert candidate(1) == 2", "passed"),
        "fails": ("def f(x): return x", CHECK % "assert candidate(1) == 1\n    assert candidate(1) == 2", "failed"),
        "raises": ("def f(x): return 1 / x", "assert f(1) == 1\nassert f(0) == 1", "failed"),
        "fails before it hangs": (
            "def f(x):\n    while x: pass\n    return 1",
            "assert f(0) == 2\nassert f(1) == 1",
            "failed",
        ),
        "hangs": ("def f(x):\n    while x: pass\n    return 1", "assert f(0) == 1\nassert f(1) == 1", "timed_out"),
        "leaves": ("import os\ndef f(x): os._exit(0)", "assert f(1) == 1", "failed"),
        "leaves late": ("import os\ndef f(x): return x or os._exit(0)", "assert f(1) == 1\nassert f(0) == 1", "failed"),
        "a call is skipped": (COUNTING, "assert f(0) == 1 or f(1)\nassert f(2) == 2", "passed"),
        "the last call is skipped": (COUNTING, "assert f(0) == 1 or f(1)", "passed"),
        "a call of the message": (COUNTING, "assert f(0) == 2, f(1)", "failed"),
        "an object of the program": (
            "class A:\n    def __len__(self): return 3\ndef f(x): return A()",
            "assert len(f(1)) == 3",
            "passed",
        ),
        "a generator": ("def f(x): yield x", "assert list(f(1)) == [1]", "passed"),
        "an entry point that is missing": ("def g(x): return 1", "assert f(1) == 1", "failed"),
        "no program": ("def f(x) return 1", "assert f(1) == 1", "broken"),
        "too large an answer": ("def f(x): return 'a' * 2000000", "assert len(f(1)) == 2000000", "failed"),
        "large answers": (
            "def f(x): return 'a' * 700000",
            "assert len(f(1)) == 700000\nassert len(f(2)) == 700000",
            "passed",
        ),
        "the test's own mistake": ("def f(x): return [x]", "assert f(1)[3] == 1", "failed"),
        "a test that would not end": ("def f(x): return 10 ** 18", "assert sum(range(f(1))) == 0", "timed_out"),
    }.values(),
)
def test_the_verdict_is_that_of_a_conversation(pool, monkeypatch, program, code, status):
    limits = Limits(cpu_seconds=0.3 if status == "timed_out" else 5, output_bytes=1 << 20)
    job = Job(program, "f", [TestCase("code", "", code)], limits, "def f(x):\n    '''A stub.'''\n")
    assert planned(code) is not None
    asserted = pool.run_many([job])[0]
    monkeypatch.setattr(exchange, "planned_calls", lambda *_: None)
    rehearsed = pool.run_many([job])[0]
    talked = conversation(pool, monkeypatch, job)
    assert (asserted.status, rehearsed.status, talked.status) == (status,) * 3, (asserted, rehearsed, talked)
    if status == "failed" and "os._exit" not in program and "def f" in program:  # these are said in other words
        assert asserted.detail == rehearsed.detail == talked.detail


def conversation(pool, monkeypatch, job):
    """The outcome if nothing is known beforehand."""
    with monkeypatch.context() as patch:
        patch.setattr(exchange, "_REHEARSED", {})
        patch.setattr(exchange.Exchange, "_rehearsed", lambda _: None)
        return pool.run_many([job])[0]


TALKS_AFTER_ALL = Job(  # its answers, together, are more than a program may send: the player is stopped, and asked anew
    "def f(x): return 'a' * 700000",
    "f",
    [TestCase("code", "", "assert len(f(1)) == 700000\nassert len(f(2)) == 700000")],
    Limits(cpu_seconds=5, output_bytes=1 << 20),
)
NO_PROCESS = 1 << 22  # Linux's numbers end below


def test_a_program_that_ends_while_it_is_stopped_leaves_nothing_to_the_next(pool, monkeypatch):
    monkeypatch.setattr(interpreter, "children", lambda _: [NO_PROCESS])
    assert pool.run_many([TALKS_AFTER_ALL])[0].status == "passed"


def test_a_program_that_could_not_be_stopped_is_not_beside_the_next(pool, monkeypatch):
    stopped = []

    def stop(self):
        stopped.append(self)
        return False

    monkeypatch.setattr(interpreter.ConfinedInterpreter, "stop", stop)
    assert pool.run_many([TALKS_AFTER_ALL])[0].status == "passed"
    assert stopped


LOOP = """
import math, random
def check(candidate):
    for _ in range(20):
        x, y = random.randint(0, 3), [random.random()]
        got = candidate(x, y)
        assert math.isclose(got, x + y[0]), got
check(f)
"""
SAME = "def f(x): return x"
EXPECTED_ERROR = (
    "try:\n    f(-1)\nexcept ValueError:\n    pass\nelse:\n    assert False\nfor x in [1]:\n    assert f(x) == x"
)
CLOCK = "import time\nfor _ in [1]:\n    x = time.perf_counter_ns()\n    assert f(x) == x"


@pytest.mark.parametrize(
    ("program", "code", "status", "talks"),
    {
        "passes": ("def f(x, y): return x + y[0]", LOOP, "passed", False),
        "fails": ("def f(x, y): return x and x + y[0]", LOOP, "failed", False),
        "raises": ("def f(x, y): return 1 / x + y[0]", LOOP, "failed", False),
        "hangs": ("def f(x, y):\n    while x: pass\n    return x + y[0]", LOOP, "timed_out", False),
        "an error is expected": (
            "def f(x):\n    if x < 0: raise ValueError(x)\n    return x",
            EXPECTED_ERROR,
            "passed",
            False,
        ),
        "an expected error does not come": (SAME, EXPECTED_ERROR, "failed", False),
        "an answer is an argument": (SAME, "for x in [1, 2]:\n    assert f(f(x)) == x", "passed", True),
        "an answer decides": (SAME, "for x in range(5):\n    if f(x) == 3: break\nassert f(7) == 7", "passed", True),
        "another function": (SAME + "\ndef g(x): return x", "for x in [1]:\n    assert g(x) == f(x)", "passed", True),
        "an object": ("class A: x = 1\ndef f(x): return A()", "for _ in [1]:\n    assert f(1).x == 1", "passed", True),
        "a function": ("def f(x): return f", "for _ in [1]:\n    assert f(1)(1)(1) is f", "passed", True),
        "the program keeps count": (COUNTING, "for x in [1, 2, 3]:\n    assert f(0) == x", "passed", False),
        "the context computes": (SAME, "for x in [1, 2]:\n    assert f(doubled(x)) == 2 * x", "passed", False),
        "time passes": (SAME, CLOCK, "passed", True),
        "nothing is there": ("x = 1", "for x in [1]:\n    assert f(x) == x", "failed", False),
        "the test leaves": (SAME, "for x in [1]:\n    assert f(x) == x\nraise SystemExit", "failed", True),
        "too many calls": (SAME, "for x in range(1001):\n    assert f(x) == x", "passed", True),
    }.values(),
)
def test_a_rehearsed_test_has_the_verdict_of_a_conversation(pool, monkeypatch, program, code, status, talks):
    context = "def doubled(x):\n    return 2 * x\ndef f(x):\n    '''A stub.'''\n"
    limits = Limits(cpu_seconds=0.3 if status == "timed_out" else 5)
    job = Job(program, "f", [TestCase("code", "", code)], limits, context)
    assert planned(code) is None
    with monkeypatch.context() as patch:
        real, times = exchange.Exchange._conversation, []
        patch.setattr(exchange.Exchange, "_conversation", lambda self: times.append(1) or real(self))
        rehearsed = pool.run_many([job])[0]
    talked = conversation(pool, monkeypatch, job)
    assert (rehearsed.status, talked.status, bool(times)) == (status, status, talks), (rehearsed, talked)
    if program != "x = 1":  # which is said in other words
        assert rehearsed.detail == talked.detail


def test_a_rehearsal_serves_all_programs_of_a_problem(pool, monkeypatch):
    monkeypatch.setattr(exchange, "_REHEARSED", {})
    real, times = exchange.Exchange._rehearsed, []
    monkeypatch.setattr(exchange.Exchange, "_rehearsed", lambda self: times.append(1) or real(self))
    jobs = [Job(f"def f(x, y): return x + y[0] + {n}", "f", [TestCase("code", "", LOOP)]) for n in range(3)]
    assert [outcome.status for outcome in pool.run_many(jobs)] == ["passed", "failed", "failed"]
    assert len(times) == 1


def test_each_test_of_several_is_numbered(pool):
    tests = [TestCase("code", "", "assert f(1) == 1\nassert f(2) == 2"), TestCase("code", "", "assert f(3) == 0")]
    outcome = pool.run_many([Job("def f(x): return x", "f", tests)])[0]
    assert (outcome.status, outcome.test) == ("failed", 2)
    assert "assert f(3) == 0" in outcome.detail
