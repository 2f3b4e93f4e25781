"""Packages that programs may import where that is allowed, under every isolation that there is, and no others."""

import pytest

from weighted_mtp.data.schema import TestCase
from weighted_mtp.errors import UserError
from weighted_mtp.sandbox import Job, SandboxPool, run
from weighted_mtp.sandbox.confinement import Isolation, offered
from weighted_mtp.sandbox.packages import installed

WALLS = {
    "all": Isolation(namespaces=True, landlock=True, system_calls=True),
    "namespaces": Isolation(namespaces=True, landlock=False, system_calls=True),
    "landlock": Isolation(namespaces=False, landlock=True, system_calls=True),
}
MATRIX = "import numpy as np\ndef f(n): return np.arange(n * n).reshape(n, n)\n"

CASES = {
    "a scalar": ("import numpy as np\ndef f(n): return np.int64(n) + 1", "assert f(2) == 3"),
    "a wrong scalar": ("import numpy as np\ndef f(n): return np.int64(n)", "assert f(2) == 3"),
    "a float": ("import numpy as np\ndef f(n): return np.mean([n, n + 1])", "assert f(2) == 2.5"),
    "a truth": ("import numpy as np\ndef f(n): return np.bool_(n)", "assert f(2) is True or f(2) == True"),
    "scalars in a list": ("import numpy as np\ndef f(n): return list(np.arange(n))", "assert f(2) == [0, 1]"),
    "an array as a list": (MATRIX, "assert f(2).tolist() == [[0, 1], [2, 3]] and f(2).shape == (2, 2)"),
    "an array's items": (MATRIX, "assert f(2)[1][0] == 2 and f(2).sum() == 6 and len(f(3)) == 3"),
    "an array and an array": (MATRIX, "assert (f(2) == f(2)).all() and not (f(2) + f(2) == f(2)).all()"),
    "linear algebra": (
        "import numpy.linalg\ndef f(n): return round(numpy.linalg.det(numpy.eye(n) * 2))",
        "assert f(3) == 8",
    ),
}
ALLOWED_ONLY = """
def f(name):
    try:
        __import__(name)
    except ModuleNotFoundError:
        return 'missing'
    return 'there'
"""


@pytest.fixture(scope="module", params=WALLS)
def pool(request: pytest.FixtureRequest):
    wanted = WALLS[request.param]
    if any(needed and not there for needed, there in zip(wanted, offered(), strict=True)):
        pytest.skip(f"this machine has {offered()} alone")
    with SandboxPool(1, isolation=wanted, packages=["numpy"]) as pool:
        yield pool


def test_functions_may_use_numpy(pool):
    jobs = [Job(program, "f", [TestCase("code", "", test)]) for program, test in CASES.values()]
    outcomes = dict(zip(CASES, pool.run_many(jobs), strict=True))
    wrong = {name: o for name, o in outcomes.items() if o.status != ("failed" if "wrong" in name else "passed")}
    assert not wrong


def test_scripts_may_use_numpy_and_its_random_numbers_are_the_same_at_each_run(pool):
    program = "import numpy as np\nprint(np.array(input().split(), dtype=int).sum(), np.random.rand(), file={})"
    shown = Job(program.format("None"), "", [TestCase("stdio", "1 2 3\n", "6")])
    first, second = (outcome.output for outcome in pool.run_many([shown, shown]))
    assert first == second
    assert first.startswith("6 0.")


def test_no_other_package_is_there(pool):
    tests = [TestCase("call", f"({name!r},)", "'missing'") for name in ("torch", "pydantic", "pip", "weighted_mtp")]
    outcome = pool.run_many([Job(ALLOWED_ONLY, "f", [*tests, TestCase("call", "('numpy',)", "'there'")])])[0]
    assert outcome.status == "passed", outcome


def test_its_folder_cannot_be_written_nor_its_neighbours_read(pool):
    folder, neighbour = (dict(installed([name]).modules)[name] for name in ("numpy", "rich"))
    for program in (
        f"def f(): open({folder + '/made.py'!r}, 'w')",
        f"def f(): open({neighbour + '/__init__.py'!r}).read()",
        f"import os\ndef f(): os.unlink({folder + '/__init__.py'!r})",
    ):
        outcome = pool.run_many([Job(program, "f", [TestCase("call", "()", "None")])])[0]
        assert outcome.status in ("refused", "failed"), outcome


def test_by_default_there_is_the_standard_library_alone():
    outcome = run(ALLOWED_ONLY, [TestCase("call", "('numpy',)", "'missing'")], entry_point="f")
    assert outcome.status == "passed", outcome


def test_what_a_package_requires_comes_with_it():
    found = installed(["rich"])
    assert found.names == ("rich",)
    assert {"rich", "pygments", "markdown_it", "mdurl"} <= dict(found.modules).keys()


@pytest.mark.parametrize(("name", "why"), [("math", "standard library"), ("nothing_of_that_name", "can be imported")])
def test_a_package_that_cannot_be_given_is_refused_in_one_line(name, why):
    with pytest.raises(UserError, match=why):
        SandboxPool(1, packages=[name])
