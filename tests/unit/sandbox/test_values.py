"""What a test makes of a program's values, against the same test in the program's own namespace under plain Python."""

import json
import subprocess
import sys

import pytest

from weighted_mtp.data.schema import TestCase
from weighted_mtp.sandbox import Job, SandboxPool

POINT = """
import functools
@functools.total_ordering
class Point:
    kind = "point"
    def __init__(self, x=0, y=0): self.x, self.y = x, y
    def __eq__(self, other): return isinstance(other, Point) and (self.x, self.y) == (other.x, other.y)
    def __lt__(self, other): return (self.x, self.y) < (other.x, other.y)
    def __hash__(self): return hash((self.x, self.y))
    def __add__(self, other): return Point(self.x + other.x, self.y + other.y)
    def __neg__(self): return Point(-self.x, -self.y)
    def __abs__(self): return abs(self.x) + abs(self.y)
    def __float__(self): return float(self.x)
    def __str__(self): return f"({self.x}, {self.y})"
    def __repr__(self): return f"Point({self.x}, {self.y})"
    def __format__(self, spec): return f"{self.x:{spec}}"
class Pixel(Point): pass
ORIGIN = Point()
LIMIT = 10
def f(x): return Point(x, x + 1)
def g(x): return [Point(x, x), Point(x + 1, x)]
"""
ERRORS = """
class Mine(ValueError):
    def __init__(self, code): super().__init__(f"code {code}"); self.code = code
class Worse(Mine): pass
class Plain(Exception): pass
def f(x):
    if x == 0: raise Mine(7)
    if x == 1: raise Worse(8)
    if x == 2: raise Plain("why", 3)
    if x == 3: raise ValueError("why")
    if x == 4: raise KeyError("why")
    return {}[x]
"""


def returns(value: str, imports: str = "") -> str:
    return f"{imports}\ndef f(): return {value}\n"


PAIR = returns("namedtuple('P', 'x y')(1, 2)", "from collections import *")


def raised(kind: str, argument: int, then: str = "pass") -> str:
    return f"try:\n    f({argument})\n    assert False, 'nothing raised'\nexcept {kind} as e:\n    {then}"


FRACTION, DECIMAL, DATES = "from fractions import Fraction", "from decimal import Decimal", "from datetime import *"
COUNTS, ARRAY = "from collections import *", "from array import array"
PATHS, ADDRESSES = "from pathlib import *", "from ipaddress import *"
ABC = '{"a": 1, "b": 2}'

CASES = {
    "Fraction and a float": (returns("Fraction(1, 2)", FRACTION), "assert f() == 0.5"),
    "Fraction and another float": (returns("Fraction(1, 3)", FRACTION), "assert f() == 0.5"),
    "Fraction and Fraction": (returns("Fraction(2, 4)", FRACTION), f"{FRACTION}\nassert f() == Fraction(1, 2)"),
    "Fraction in arithmetic": (returns("Fraction(1, 3)", FRACTION), "assert abs(f() - 1 / 3) < 1e-9 and f() * 3 == 1"),
    "Fraction as text": (returns("Fraction(1, 3)", FRACTION), "assert str(f()) == '1/3' and f().denominator == 3"),
    "Fractions in a list": (returns("[Fraction(n, 2) for n in range(3)]", FRACTION), "assert f() == [0, 0.5, 1]"),
    "Fraction as a key": (returns("{Fraction(1, 2): 1}", FRACTION), "assert f()[0.5] == 1"),
    "Decimal and an int": (returns("Decimal('2.0')", DECIMAL), "assert f() == 2"),
    "Decimal and a float": (returns("Decimal('0.1')", DECIMAL), "assert f() == 0.1"),
    "Decimal isclose": (returns("Decimal('0.1')", DECIMAL), "import math\nassert math.isclose(f(), 0.1)"),
    "Decimal as text": (returns("Decimal('1.50')", DECIMAL), "assert str(f()) == '1.50'"),
    "Decimal not a number": (returns("Decimal('nan')", DECIMAL), "assert f() == f()"),
    "date and date": (returns("date(2024, 2, 29)", DATES), f"{DATES}\nassert f() == date(2024, 2, 29)"),
    "date and its text": (returns("date(2024, 2, 29)", DATES), "assert f() == '2024-02-29'"),
    "date isoformat": (returns("date(2024, 2, 29)", DATES), "assert f().isoformat() == '2024-02-29'"),
    "date difference": (returns("date(2024, 3, 1)", DATES), f"{DATES}\nassert f() - date(2024, 2, 1) == timedelta(29)"),
    "datetime": (returns("datetime(2024, 1, 1, 3)", DATES), f"{DATES}\nassert f() == datetime(2024, 1, 1, 3)"),
    "datetime of a zone": (
        returns("datetime(2024, 1, 1, 3, tzinfo=timezone(timedelta(hours=2)))", DATES),
        f"{DATES}\nassert f() == datetime(2024, 1, 1, 1, tzinfo=timezone.utc)",
    ),
    "datetime without one": (
        returns("datetime(2024, 1, 1)", DATES),
        f"{DATES}\nassert f() == datetime(2024, 1, 1, tzinfo=timezone.utc)",
    ),
    "datetime and date": (returns("datetime(2024, 1, 1)", DATES), f"{DATES}\nassert f() == date(2024, 1, 1)"),
    "time": (returns("time(3, 4)", DATES), f"{DATES}\nassert f() == time(3, 4) and f() < time(3, 5)"),
    "timedelta": (returns("timedelta(hours=36)", DATES), f"{DATES}\nassert f().days == 1 and f() > timedelta(1)"),
    "keys and a set": (returns(f"{ABC}.keys()"), "assert f() == {'a', 'b'}"),
    "keys and a list": (returns(f"{ABC}.keys()"), "assert f() == ['a', 'b']"),
    "keys as a list": (returns(f"{ABC}.keys()"), "assert list(f()) == ['a', 'b'] and 'a' in f() and len(f()) == 2"),
    "values and a list": (returns(f"{ABC}.values()"), "assert f() == [1, 2]"),
    "values as a list": (returns(f"{ABC}.values()"), "assert list(f()) == [1, 2] and sum(f()) == 3"),
    "items and a set": (returns(f"{ABC}.items()"), "assert f() == {('a', 1), ('b', 2)}"),
    "Counter and a dict": (returns("Counter('aab')", COUNTS), "assert f() == {'a': 2, 'b': 1}"),
    "Counter and Counter": (returns("Counter(a=1, b=0)", COUNTS), f"{COUNTS}\nassert f() == Counter(a=1)"),
    "Counter's methods": (returns("Counter('aab')", COUNTS), "assert f().most_common(1)[0][1] == 2 and f()['z'] == 0"),
    "OrderedDict and a dict": (returns("OrderedDict(a=1, b=2)", COUNTS), "assert f() == {'b': 2, 'a': 1}"),
    "OrderedDict and OrderedDict": (
        returns("OrderedDict(a=1, b=2)", COUNTS),
        f"{COUNTS}\nassert f() == OrderedDict(b=2, a=1)",
    ),
    "defaultdict": (returns("defaultdict(int, a=1)", COUNTS), "assert f() == {'a': 1} and f()['z'] == 0"),
    "array and array": (returns("array('i', [1, 2])", ARRAY), f"{ARRAY}\nassert f() == array('i', [1, 2])"),
    "array and a list": (returns("array('i', [1, 2])", ARRAY), "assert f() == [1, 2]"),
    "array as a list": (returns("array('i', [1, 2])", ARRAY), "assert list(f()) == [1, 2] and f()[1] == 2"),
    "slice": (returns("slice(1, 2)"), "assert [0, 1, 2][f()] == [1]"),
    "Ellipsis": ("def f(): return ...\n", "assert f() is ... and f() == Ellipsis and type(f()) is type(...)"),
    "Ellipsis in a list": ("def f(): return [..., 1]\n", "assert f() == [..., 1]"),
    "Ellipsis and None": ("def f(): return ...\n", "assert f() is None"),
    "Ellipsis given": ("def f(x): return x is ...\n", "assert f(...)"),
    "NotImplemented": ("def f(): return NotImplemented\n", "assert f() is NotImplemented"),
    "a pure path": (returns("PurePath('a') / 'b'", PATHS), f"{PATHS}\nassert f() == PurePath('a/b')"),
    "a pure path and a path": (returns("PurePosixPath('a')", PATHS), f"{PATHS}\nassert f() == Path('a')"),
    "a pure path and its text": (returns("PurePath('a')", PATHS), "assert f() == 'a'"),
    "a pure path's parts": (returns("PurePath('a/b.c')", PATHS), "assert f().suffix == '.c' and f().parts[0] == 'a'"),
    "a path of Windows": (returns("PureWindowsPath('A/b')", PATHS), f"{PATHS}\nassert f() == PureWindowsPath('a/B')"),
    "paths of two kinds": (returns("PureWindowsPath('a')", PATHS), f"{PATHS}\nassert f() == PurePosixPath('a')"),
    "UUID": (returns("UUID(int=5)", "from uuid import *"), "from uuid import *\nassert f() == UUID(int=5)"),
    "another UUID": (returns("UUID(int=5)", "from uuid import *"), "from uuid import *\nassert f() == UUID(int=6)"),
    "UUID and a number": (returns("UUID(int=5)", "from uuid import *"), "assert f() == 5"),
    "UUID's fields": (returns("UUID(int=5)", "from uuid import *"), "assert f().int == 5 and str(f())[-1] == '5'"),
    "an address": (returns("ip_address('10.0.0.1')", ADDRESSES), f"{ADDRESSES}\nassert f() == ip_address('10.0.0.1')"),
    "an address and its text": (returns("ip_address('10.0.0.1')", ADDRESSES), "assert f() == '10.0.0.1'"),
    "an address' zone": (returns("ip_address('fe80::1%2')", ADDRESSES), f"{ADDRESSES}\nassert f().scope_id == '2'"),
    "a network": (
        returns("ip_network('10.0.0.0/30')", ADDRESSES),
        f"{ADDRESSES}\nassert f().num_addresses == 4 and ip_address('10.0.0.3') in f()",
    ),
    "another network": (
        returns("ip_network('10.0.0.0/30')", ADDRESSES),
        f"{ADDRESSES}\nassert f() == ip_network('10.0.0.0/29')",
    ),
    "interfaces": (
        returns("[ip_interface('10.0.0.1/30'), ip_interface('::1/64')]", ADDRESSES),
        f"{ADDRESSES}\nassert f() == [ip_interface('10.0.0.1/30'), ip_interface('::1/64')]",
    ),
    "an IPv6 network": (
        returns("ip_network('2001:db8::/32')", ADDRESSES),
        f"{ADDRESSES}\nassert f() == ip_network('2001:db8::/32')",
    ),
    "ChainMap and a dict": (returns("ChainMap({'a': 1}, {'a': 2, 'b': 3})", COUNTS), "assert f() == {'a': 1, 'b': 3}"),
    "ChainMap and another": (returns("ChainMap({'a': 1}, {'a': 2})", COUNTS), "assert f() == {'a': 2}"),
    "ChainMap's parents": (
        returns("ChainMap({'a': 1}, OrderedDict(a=2))", COUNTS),
        "assert f().parents == {'a': 2} and len(f().maps) == 2",
    ),
    "UserDict": (returns("UserDict(a=1)", COUNTS), f"{COUNTS}\nassert f() == {{'a': 1}} == UserDict(a=1)"),
    "UserList and a list": (returns("UserList([1, 2])", COUNTS), "assert f() == [1, 2] and f() + [3] == [1, 2, 3]"),
    "UserList and another": (returns("UserList([1, 2])", COUNTS), f"{COUNTS}\nassert f() == UserList([1])"),
    "UserString": (returns("UserString('ab')", COUNTS), "assert f() == 'ab' and f().upper() == 'AB'"),
    "UserString and another": (returns("UserString('ab')", COUNTS), "assert f() == 'AB'"),
    "memoryview and bytes": (returns("memoryview(b'abc')"), "assert f() == b'abc' and f()[1] == 98"),
    "memoryview and other bytes": (returns("memoryview(b'abc')[::-1]"), "assert f() == b'abc'"),
    "memoryview of an array": (
        returns("memoryview(array('i', [1, 2]))", ARRAY),
        f"{ARRAY}\nassert f() == array('i', [1, 2]) and f().tolist() == [1, 2]",
    ),
    "memoryview of two dimensions": (
        returns("memoryview(b'abcdef').cast('B', (2, 3))"),
        "assert f().shape == (2, 3) and f().tolist()[1] == [100, 101, 102]",
    ),
    "memoryview of nothing": (returns("memoryview(b'')"), "assert f() == b''"),
    "map and a list": (returns("map(str, [1])"), "assert f() == ['1']"),
    "map as a list": (returns("map(str, [1])"), "assert list(f()) == ['1']"),
    "a generator as a list": ("def f():\n    yield 1\n    yield 2\n", "assert list(f()) == [1, 2]"),
    "nested deeply": ("def f():\n    x = []\n    for _ in range(300): x = [x]\n    return x\n", "assert len(f()) == 1"),
    "nested as deeply as can be compared": (
        "def f():\n    x = []\n    for _ in range(900): x = [x]\n    return x\n",
        "x = f()\nn = 0\nwhile x: x, n = x[0], n + 1\nassert n == 900",
    ),
    "a namedtuple's fields": (PAIR, "assert f().x == 1 and f()._fields[1] == 'y'"),
    "a namedtuple as text": (PAIR, "assert repr(f()) == str(f()) == 'P(x=1, y=2)'"),
    "a number's class": (
        "class A(int): pass\ndef f(): return A(3)\n",
        "assert isinstance(f(), A) and f() == 3 and f() + 1 == 4",
    ),
    "a number of no such class": ("class A(int): pass\ndef f(): return 3\n", "assert isinstance(f(), A)"),
    "a number's method": (
        "class A(int):\n    def twice(self): return 2 * self\ndef f(): return A(3)\n",
        "assert f().twice() == 6",
    ),
    "a date's class": (
        "import datetime\nclass Day(datetime.date):\n    def name(self): return 'day'\n"
        "def f(): return Day(2024, 1, 2)\n",
        "import datetime\nassert f() == datetime.date(2024, 1, 2) and f().name() == 'day' and isinstance(f(), Day)",
    ),
    "a moment's class": (
        "import datetime\nclass Now(datetime.datetime): pass\n"
        "def f(): return Now(2024, 1, 2, 3, tzinfo=datetime.timezone.utc)\n",
        "import datetime\nassert f() == datetime.datetime(2024, 1, 2, 3, tzinfo=datetime.timezone.utc)",
    ),
    "a number given back": (
        "class A(int): pass\ndef f(): return A(3)\ndef g(x): return type(x).__name__\n",
        "assert g(f()) == 'A' and g([f()][0]) == 'A' and type(f()) is not int",
    ),
    "a text's class": (
        "class A(str):\n    def __str__(self): return 'shown'\ndef f(): return A('kept')\n",
        "assert f() == 'kept' and str(f()) == 'shown' and f().upper() == 'KEPT' and {f(): 1}['kept'] == 1",
    ),
    "a list's class": (
        "class Stack(list):\n    def peek(self): return self[-1]\ndef f(): return Stack([1, 2])\n",
        "assert f() == [1, 2] and f().peek() == 2 and isinstance(f(), list) and isinstance(f(), Stack)",
    ),
    "a namedtuple": (returns("namedtuple('P', 'x y')(1, 2)", COUNTS), "assert f() == (1, 2) and f()[0] == 1"),
    "an IntEnum": (
        "import enum\nclass E(enum.IntEnum):\n    A = 1\ndef f(): return E.A\n",
        "assert f() == 1 and f() < 2",
    ),
    "an Enum": ("import enum\nclass E(enum.Enum):\n    A = 1\ndef f(): return E.A\n", "assert f() == E.A"),
    "an Enum's value": (
        "import enum\nclass E(enum.Enum):\n    A = 1\ndef f(): return E.A\n",
        "assert f().value == 1 and f().name == 'A' and f() is E.A",
    ),
    "an Enum and its value": ("import enum\nclass E(enum.Enum):\n    A = 1\ndef f(): return E.A\n", "assert f() == 1"),
    "its class, equal": (POINT, "assert f(1) == Point(1, 2)"),
    "its class, unequal": (POINT, "assert f(1) == Point(1, 3)"),
    "its class, !=": (POINT, "assert f(1) != Point(1, 3) and not f(1) != Point(1, 2)"),
    "its class, two calls": (POINT, "assert f(1) == f(1) and f(1) is not f(1)"),
    "its class in a list": (POINT, "assert g(1) == [Point(1, 1), Point(2, 1)]"),
    "its class in another list": (POINT, "assert g(1) == [Point(1, 1), Point(2, 2)]"),
    "its class in a set": (POINT, "assert set(g(1)) == {Point(2, 1), Point(1, 1)} and Point(1, 1) in set(g(1))"),
    "its class as a key": (POINT, "assert {Point(1, 2): 'here'}[f(1)] == 'here'"),
    "its class, sorted": (POINT, "assert sorted(g(1)) == g(1) and max(g(1)) == Point(2, 1) and f(1) < f(2)"),
    "its class, added": (POINT, "assert f(1) + f(2) == Point(3, 5)"),
    "its class, negated": (POINT, "assert -f(1) == Point(-1, -2) and abs(-f(1)) == 3"),
    "its class as text": (POINT, "assert str(f(1)) == '(1, 2)' and repr(f(1)) == 'Point(1, 2)'"),
    "its class in an f-string": (POINT, "assert f'{f(1):03d} {f(1)!s}' == '001 (1, 2)'"),
    "its class, isinstance": (POINT, "assert isinstance(f(1), Point) and not isinstance(f(1), Pixel)"),
    "its class, isinstance of a base": (POINT, "assert isinstance(Pixel(1, 2), Point) and issubclass(Pixel, Point)"),
    "its class, isinstance of several": (POINT, "assert isinstance(f(1), (int, Point))"),
    "its class, not a builtin": (POINT, "assert not isinstance(f(1), (int, tuple))"),
    "its class' name": (POINT, "assert f(1).__class__.__name__ == 'Point' and f.__name__ == 'f'"),
    "its class' own": (POINT, "assert Point.kind == 'point' and f(1).x == 1"),
    "its global object": (POINT, "assert ORIGIN == Point(0, 0) and Point(0, 0) == ORIGIN and f(0) != ORIGIN"),
    "its global number": (POINT, "assert LIMIT == 10 and LIMIT + 1 == 11"),
    "a function by identity": (POINT + "def h(): return f\n", "assert h() is f and h() == f and h() is not g"),
    "a class without == and a value": ("class A: pass\ndef f(): return A()\n", "assert f() == 3"),
    "a class without ==, != a value": ("class A: pass\ndef f(): return A()\n", "assert f() != 3"),
    "a class without == and itself": ("class A: pass\na = A()\ndef f(): return a\n", "assert f() == f()"),
    "a class without == and another": ("class A: pass\ndef f(): return A()\n", "assert f() == f()"),
    "a class that cannot be hashed": (
        "class A:\n    def __eq__(self, o): return True\ndef f(): return A()\n",
        "assert len({f()}) == 1",
    ),
    "a dataclass": (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef f(): return P(1)\n",
        "assert f() == P(1) and repr(f()) == 'P(x=1)'",
    ),
    "its exception": (ERRORS, raised("Mine", 0)),
    "its exception by its base": (ERRORS, raised("Mine", 1)),
    "its exception by a builtin base": (ERRORS, raised("ValueError", 0)),
    "another of its exceptions": (ERRORS, raised("Worse", 0)),
    "its exception among several": (ERRORS, raised("(Plain, Mine)", 2)),
    "its exception's text": (ERRORS, raised("Mine", 0, "assert str(e) == 'code 7'")),
    "its exception's attribute": (ERRORS, raised("Mine", 0, "assert e.code == 7")),
    "its exception's arguments": (ERRORS, raised("Plain", 2, "assert e.args == ('why', 3)")),
    "its exception's class": (ERRORS, raised("Exception", 1, "assert type(e) is Worse and isinstance(e, Mine)")),
    "a builtin exception's text": (ERRORS, raised("ValueError", 3, "assert str(e) == 'why' and e.args == ('why',)")),
    "a builtin exception's class": (ERRORS, raised("ValueError", 3, "assert type(e) is ValueError")),
    "a KeyError's text": (ERRORS, raised("KeyError", 4, "assert str(e) == \"'why'\"")),
    "a KeyError of a dict": (ERRORS, raised("KeyError", 5, "assert e.args == (5,)")),
    "4 MiB and more": (returns("list(range(700000))"), "assert f() == list(range(700000))"),
    "the truth of an object": (
        "class A:\n    def __bool__(self): return False\ndef f(): return A()\n",
        "assert not f()",
    ),
    "a method with arguments": (POINT, "assert f(1).__eq__ is not None or True"),
}  # fmt: skip

EQUAL_TO_ALL = "class A:\n    def __eq__(self, o): return True\n    def __hash__(self): return 3\ndef f(): return A()\n"
UNDECIDED = {
    "its own == and a value": (POINT, "assert f(1) == (1, 2)", "Point object Point(1, 2) and (1, 2)"),
    "a value and its own ==": (POINT, "assert (1, 2) == f(1)", "Point object Point(1, 2) and (1, 2)"),
    "its own !=": (POINT, "assert f(1) != 3", "Point object Point(1, 2) and 3"),
    "within a list": (POINT, "assert g(1) == [1, 2]", "Point object Point(1, 1) and 1"),
    "in": (POINT, "assert 3 in g(1)", "Point object Point(1, 1) and 3"),
    "its own order": (POINT, "assert f(1) < 3", "Point object Point(1, 2) and 3"),
    "its own sum": (POINT, "assert f(1) + 3 == 4", "Point object Point(1, 2) and 3"),
    "caught by the test": (
        POINT,
        "try:\n    same = f(1) == 3\nexcept BaseException:\n    same = True\nassert same",
        "Point object Point(1, 2) and 3",
    ),
    "equal to all": (EQUAL_TO_ALL, "assert f() == 3", "A object and 3"),
    "its own `in`": (
        "class A:\n    def __contains__(self, x): return True\ndef f(): return A()\n",
        "assert 3 in f()",
        "A object and 3",
    ),
    "a number with its own ==": (
        "class A(int):\n    def __eq__(self, o): return True\ndef f(): return A(3)\n",
        "assert f() == 3",
        "A object 3 and 3",
    ),
    "its own number": (POINT, "import math\nassert math.pow(f(1), 2) == 1", "Point object Point(1, 2)"),
    "its class by type": (POINT, "assert type(f(1)) == Point", "Point"),
    "a value in itself": ("def f():\n    x = []\n    x.append(x)\n    return x\n", "assert f() == [1]", "list object"),
    "a function for the program": ("def f(g): return g(1)\n", "assert f(lambda x: x) == 1", "hand a function"),
}

_PLAIN = """
import json, sys
def passes(program, test):
    try:
        exec(program + "\\n" + test, {"__name__": "program"})
    except BaseException:
        return False
    return True
print(json.dumps([passes(*case) for case in json.load(sys.stdin)]))
"""


@pytest.fixture(scope="module")
def pool():
    with SandboxPool(workers=1) as pool:
        yield pool


@pytest.fixture(scope="module")
def plain() -> dict[str, bool]:
    """Whether each case passes where test and program are one."""
    given = json.dumps(list(CASES.values()))
    done = subprocess.run([sys.executable, "-c", _PLAIN], input=given, capture_output=True, text=True, check=True)
    return dict(zip(CASES, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_a_test_says_of_a_value_what_it_says_under_plain_python(pool, plain, name):
    program, test = CASES[name]
    outcome = pool.run_many([Job(program, "f", [TestCase("code", "", test)])])[0]
    assert outcome.status == ("passed" if plain[name] else "failed"), outcome


def test_both_verdicts_occur_often(plain):
    assert len(plain) >= 71
    assert sum(plain.values()) > 50
    assert len(plain) - sum(plain.values()) > 10


@pytest.mark.parametrize("name", UNDECIDED)
def test_what_only_the_program_could_decide_has_its_own_outcome_which_names_the_value(pool, name):
    program, test, named = UNDECIDED[name]
    outcome = pool.run_many([Job(program, "f", [TestCase("code", "", test)])])[0]
    assert outcome.status == "cannot_be_compared", outcome
    assert named in outcome.detail
    assert outcome.test == 1


@pytest.mark.parametrize(
    ("value", "expected", "status"),
    [
        ("Fraction(1, 2)", "0.5", "passed"),
        ("Fraction(1, 3)", "0.5", "failed"),
        ("{1: 2}.keys()", "{1}", "passed"),
        ("[1, A()]", "[2, 3]", "failed"),
        ("[1, A()]", "[1]", "failed"),
        ("[1, A()]", "[1, 3]", "cannot_be_compared"),
        ("A()", "3", "cannot_be_compared"),
        ("{A()}", "{3}", "cannot_be_compared"),
        ("{A(): 1}", "{3: 1}", "cannot_be_compared"),
        ("object()", "3", "failed"),
        ("[object()]", "[3]", "failed"),
    ],
)
def test_call_tests_say_the_same(pool, value, expected, status):
    program = f"{FRACTION}\n{EQUAL_TO_ALL}\ndef f(): return {value}\n"
    outcome = pool.run_many([Job(program, "f", [TestCase("call", "()", expected)])])[0]
    assert outcome.status == status, outcome
