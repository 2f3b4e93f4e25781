"""Every attack, under every isolation that this machine offers, as the user who runs the tests and as `nobody`."""

from collections import Counter

import pytest

from weighted_mtp.sandbox import Job, SandboxPool, TestCase
from weighted_mtp.sandbox.attacks import CLASSES, attacks

NAMES = [f"{attack.kind}: {attack.name}" for attack in attacks()] + ["persistence: what is left at the end"]
RUNS = [("all", "me"), ("all", "nobody"), ("namespaces", "me"), ("landlock", "me"), ("landlock", "nobody")]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("walls", "user"), RUNS, ids=["-".join(run) for run in RUNS])
def test_the_attack_fails_and_leaves_the_worker_and_the_machine_as_they_were(findings, walls, user, name):
    assert findings(walls, user)[name] == []


def test_there_are_sixty_attacks_at_least_of_every_class_some_and_no_two_of_one_name():
    assert len(NAMES) > 60
    assert max(Counter(NAMES).values()) == 1
    assert all(count >= 10 for count in Counter(attack.kind for attack in attacks()).values())
    assert {attack.kind for attack in attacks()} == set(CLASSES)


def test_an_attack_that_knew_the_answer_would_pass_so_that_what_does_not_pass_says_something():
    programs = {"f": "def f(x): return 40961", "": "print(40961)"}
    tests = {"f": TestCase("call", "(1,)", "40961"), "": TestCase("stdio", "1\n", "40961\n")}
    with SandboxPool(1) as pool:
        outcomes = pool.run_many([Job(programs[name], name, [tests[name]]) for name in programs])
    assert [outcome.status for outcome in outcomes] == ["passed", "passed"]
