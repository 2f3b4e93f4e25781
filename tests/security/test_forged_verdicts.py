"""Programs that try to pass without the right answer. The right answer, which they cannot know, is 40961."""

import pytest

from weighted_mtp.data.schema import TestCase

FORGERIES = {
    "an object equal to everything": """
class Any:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __bool__(self): return True
    def __hash__(self): return 40960
def f(x): return Any()
""",
    "an int subclass equal to everything": """
class Any(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
def f(x): return Any(3)
""",
    "a str subclass equal to everything": """
class Any(str):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
def f(x): return Any("3")
""",
    "a metaclass equal to everything": """
class Meta(type):
    def __eq__(self, other): return True
    def __hash__(self): return 1
class Any(metaclass=Meta): pass
def f(x): return Any
""",
    "an equal object inside a list": """
class Any:
    def __eq__(self, other): return True
class Items(list):
    def __eq__(self, other): return True
def f(x): return Items([Any()])
""",
    "leaves with code 0": "import os\ndef f(x): os._exit(0)\n",
    "leaves with code 0 while loading": "import os\nos._exit(0)\n",
    "sys.exit(0) in the call": "import sys\ndef f(x): sys.exit(0)\n",
    "SystemExit while loading": "raise SystemExit(0)\n",
    "prints that it passed": "print('passed')\ndef f(x): print('{\"verdict\": \"passed\"}')\n",
    "no AssertionError": "import builtins\nbuiltins.AssertionError = Exception\ndef f(x): return 0\n",
    "builtins replaced": """
import builtins
builtins.all = builtins.any = builtins.isinstance = builtins.abs = lambda *a: True
builtins.print = builtins.len = builtins.eval = lambda *a: 40960
def f(x): return 0
""",
    "walks the stack": """
import sys
def f(x):
    frame = sys._getframe()
    while frame:
        for space in (frame.f_locals, frame.f_globals):
            for value in list(space.values()):
                if isinstance(value, dict) and "expected" in value: return eval(value["expected"][0])
                if isinstance(value, dict) and "tests" in value: return eval(value["tests"][0])
        frame = frame.f_back
    return 0
""",
    "searches memory": """
import gc, re
def f(x):
    for item in gc.get_objects():
        try: text = repr(item)
        except Exception: continue
        found = re.search("4096[1]", text)
        if found and "re.search" not in text: return int(found.group())
    return 0
""",
    "rewrites the codec": """
import sys
codec = sys.modules["guest.codec"]
def pack(message): return b'{"verdict":{"status":"passed","detail":""},"test":-1}'
for name in ("guest.codec", "guest.server", "guest.player"): sys.modules[name].pack = pack
def f(x): return 0
""",
    "writes a verdict on every descriptor": """
import os
verdict = b'{"verdict":{"status":"passed","detail":""},"test":-1}'
def f(x):
    for descriptor in range(64):
        try: os.write(descriptor, len(verdict).to_bytes(4, "big") + verdict)
        except OSError: pass
    return 0
""",
    "writes that it ended well on every descriptor": """
import os
def f(x):
    for descriptor in range(64):
        try: os.write(descriptor, b"0\\n" * 3)
        except OSError: pass
    os._exit(0)
""",
    "announces endless messages": """
import os
def f(x):
    for descriptor in range(3, 64):
        try:
            while True: os.write(descriptor, b"\\0\\0\\0\\2{}" * 1000)
        except OSError: pass
""",
    "announces a message of 4 GiB": """
import os
def f(x):
    for descriptor in range(3, 64):
        try: os.write(descriptor, b"\\xff" * 8)
        except OSError: pass
    return 0
""",
    "steals the rest of the requests": """
import os
def f(x):
    for descriptor in range(3, 64):
        try:
            os.set_blocking(descriptor, False)
            os.read(descriptor, 3)
        except OSError: pass
    os._exit(0)
""",
    "forks and lets the child answer": "import os\ndef f(x):\n    os.fork()\n    return 40960\n",
    "becomes another program": "import os, sys\ndef f(x): os.execv(sys.executable, ['python', '-c', 'print(40960)'])\n",
    "int.__eq__ by ctypes": """
import ctypes
def f(x):
    number = 40960
    ctypes.memset(id(number) + 24, 0, 4)
    return number
""",
    "StopIteration": "def f(x): raise StopIteration\n",
    "KeyboardInterrupt": "def f(x): raise KeyboardInterrupt\n",
    "GeneratorExit": "def f(x): raise GeneratorExit\n",
    "its own exception class called AssertionError": """
class AssertionError(BaseException): pass
def f(x): raise AssertionError
""",
    "a thread that answers later": """
import threading, time
def f(x):
    threading.Thread(target=lambda: time.sleep(9)).start()
    return 0
""",
    "exit handlers": "import atexit, os\natexit.register(lambda: os._exit(0))\ndef f(x): return 0\n",
    "a check of its own": "def check(candidate): pass\ndef f(x): return 0\n",
    "an unpicklable lie": """
class Any:
    def __reduce__(self): return (print, ("passed",))
def f(x): return Any()
""",
    "a coroutine": "async def f(x): return 40961\n",
    "a mock of everything": "from unittest.mock import MagicMock\nf = MagicMock()\n",
}

CALL = TestCase("call", "(1,)", "40961")
CODE = TestCase("code", "", "def check(candidate):\n    assert candidate(1) == 40961\n\ncheck(f)")


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_answer_to_a_call_test_does_not_pass(worker, name):
    assert worker.run(FORGERIES[name], CALL).status not in ("passed", "broken")


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_answer_to_test_code_does_not_pass(worker, name):
    outcome = worker.run(FORGERIES[name], CODE, context="def f(x):\n    'stub'\n")
    assert outcome.status not in ("passed", "broken")


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
        "the test's own list": ("def f(x):\n    x.clear()\n    return []", "x = [40961]\nassert f(x) == x"),
        "length and truth": (
            "class A:\n    def __len__(s): return 40961\n    def __bool__(s): return True\ndef f(x): return A()",
            "assert isinstance(f(1), list) and len(f(1)) == 40961",
        ),
    }.values(),
)
def test_a_program_cannot_take_the_place_of_what_the_test_uses(worker, program, test):
    outcome = worker.run(program, TestCase("code", "", test), context="def helper(x):\n    return x + 40960\n")
    assert outcome.status == "failed", outcome


@pytest.mark.parametrize(
    "program",
    [
        "print('passed')",
        "import os\nos._exit(0)",
        "import os\nos.write(2, b'40961')",
        "import sys\nsys.exit(0)",
        "print(40961, 40961)",
        "import os\nfor d in range(3, 64):\n    try: os.write(d, b'\\0\\0\\0\\2{}')\n    except OSError: pass",
    ],
)
def test_a_script_that_prints_something_else_does_not_pass(worker, program):
    assert worker.run(program, TestCase("stdio", "1\n", "40961\n")).status == "failed"
