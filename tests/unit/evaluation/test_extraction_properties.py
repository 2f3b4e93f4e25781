"""Any program survives any of the wrappings that models put around one."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weighted_mtp.evaluation.extraction import program_in_answer
from weighted_mtp.evaluation.extraction.source import parse, split_lines

# Statements before, around and inside of a function, some of them with what a hasty reader takes for a mark.
HEADS = [
    "import math\n",
    "from typing import List, Optional\n",
    '"""A module.\n\n    ```python\n    f(1)\n    ```\n"""\n',
    "LIMIT = 10\n",
    "TABLE = {\n    'a': [1, 2],\n}\n",
    "try:\n    import gmpy2\nexcept ImportError:\n    gmpy2 = None\n",
    "MARK = '</think>'\n",
    "OPEN, CLOSE = '<think>', '```'\n",
    "# A comment with ``` in it\n",
    "# 1. a list\n# - another\n",
    "TEXT = '''\n> quoted\n- item\n\n    indented\n'''\n",
    "class Node:\n    def __init__(self, value):\n        self.value = value\n\n    def f(self):\n        return 1\n",
    "helper = lambda a: (\n    a + 1\n)\n",
    "if LIMIT_ := 3:\n    pass\n",
    "PATTERN = r'\\d+'\n",
    "\n\n",
    "BIG = " + "7" * 5000 + "\n",
    "x: int = 3; y = 4\n",
]
BODIES = [
    "    return x\n",
    "\treturn x + 1\n",
    "    '''Says <b>bold</b> and `x`.\n\n    >>> f(1)\n    1\n    '''\n    return x\n",
    '    """\n    ```\n    f(1)\n    ```\n    """\n    y = [i\n         for i in range(x)]\n\n    return sum(y)\n',
    "    if x:\n        return '<|im_end|>'\n    else:\n        return \"### Instruction:\"\n",
    "    def inner(y):\n        return y\n\n    return inner(x)\n",
    "    return f'{x}' + \\\n        'tail'\n",
    "    s = 'é\\u2028 \\x0c'\n\x0c\n    return s\n",
    "    return x  # ends with ```\n",
]
functions = st.builds(
    lambda heads, definition, body, tails: "".join([*heads, definition, body, *tails]),
    st.lists(st.sampled_from(HEADS), max_size=4, unique=True),
    st.sampled_from(["def f(x):\n", "async def f(x, *, key=None):\n", "@staticmethod\ndef f(x) -> 'int':\n"]),
    st.sampled_from(BODIES),
    st.lists(st.sampled_from(["\n\ndef g(y):\n    return f(y)\n", "\nprint(f(3))\n", "f.cache = {}\n"]), max_size=2),
).filter(lambda program: parse(program) is not None)

scripts = st.builds(
    lambda heads, rest: "".join([*heads, *rest]),
    st.lists(st.sampled_from(HEADS), max_size=4, unique=True),
    st.lists(
        st.sampled_from([
            "n = int(input())\nprint(n)\n",
            "for _ in range(int(input())):\n    a, b = map(int, input().split())\n    print(a + b)\n",
            "import sys\nprint(sum(map(int, sys.stdin.read().split())))\n",
            "def main():\n\tprint(input())\n\n\nif __name__ == '__main__':\n\tmain()\n",
        ]),
        min_size=1,
        max_size=2,
        unique=True,
    ),
).filter(lambda program: parse(program) is not None)  # fmt: skip


def ended(program: str) -> str:
    return program if program.endswith("\n") else program + "\n"


def indented(text: str, by: str) -> str:
    return "".join(by + line for line in split_lines(text))


def fence(program: str, mark: str = "`", info: str = "python") -> str:
    """As an author would write it who knows CommonMark: longer than any run of such marks inside."""
    longest = max(map(len, re.findall(rf"{mark}+", program)), default=0)
    marks = mark * max(3, longest + 1)
    return f"{marks}{info}\n{ended(program)}{marks}\n"


DRAFT = "```python\ndef f(x):\n    return 'draft'\n\nprint(input(), 'draft')\n```\n"
WRAPPINGS: dict[str, Callable[[str], str]] = {
    "nothing": lambda p: p,
    "a fence": lambda p: fence(p),
    "a fence without a language": lambda p: fence(p, info=""),
    "tildes with attributes": lambda p: fence(p, "~", " {.python .numberLines}"),
    "prose around a fence": lambda p: f"Here's the solution (it's easy):\n\n{fence(p)}\nIt runs in O(n).\n",
    "an open fence": lambda p: "".join(split_lines(fence(p))[:-1]),
    "a list": lambda p: f"1. Solution:\n\n{indented(fence(p), '   ')}\n2. Done.\n",
    "a quote": lambda p: f"Solution:\n\n{indented(fence(p), '> ')}\nDone.\n",
    "reasoning": lambda p: f"<think>\nTry:\n{DRAFT}no, wrong.\n</think>\n\n{fence(p)}",
    "reasoning before the bare program": lambda p: f"<think>\nTry:\n{DRAFT}</think>\n{p}",
    "a draft before": lambda p: f"{DRAFT}Oops, that is wrong. Corrected:\n\n{fence(p)}",
    "a sample input before": lambda p: f"Input:\n```\n3\n1 2 3\n```\nSolution:\n{fence(p)}",
    "a transcript after": lambda p: f"{fence(p)}\n```\n$ python a.py\n6\n```\n",
    "a command after": lambda p: f"{fence(p)}\n```bash\npip install numpy\n```\n",
    "Markdown in a fence": lambda p: f"``````markdown\n# Answer\n\n{fence(p)}``````\n",
    "an answer's tags": lambda p: f"<answer>\n{fence(p)}</answer>\n",
    "special tokens": lambda p: f"{fence(p)}<|im_end|>",
    "a byte order mark": lambda p: f"\ufeff{fence(p)}",
    "Windows' line ends": lambda p: re.sub(r"(?<!\r)\n", "\r\n", f"Sure.\n{fence(p)}Done.\n"),
    "prose without a fence": lambda p: f"Here is the solution:\n\n{ended(p)}\nIt's linear, isn't it?\n",
}  # fmt: skip


def same(found: str, program: str) -> bool:
    return found.replace("\r\n", "\n").strip("\n") == program.replace("\r\n", "\n").strip("\n")


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@settings(max_examples=40, deadline=None)
@given(program=functions)
def test_a_function_survives(wrapping: str, program: str) -> None:
    assert same(program_in_answer(WRAPPINGS[wrapping](program), "f").program, program)


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@settings(max_examples=40, deadline=None)
@given(program=scripts)
def test_a_script_survives(wrapping: str, program: str) -> None:
    assert same(program_in_answer(WRAPPINGS[wrapping](program)).program, program)


@settings(deadline=None)
@given(program=st.one_of(functions, scripts), entry_point=st.sampled_from(["f", "other", ""]))
def test_a_text_that_is_python_is_the_program_to_the_letter(program: str, entry_point: str) -> None:
    assert program_in_answer(program, entry_point).program == program


MARKS = st.sampled_from([
    *("```", "```python\n", "~~~\n", "\n", "    ", "- ", "> ", "1. ", '"\"\"', "'", "(", "\r\n"),
    *("\t", "\\", "\0", "\ud800", "é"),
    *("def f(x):\n", "return x\n", ">>> f(1)\n", "x = 1\n", "print(x)\n", "if x:\n"),
    *("<think>", "</think>", "<|im_end|>", "[DONE]", "<answer>"),
])  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(
    answer=st.lists(st.one_of(MARKS, st.text(max_size=8)), max_size=40).map("".join),
    entry_point=st.sampled_from(["f", ""]),
    starter=st.sampled_from(["", "def f(x):\n", 'def f(x):\n    """One."""\n', "from typing import *\n", "def ("]),
)
def test_something_is_taken_of_any_text(answer: str, entry_point: str, starter: str) -> None:
    found = program_in_answer(answer, entry_point, starter)
    assert found.how
    assert isinstance(found.program, str)
