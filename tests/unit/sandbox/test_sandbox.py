"""Outcomes of honest programs: each status, each kind of test, and what a test can do with a program's objects."""

import sys
from collections.abc import Iterator

import pytest

from weighted_mtp.data.schema import TestCase
from weighted_mtp.errors import UserError
from weighted_mtp.sandbox import Job, Limits, SandboxPool, confinement, run, run_many
from weighted_mtp.sandbox.worker import Worker

ADD = "def add(a, b):\n    return a + b\n"


@pytest.fixture(scope="module")
def pool():
    with SandboxPool(workers=1) as pool:
        yield pool


SOON = {"cpu_seconds": 0.3}  # for what time alone stops; a slow machine may take its time over all else


def clock(status):
    return SOON if status == "timed_out" else {}


def outcome_of(pool, program, *tests, entry_point="f", context="", **limits):
    return pool.run_many([Job(program, entry_point, tests, Limits(**limits), context)])[0]


def passes(pool, program, code, **more):
    outcome = outcome_of(pool, program, TestCase("code", "", code), **more)
    assert outcome.status == "passed", outcome
    return outcome


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("def f(x): return x + 1", "passed"),
        ("def f(x): return x", "failed"),
        ("def f(x): return 1 / 0", "failed"),
        ("def g(x): return 2", "failed"),
        ("1 / 0", "failed"),
        ("def f(x) return x", "broken"),
        ("def f(x):\n  return 1\n return 2", "broken"),
        ("x = '\0'", "broken"),
        ("(" * 10_000, "broken"),
        ("def f(x):\n    while True: pass", "timed_out"),
        ("def f(x): return [0] * 10 ** 10", "out_of_memory"),
        ("def f(x): return open('/etc/passwd').read()", "refused"),
    ],
)
@pytest.mark.parametrize("test", [TestCase("call", "(1,)", "2"), TestCase("code", "", "assert f(1) == 2")])
def test_each_outcome_has_its_status(pool, program, status, test):
    outcome = outcome_of(pool, program, test, **clock(status))
    assert outcome.status == status, outcome
    assert (outcome.detail == "") == (status == "passed")


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("print(int(input()) + 1)", "passed"),
        ("import sys\nprint(*[int(x) + 1 for x in sys.stdin.read().split()], sep='\\n\\n')", "passed"),
        ("print(int(open(0).read()) + 1)", "passed"),
        ("import os\nprint(int(os.read(0, 100)) + 1)", "passed"),
        ("if __name__ == '__main__':\n    print(int(input()) + 1)\n    exit()", "passed"),
        ("import threading\nthreading.Thread(target=lambda: print(int(input()) + 1)).start()", "passed"),
        ("import atexit\nx = int(input())\natexit.register(lambda: print(x + 1))", "passed"),
        ("import sys\nwith sys.stdout as out: print(int(input()) + 1, file=out)", "passed"),
        ("import sys\nprint(int(input()) + 1, flush=True)\ndel sys.stdout", "passed"),
        ("print(int(input()))", "failed"),
        ("print(int(input()) + 1)\nexit(3)", "failed"),
        ("print(int(input()) + 1)\nraise KeyError", "failed"),
        ("input()\ninput()", "failed"),
        ("print 1", "broken"),
        ("while True: pass", "timed_out"),
        ("x = [0] * 10 ** 10", "out_of_memory"),
        ("open('/etc/passwd')", "refused"),
    ],
)
def test_scripts_have_the_same_statuses(pool, program, status):
    outcome = outcome_of(pool, program, TestCase("stdio", "41\n", "42\n"), **clock(status))
    assert outcome.status == status, outcome


def test_the_first_test_that_fails_is_named_with_what_came_and_what_was_expected(pool):
    tests = [TestCase("call", "(1, 2)", "3"), TestCase("call", "(2, 2)", "5"), TestCase("call", "(0, 0)", "1")]
    outcome = outcome_of(pool, ADD, *tests, entry_point="add")
    assert "test 2" in outcome.detail
    assert "returned 4, expected 5" in outcome.detail


def test_tests_of_several_kinds_are_numbered_through(pool):
    tests = [TestCase("call", "(1, 2)", "3"), TestCase("code", "", "assert add(1, 1) == 2\nassert add(1, 1) == 3")]
    outcome = outcome_of(pool, ADD, *tests, entry_point="add")
    assert outcome.detail == "test 2: assert add(1, 1) == 3: AssertionError"


def test_the_end_of_what_a_program_printed_is_kept_even_if_it_is_killed(pool):
    program = "def f():\n    for i in range(1000): print('line', i)\n    while True: pass"
    outcome = outcome_of(pool, program, TestCase("call", "()", "1"), cpu_seconds=1)
    assert outcome.status == "timed_out"
    assert outcome.output.endswith("line 999\n")
    assert len(outcome.output) <= 2000


@pytest.mark.parametrize(
    ("returned", "expected"), [("True", "1"), ("1.0", "1"), ("{1: 2}", "{1.0: 2}"), ("0.0", "-0.0")]
)
def test_call_tests_compare_as_python_does(pool, returned, expected):
    assert outcome_of(pool, f"def f(): return {returned}", TestCase("call", "()", expected)).status == "passed"


@pytest.mark.parametrize(
    ("returned", "expected"), [("[1]", "(1,)"), ("float('nan')", "0"), ("'1'", "1"), ("None", "[]")]
)
def test_call_tests_do_not_pass_other_types(pool, returned, expected):
    assert outcome_of(pool, f"def f(): return {returned}", TestCase("call", "()", expected)).status == "failed"


def test_arguments_are_passed_by_value(pool):
    passes(pool, "def f(x): x.clear()", "x = [1]\nf(x)\nassert x == [1]")


def test_a_test_works_with_objects_of_the_program(pool):
    program = """
class Node:
    kind = "node"
    def __init__(self, value): self.value, self.left = value, None
    def __len__(self): return 7
    def __getitem__(self, key): return key * 2
def total(node): return node.value + (total(node.left) if node.left else 0)
def same(a, b): return a is b
def count(n): yield from range(n)
"""
    passes(pool, program, """
root = Node(1)
root.left = Node(2)
assert total(root) == 3 and root.left.value == 2 and len(root) == 7 and root[4] == 8 and root.kind == "node"
assert same(root, root) and not same(root, root.left) and root.left == root.left and root != root.left
assert list(count(3)) == [0, 1, 2]
assert [node.value for node in [root, root.left]] == [1, 2]
""")  # fmt: skip


def test_a_programs_exception_is_raised_in_the_test_as_its_builtin_base(pool):
    program = (
        "class Mine(KeyError): pass\ndef f(x):\n    raise Mine('why') if x else UnicodeDecodeError('a', b'', 0, 1, 'b')"
    )
    passes(pool, program, """
for argument, kind in ((1, KeyError), (0, ValueError)):
    try:
        f(argument)
        assert False
    except kind:
        pass
""")  # fmt: skip


def test_a_function_cannot_be_handed_to_the_program(pool):
    outcome = outcome_of(pool, "def f(g): return g(1)", TestCase("code", "", "assert f(lambda x: x) == 1"))
    assert outcome.status == "cannot_be_compared"
    assert "cannot hand a function to the program" in outcome.detail


def test_the_context_gives_the_test_its_helpers_and_the_program_takes_the_stubs_place(pool):
    context = "def double(x):\n    return 2 * x\n\ndef f(x):\n    '''Double of double.'''\n"
    passes(pool, context + "    return double(double(x))\n", "assert f(1) == double(2)", context=context)


def test_setup_code_runs_before_the_test(pool):
    test = TestCase("code", "import math\nroot = Box(2)", "assert math.floor(root.content) == 2")
    program = "class Box:\n    def __init__(self, content): self.content = content\n"
    assert outcome_of(pool, program, test).status == "passed"


def test_an_entry_point_may_have_a_builtins_name(pool):
    passes(pool, "def sum(a, b): return a * b", "assert sum(3, 4) == 12", entry_point="sum")


def test_dataclasses_typing_and_annotations_work_as_in_a_module(pool):
    program = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom typing import NamedTuple\n"
        "@dataclass\nclass A:\n    x: int = 1\nclass B(NamedTuple):\n    y: int = 2\ndef f(): return A().x + B().y\n"
    )
    assert outcome_of(pool, program, TestCase("call", "()", "3")).status == "passed"


def test_random_numbers_and_hashes_are_the_same_at_each_run(pool):
    program = "import random\nprint([random.random() for _ in range(3)], hash('text'))\ndef f(): return 1"
    first, second = (outcome_of(pool, program, TestCase("call", "()", "1")).output for _ in range(2))
    assert first == second != ""


def test_outcomes_keep_the_order_of_the_jobs_and_progress_counts_them():
    jobs = [Job(f"def f(): return {i}", "f", [TestCase("call", "()", "0")]) for i in range(12)]
    ticks = []
    outcomes = run_many(jobs, workers=2, on_progress=ticks.append)
    assert [outcome.status for outcome in outcomes] == ["passed"] + ["failed"] * 11
    assert all(f"returned {i}," in outcome.detail for i, outcome in enumerate(outcomes) if i)
    assert ticks == [1] * 12


def test_a_job_without_tests_is_refused():
    with pytest.raises(UserError, match="no tests"):
        run(ADD, [], entry_point="add")


@pytest.mark.parametrize("name", ["cpu_seconds", "wall_seconds", "memory_mb", "output_bytes"])
def test_a_limit_that_is_not_positive_is_refused(name):
    with pytest.raises(UserError, match=f"limits.{name}: 0"):
        Limits(**{name: 0})


@pytest.fixture
def bare(monkeypatch):
    """A machine without Landlock and namespaces."""
    monkeypatch.setattr(confinement, "landlock_abi", lambda: 0)
    monkeypatch.setattr(confinement, "why_no_namespaces", lambda: "they are off")


def test_a_machine_that_cannot_keep_programs_in_is_told_what_is_missing_and_which_flag_accepts_it(bare):
    with pytest.raises(UserError, match=r"Landlock ABI 0.*they are off.*--unsafe-execution"):
        run(ADD, [TestCase("call", "(1, 2)", "3")], entry_point="add")


def test_the_flag_runs_programs_with_what_there_is(bare):
    with SandboxPool(1, unsafe=True) as pool:
        assert pool.isolation == confinement.Isolation(namespaces=False, landlock=False, system_calls=True)
        assert outcome_of(pool, ADD, TestCase("call", "(1, 2)", "3"), entry_point="add").status == "passed"
        loop = outcome_of(pool, "while True: pass", TestCase("call", "()", "3"), **SOON)
        assert loop.status == "timed_out"


def test_another_system_than_linux_is_told_so(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UserError, match="darwin"):
        confinement.check_available()
    assert not confinement.check_available(unsafe=True).is_enough


def test_without_sandlock_there_are_namespaces_still(monkeypatch):
    monkeypatch.setitem(sys.modules, "sandlock", None)
    assert confinement.landlock_abi() == 0
    assert confinement.offered().namespaces == (confinement.why_no_namespaces() == "")


def test_a_program_that_passes_too_slowly_among_others_runs_again_alone(monkeypatch):
    program = (
        "import time\nstart = time.process_time()\nwhile time.process_time() < start + 0.6: pass\ndef f(): return 1"
    )
    alone = []
    run_job = Worker.run

    def noted(trial, job, is_alone):
        alone.append(is_alone)
        return run_job(trial, job, is_alone)

    monkeypatch.setattr(Worker, "run", noted)
    job = Job(program, "f", [TestCase("call", "()", "1")], Limits(cpu_seconds=0.5))
    quick = Job("def f(): return 1", "f", [TestCase("call", "()", "1")])
    assert [outcome.status for outcome in run_many([job, quick, quick], workers=2)] == ["timed_out", "passed", "passed"]
    assert alone == [False, False, False, True]


def test_a_program_that_never_ends_is_not_run_twice(monkeypatch):
    runs = []
    run_job = Worker.run
    monkeypatch.setattr(Worker, "run", lambda *given: runs.append(given) or run_job(*given))
    job = Job("while True: pass", "f", [TestCase("call", "()", "1")], Limits(**SOON))
    assert [outcome.status for outcome in run_many([job, job], workers=2)] == ["timed_out", "timed_out"]
    assert len(runs) == 2


def test_what_a_program_says_steers_no_terminal_and_can_be_written_down(pool):
    program = "def f():\n    print('a\\x1b[2J')\n    raise ValueError('\\x1b[2J\\ud800' + 'x' * 9999)"
    outcome = outcome_of(pool, program, TestCase("call", "()", "1"))
    assert "\x1b" not in outcome.detail + outcome.output
    assert len(outcome.detail) < 2100
    outcome.detail.encode()


def test_a_killed_program_does_not_cost_its_interpreter(pool):
    before = pool.run_many(
        [Job("import os\nprint(os.getppid())\ndef f(): return 1", "f", [TestCase("call", "()", "1")])]
    )
    outcome_of(pool, "while True: pass", TestCase("call", "()", "1"), **SOON)
    after = pool.run_many(
        [Job("import os\nprint(os.getppid())\ndef f(): return 1", "f", [TestCase("call", "()", "1")])]
    )
    assert before[0].output == after[0].output


@pytest.mark.parametrize("literal", ["1", "[1]", "(f,)", "(1", "(1)"])
def test_a_call_test_whose_input_is_no_tuple_of_literals_is_refused(pool, literal):
    with pytest.raises(UserError, match="argument tuple"):
        outcome_of(pool, ADD, TestCase("call", literal, "1"))
    assert outcome_of(pool, ADD, TestCase("call", "(1, 2)", "3"), entry_point="add").status == "passed"


def test_jobs_are_taken_as_workers_become_free_and_every_outcome_has_its_place() -> None:
    taken = 0

    def jobs() -> Iterator[Job]:
        nonlocal taken
        for taken in range(1, 101):
            yield Job(f"def f(): return {taken % 3}", "f", [TestCase("call", "()", "1")])

    with SandboxPool(2) as pool:
        outcomes = pool.outcomes(jobs())
        found = [next(outcomes)]
        assert taken < 50
        found += outcomes
    assert {place: outcome.status == "passed" for place, outcome in found} == {i: i % 3 == 0 for i in range(100)}
    assert {outcome.test for _, outcome in found} == {None, 1}


@pytest.mark.parametrize(("bad", "status"), [("while True: pass", "timed_out"), ("import os; os._exit(1)", "failed")])
@pytest.mark.parametrize("first_is_right", [True, False])
def test_of_two_calls_that_fail_the_first_decides(pool, bad, status, first_is_right) -> None:
    program = f"def f(x):\n    if x:\n        {bad}\n    return {int(not first_is_right)}"
    tests = [TestCase("call", "(0,)", "0"), TestCase("call", "(1,)", "1")]
    outcome = outcome_of(pool, program, *tests, **clock(status))
    assert (outcome.status, outcome.test) == ((status, 2) if first_is_right else ("failed", 1))
    assert ("returned 1, expected 0" in outcome.detail) is not first_is_right
