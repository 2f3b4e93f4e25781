"""Scripts in the sandbox against the same scripts under plain `python`: what they see, and what they print."""

import subprocess
import sys
from pathlib import Path

import pytest

from weighted_mtp.data.schema import TestCase
from weighted_mtp.sandbox import Job, Limits, SandboxPool
from weighted_mtp.sandbox.same_output import same_output

INPUT = "3 4\n5 6\n"

HEAD_OF_ARGUMENTS = {
    "argument names the input": "import sys\nif len(sys.argv) == 2: sys.stdin = open(sys.argv[1])\nprint(input())",
    "any argument is refused": "import sys\nif len(sys.argv) > 1: raise SystemExit('usage')\nprint(input())",
    "one item": "import sys\nprint(len(sys.argv), type(sys.argv[0]).__name__, sys.argv[1:])",
    "argparse": "import argparse\nargparse.ArgumentParser().parse_args()\nprint(input())",
    "argparse with a file": (
        "import argparse, sys\np = argparse.ArgumentParser()\n"
        "p.add_argument('file', nargs='?', type=argparse.FileType(), default=sys.stdin)\n"
        "print(p.parse_args().file.read())"
    ),
    "getopt": "import getopt, sys\nprint(getopt.getopt(sys.argv[1:], 'x'), input())",
    "fileinput": "import fileinput\nfor line in fileinput.input(): print(line.split())",
    "local input file": "import os, sys\nif os.path.exists('input.txt'): sys.stdin = open('input.txt')\nprint(input())",
    "beside the file": (
        "import os\nhere = os.path.dirname(os.path.abspath(__file__))\nprint(os.path.samefile(here, os.getcwd()))\n"
        "print(os.path.basename(__file__), __name__, __doc__)"
    ),
    "its own source": "import inspect\ndef f(): return 7\nprint(inspect.getsource(f))",
    "a module that it writes": "open('made.py', 'w').write('X = 5')\nimport made\nprint(made.X)",
    "its own file": "print(open(__file__).read())\n# ä",
    "its own file, by argument": "import sys\nprint(open(sys.argv[0], 'rb').read())",
    "its own file, with a mark": "\ufeffprint(open(__file__, 'rb').read())",
    "its own file, by Path": "from pathlib import Path\nprint(Path(__file__).read_text(), Path(__file__).exists())",
    "its own folder": "import os\nprint(os.listdir())",
    "its own file, written over": "open(__file__, 'w').write('x')\nprint(open(__file__).read())",
    "its own file, removed": "import os\nos.remove(__file__)\nprint(os.path.exists(__file__), os.listdir())",
    "itself as a module": "print(__name__)\nimport program\nprint(program.__name__)",
    "the names of site": "print(help, copyright, credits, license, exit, quit, type(help).__name__)",
    "help": "def f():\n    'what it does'\nhelp(f)",
}

BUFFERS = {
    "text kept and written to the first stdout": (
        "import io, sys\nsys.stdout = io.StringIO()\nprint('YES', end='')\nsys.__stdout__.write(sys.stdout.getvalue())"
    ),
    "the same at exit": (
        "import atexit, io, sys\n_BUFFER = io.StringIO()\nsys.stdout = _BUFFER\n"
        "@atexit.register\ndef write():\n    sys.__stdout__.write(_BUFFER.getvalue())\nprint('YES', end='')"
    ),
    "the same, stripped": (
        "import atexit, io, sys\nsys.stdout = io.StringIO()\n"
        "atexit.register(lambda: sys.__stdout__.write(sys.stdout.getvalue().strip()))\nprint('YES')"
    ),
    "the first stdout under another name": (
        "import io, sys\nold = sys.stdout\nsys.stdout = io.StringIO()\nprint('YES', end='')\n"
        "old.write(sys.stdout.getvalue())"
    ),
    "open(1, 'w')": "out = open(1, 'w')\nout.write('YES')",
    "open(1, 'w') with line ends": "out = open(1, 'w')\nprint('YES', file=out)\nprint('NO', file=out)",
    "open(1, 'wb', 0)": "out = open(1, 'wb', 0)\nout.write(b'YES')",
    "os.fdopen": "import os\nout = os.fdopen(1, 'w')\nout.write('YES')",
    "os.fdopen of a copy": "import os\nout = os.fdopen(os.dup(1), 'w')\nout.write('YES')",
    "BufferedWriter": "import io\nout = io.BufferedWriter(io.FileIO(1, 'wb'))\nout.write(b'YES')",
    "stdout replaced by a writer of its buffer": (
        "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer)\nprint('YES', end='')"
    ),
    "stdout replaced by open(1)": "import sys\nsys.stdout = open(1, 'w')\nprint('YES', end='')",
    "fast output of contest templates": (
        "import os, sys\nfrom io import BytesIO, IOBase\n"
        "class FastIO(IOBase):\n"
        "    newlines = 0\n"
        "    def __init__(self, file):\n"
        "        self._fd, self.buffer = file.fileno(), BytesIO()\n"
        "        self.write = self.buffer.write\n"
        "    def flush(self):\n"
        "        os.write(self._fd, self.buffer.getvalue())\n"
        "        self.buffer.truncate(0), self.buffer.seek(0)\n"
        "class Wrapper(IOBase):\n"
        "    def __init__(self, file):\n"
        "        self.buffer = FastIO(file)\n"
        "        self.flush = self.buffer.flush\n"
        "        self.write = lambda s: self.buffer.write(s.encode('ascii'))\n"
        "sys.stdout = Wrapper(sys.stdout)\nsys.stdout.write('YES')"
    ),
    "print bound to a writer": (
        "import builtins, functools\nbuiltins.print = functools.partial(print, file=open(1, 'w'))\nprint('YES')"
    ),
    "a writer kept by sys": "import sys\nsys.out = open(1, 'w')\nsys.out.write('YES')",
    "a writer in a cycle": "class A: pass\na = A()\na.self, a.out = a, open(1, 'w')\na.out.write('YES')\ndel a",
    "atexit, last first": "import atexit\nfor i in range(3): atexit.register(print, i)",
    "atexit that raises": "import atexit\natexit.register(lambda: 1 / 0)\nprint('YES')",
    "__del__": "class A:\n    def __del__(self): print('gone')\na = A()\nprint('YES')",
    "__del__ in a cycle": ("class A:\n    def __del__(self): print('gone')\na = A()\na.self = a\ndel a\nprint('YES')"),
    "__del__ of what a function refers to": (
        "class A:\n    def __del__(self): print('gone')\na = A()\ndef f(): return a\nprint('YES')"
    ),
    "a generator's finally": "def g():\n    try: yield 1\n    finally: print('closed')\nx = g()\nprint(next(x))",
    "a thread": "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.1), print('YES'))).start()",
    "a thread, then atexit": (
        "import atexit, threading, time\natexit.register(print, 'last')\n"
        "threading.Thread(target=lambda: (time.sleep(0.1), print('YES', end=''))).start()"
    ),
    "a pool of threads": (
        "from concurrent.futures import ThreadPoolExecutor\nimport time\n"
        "ThreadPoolExecutor(2).submit(lambda: (time.sleep(0.1), print('YES')))"
    ),
    "C's own stdout": "import ctypes\nctypes.CDLL(None).printf(b'YES\\n')",
    "print before os.write": "import os\nprint('second')\nos.write(1, b'first ')",
    "stdout and its buffer": "import sys\nprint('second')\nsys.stdout.buffer.write(b'first ')",
    "stdout closed": "import sys\nwith sys.stdout as out: print('YES', file=out)",
    "stdout deleted": "import sys\nprint('YES')\ndel sys.stdout",
    "stdout None": "import sys\nprint('YES')\nsys.stdout = None",
    "stdout detached": "import sys\nprint('YES')\nsys.stdout.detach()",
    "stdout detached and written to": "import sys\nout = sys.stdout.detach()\nout.write(b'YES')\nsys.stdout = None",
    "codecs over the detached stdout": (
        "import codecs, sys\nsys.stdout = codecs.getwriter('utf-8')(sys.stdout.detach())\nprint('YES', end='')"
    ),
    "a new stdout over the detached one": (
        "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.detach(), encoding='utf-8')\nprint('YES', end='')"
    ),
    "all streams anew": (
        "import io, sys\nfor name in ('stdin', 'stdout', 'stderr'):\n"
        "    setattr(sys, name, io.TextIOWrapper(getattr(sys, name).detach(), encoding='utf-8'))\nprint(input())"
    ),
    "left by sys.exit": "import sys\nprint('YES', end='')\nsys.exit()",
    "left by sys.exit in a function": "import sys\ndef main():\n    print('YES', end='')\n    sys.exit(0)\nmain()",
    "left with a text": "print('YES')\nraise SystemExit('no')",
    "left with 256": "print('YES')\nraise SystemExit(256)",
    "left with True": "print('YES')\nraise SystemExit(True)",
    "left at once": "import os\nprint('YES')\nos._exit(0)",
    "left at once, flushed": "import os\nprint('YES', flush=True)\nos._exit(0)",
    "an exception": "print('YES')\n1 / 0",
    "its own exception hook": "import sys\nsys.excepthook = lambda *a: print('YES')\n1 / 0",
}

STREAMS = {
    "/dev/stdin": "import sys\nsys.stdin = open('/dev/stdin')\nprint(input(), input())",
    "/dev/stdin, bytes": "print(open('/dev/stdin', 'rb').read())",
    "/dev/stdin, pathlib": "import pathlib\nprint(pathlib.Path('/dev/stdin').read_text())",
    "/dev/stdin, os.open": "import os\nprint(os.read(os.open('/dev/stdin', os.O_RDONLY), 100))",
    "/dev/stdin exists": "import os\nprint(os.path.exists('/dev/stdin'), os.path.exists('/dev/none'))\nprint(input())",
    "/dev/stdin exists, pathlib": "import pathlib\nprint(pathlib.Path('/dev/stdin').exists(), input())",
    "/dev/fd/1 exists": "import os\nprint(os.path.exists('/dev/fd/1'), os.path.isdir('/dev/fd/1'))",
    "stat of files": (
        "import os\nos.mkdir('a')\nopen('a/b', 'w').write('x')\nfolder = os.open('a', os.O_RDONLY)\n"
        "print(os.stat('b', dir_fd=folder).st_size, os.stat(folder).st_ino == os.stat('a').st_ino)\n"
        "os.symlink('none', 'c')\nprint(os.path.exists('c'), os.stat('c', follow_symlinks=False).st_size)"
    ),
    "rmtree": "import os, shutil\nos.makedirs('a/b/c')\nshutil.rmtree('a')\nprint(os.path.exists('a'))",
    "/dev/stdin, with": "with open('/dev/stdin') as f: print(f.readlines())",
    "/dev/stdin, fileinput": "import fileinput\nprint(list(fileinput.input('/dev/stdin')))",
    "/dev/stdin, codecs": "import codecs\nprint(codecs.open('/dev/stdin', encoding='utf-8').read())",
    "/dev/fd/0": "print(open('/dev/fd/0').read())",
    "/proc/self/fd/0": "print(open('/proc/self/fd/0').read())",
    "/dev/stdout": "with open('/dev/stdout', 'w') as f: f.write('YES')",
    "/dev/stdout many times": "for i in range(3):\n    with open('/dev/stdout', 'w') as f: print(i, file=f)",
    "/dev/stdout after print": "print('second')\nopen('/dev/stdout', 'w').write('first ')",
    "/dev/stdout, appended": "open('/dev/stdout', 'a').write('YES')",
    "/dev/stdout in place of stdout": "import sys\nsys.stdout = open('/dev/stdout', 'w')\nprint('YES', end='')",
    "/dev/stderr": "open('/dev/stderr', 'w').write('no')\nprint('YES')",
    "open as a class' attribute": "class A:\n    opened = open\nprint(A().opened(0).read())",
    "open(0)": "print(*map(int, open(0).read().split()))",
    "mmap": "import sys\nprint(sys.stdin.buffer.read())",
    "readline and the rest": "import sys\nprint(sys.stdin.readline(), sys.stdin.read())",
    "input to its end": "try:\n    while True: print(input())\nexcept EOFError: print('end')",
    "a stream's name": "import sys\nprint(sys.stdin.name, sys.stdin.mode, sys.stdout.name, sys.stdout.encoding)",
}

TEXTS = {
    "a byte order mark": "\ufeffprint(1)",
    "two byte order marks": "\ufeff\ufeffprint(1)",
    "a byte order mark within": "x = 1\n\ufeffprint(x)",
    "line ends of DOS": "x = 1\r\nif x:\r\n    print(x)\r\n",
    "a form feed": "x = 1\n\x0cprint(x)",
    "the deepest recursion": (
        "n = 0\ndef f():\n    global n\n    n += 1\n    f()\ntry: f()\nexcept RecursionError: print(n)"
    ),
    "recursion through C": (
        "import functools\nn = 0\n@functools.lru_cache(None)\ndef f(k):\n    global n\n    n += 1\n    f(k + 1)\n"
        "try: f(0)\nexcept RecursionError: print(n)"
    ),
    "a raised recursion limit": (
        "import sys\nsys.setrecursionlimit(10 ** 6)\ndef f(n): return n and f(n - 1) + 1\nprint(f(20000))"
    ),
}

CASES = {**HEAD_OF_ARGUMENTS, **BUFFERS, **STREAMS, **TEXTS}


@pytest.fixture(scope="module")
def pool():
    with SandboxPool(workers=1) as pool:
        yield pool


def plain(program: str, folder: Path, given: str = INPUT) -> subprocess.CompletedProcess[str]:
    """The program as a file that Python runs, with pipes for its streams."""
    (folder / "program.py").write_bytes(program.encode())
    environment = {"PYTHONUTF8": "1", "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-B", "program.py"]
    return subprocess.run(command, input=given, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("name", CASES)
def test_a_script_prints_and_ends_as_under_plain_python(pool, tmp_path, name):
    there = plain(CASES[name], tmp_path)
    for expected in (there.stdout, there.stdout + "more"):
        outcome = pool.run_many([Job(CASES[name], "", [TestCase("stdio", INPUT, expected)])])[0]
        is_right = there.returncode == 0 and same_output(there.stdout, expected)
        assert (outcome.status == "passed") is is_right, (outcome, there)
    assert outcome.output.startswith(there.stdout)


@pytest.mark.parametrize(
    "program",
    {
        "input": "print(repr(input()), repr(input()))",
        "stdin.readline": "import sys\nprint(repr(sys.stdin.readline()))",
        "stdin.readlines": "import sys\nprint(sys.stdin.readlines())",
        "stdin.read": "import sys\nprint(repr(sys.stdin.read()), sys.stdin.newlines)",
        "lines of stdin": "import sys\nprint(list(sys.stdin))",
        "stdin.buffer": "import sys\nprint(sys.stdin.buffer.read())",
        "open(0)": "print(repr(open(0).read()))",
        "/dev/stdin": "print(repr(open('/dev/stdin').read()))",
        "fileinput": "import fileinput\nprint(list(fileinput.input()))",
        "a detached stdin": "import io, sys\nprint(io.TextIOWrapper(sys.stdin.detach()).readlines())",
    }.values(),
)
def test_line_ends_of_the_input_are_those_of_plain_python(pool, tmp_path, program):
    given = "abc\r\na\rb\n\r\r\nz\r\n"
    there = plain(program, tmp_path, given)
    assert there.returncode == 0
    outcome = pool.run_many([Job(program, "", [TestCase("stdio", given, there.stdout)])])[0]
    assert outcome.status == "passed", (outcome, there)


@pytest.mark.parametrize("kind", ["call", "code"])
@pytest.mark.parametrize(
    "program",
    {
        "arguments": "import sys\ndef f(x): return len(sys.argv)",
        "a byte order mark": "\ufeffdef f(x): return x",
        "the input's name": "def f(x): return len(open('/dev/stdin').read()) + x",
    }.values(),
)
def test_functions_have_the_same_surroundings(pool, program, kind):
    test = TestCase("call", "(1,)", "1") if kind == "call" else TestCase("code", "", "assert f(1) == 1")
    assert pool.run_many([Job(program, "f", [test])])[0].status == "passed"


NUMBERS = range(700_000)


@pytest.mark.parametrize(
    ("program", "entry_point", "test"),
    {
        "output": ("print(*range(700000), sep='\\n')", "", TestCase("stdio", "", "\n".join(map(str, NUMBERS)))),
        "value": ("def f(): return list(range(700000))", "f", TestCase("call", "()", str(list(NUMBERS)))),
        "escaped": ("def f(): return '\\U0001f600' * 400000", "f", TestCase("call", "()", repr("\U0001f600" * 400000))),
    }.values(),
)
def test_output_may_be_as_large_as_what_is_expected(pool, program, entry_point, test):
    assert len(test.output) > 1 << 18
    job = Job(program, entry_point, [test], Limits(output_bytes=1 << 18))
    assert pool.run_many([job])[0].status == "passed"


def test_what_nobody_expects_is_bounded(pool):
    job = Job("print('x' * (1 << 20))", "", [TestCase("stdio", "", "y" * 1000)], Limits(output_bytes=1 << 18))
    assert pool.run_many([job])[0].status == "refused"


def test_debug_output_of_a_function_does_not_fail_it(pool):
    program = "def f(x):\n    for _ in range(5): print('x' * (1 << 20))\n    return x"
    outcome = pool.run_many([Job(program, "f", [TestCase("call", "(1,)", "1")])])[0]
    assert outcome.status == "passed"
    assert len(outcome.output) <= 2000
