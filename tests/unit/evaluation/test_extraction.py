"""From answers as models write them to the program that is meant."""

import ast
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from weighted_mtp.data.schema import TestCase, records
from weighted_mtp.data.sources import codecontests, humaneval, mbpp
from weighted_mtp.evaluation.extraction import lines as prose
from weighted_mtp.evaluation.extraction import program_in_answer
from weighted_mtp.evaluation.extraction.lines import runs
from weighted_mtp.sandbox import Job, SandboxPool

# An answer a line. What is meant is always a function `f` that adds one, or a script that adds the two numbers on each
# of the lines after the first; whatever else is in the answer does something else.
ANSWERS = [json.loads(line) for line in (Path(__file__).parent / "answers.jsonl").read_text().splitlines()]
TESTS = {
    "f": (TestCase("call", "(1,)", "2"), TestCase("call", "(5,)", "6")),
    "": (TestCase("stdio", "2\n1 2\n3 4\n", "3\n7\n"), TestCase("stdio", "1\n-5 5\n", "0\n")),
}
F = "def f(x):\n    return x + 1\n"
STARTER = 'from typing import List\n\n\ndef f(x: int) -> int:\n    """Add one."""\n'


@pytest.fixture(scope="module")
def pool() -> Iterator[SandboxPool]:
    with SandboxPool(workers=2) as pool:
        yield pool


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: f"{answer['entry_point'] or 'script'}: {answer['name']}")
def test_the_program_that_is_meant_is_found(pool: SandboxPool, answer: dict[str, str]) -> None:
    found = program_in_answer(answer["answer"], answer["entry_point"])
    (outcome,) = pool.run_many([Job(found.program, answer["entry_point"], TESTS[answer["entry_point"]])])
    assert outcome.status == "passed", f"{found.how}: {outcome.detail}\n{found.program}"


@pytest.mark.parametrize(
    ("answer", "how"),
    [
        (F, "whole answer"),
        (f"[BEGIN]\n{F}[DONE]\n", "whole answer without its words"),
        (f"```python\n{F}```", "last block that defines `f`"),
        (f"```\nimport math\n```\n```\n{F}x = math.pi\n```", "last block that defines `f` with 1 more that it needs"),
        (f"```\n{F}assert f(1) == 3\n```", "last block that defines `f` without its examples"),
        (f"<think>\nno\n</think>\n```\n{F}```", "last block that defines `f`, after the reasoning"),
        (f"<think>\n```\n{F}```", "last block that defines `f`, in reasoning that does not end"),
        (f"Here:\n\n{F}\nDone.", "last run of lines that defines `f`"),
        ("It is `f = lambda x: x + 1` then.", "last code among words that defines `f`"),
        ("```python\nclass Solution:\n    pass\n```", "last block, which does not define `f`"),
        ("```python\ndef f(x:\n```", "last block, which is not Python"),
        ("I do not know.", "whole answer, in which no program was found"),
    ],
)
def test_it_says_how_the_program_was_taken(answer: str, how: str) -> None:
    assert program_in_answer(answer, "f").how == how


def test_it_says_how_a_script_was_taken() -> None:
    assert program_in_answer("```\n2\n```\n```\nprint(input())\n```").how == "last block that is a script"
    assert program_in_answer("So:\n\nprint(input())\n\nDone it.").how == "longest run of lines that is a script"


@pytest.mark.parametrize("answer", ["I do not know.", "", "```\n2\n```\nThe answer is 2.", "<think>hm</think>\nNo."])
def test_an_answer_without_a_program_stays_as_it_is(answer: str) -> None:
    assert program_in_answer(answer, "f").program == answer


def test_a_last_block_that_does_not_parse_gives_way_to_one_before_that_does() -> None:
    assert program_in_answer(f"```python\n{F}```\nBetter:\n```python\ndef f(x):\n    return (x", "f").program == F


def test_a_broken_program_is_not_mended() -> None:
    broken = "def main(:\n    n = int(input())\n    print(n)\n\nmain()\n"
    assert program_in_answer(broken).program == broken
    assert program_in_answer(f"```python\n{broken}```").program == broken


@pytest.mark.parametrize(
    ("answer", "after"),
    [
        (f"```python\n{F}```", f"\n{F}"),
        (F, f"\n{F}"),
        ("    return x + 1\n", "    return x + 1\n"),
        ("```python\n    return x + 1\n```", "    return x + 1\n"),
        ("```python\nreturn x + 1\n```", "    return x + 1\n"),
        ("The body is:\n\n    y = x\n    return y + 1\n\nDone.", "    y = x\n    return y + 1\n\n"),
        (f"```python\n{STARTER}    return x + 1\n```", "    return x + 1\n"),
    ],
)
def test_a_program_begins_with_its_starter(answer: str, after: str) -> None:
    assert program_in_answer(answer, "f", STARTER).program == STARTER + after


STRIPPED = [
    "n = 0\n    for c in s:\n        n += 1\n    return n\n",
    "n = 0\n\n    for c in s:\n        n += 1\n\n    return n\n",
    "n = 0\n# then\n    for c in s:\n        n += 1\n    return n\n",
    "n = 0\n\tfor c in s:\n\t\tn += 1\n\treturn n\n",
    "n = 0\n        for c in s:\n            n += 1\n        return n\n",
    "if not s:\n        return 0\n    return len(s)\n",
    "if not s:\n        return 0\n    elif s:\n        return len(s)\n    return -1\n",
    "for n, c in enumerate(s, 1):\n        if n == len(s):\n            return n\n    return 0\n",
    "for _ in s:\n        n = len(s)\n    return n if s else 0\n",
    "def length(t):\n        return len(t)\n    return length(s)\n",
    "import math\n    return math.floor(len(s))\n",
]


@pytest.mark.parametrize("text", STRIPPED)
@pytest.mark.parametrize(
    "around",
    [
        "{}",
        "<answer>\n{}</answer>\n",
        "{}\nIt counts, (I think.\n",
        "Here:\n\n{}\nDone it.",
        "```python\n{}```",
        "Sure.\n```\n{}```\nDone.",
    ],
)
def test_a_body_whose_first_line_lost_its_indentation_is_whole(pool: SandboxPool, text: str, around: str) -> None:
    found = program_in_answer(around.format(text), "f", 'def f(s):\n    """d"""\n')
    tests = (TestCase("call", "('',)", "0"), TestCase("call", "('abc',)", "3"))
    (outcome,) = pool.run_many([Job(found.program, "f", tests)])
    assert outcome.status == "passed", f"{found.how}: {outcome.detail}\n{found.program}"
    assert found.how.endswith("a function's body")
    assert text.splitlines()[0] in found.program


@pytest.mark.parametrize("prose", ["Sure\n", "Gladly, friend\n", "- body\n", "The body is:\n", "Body:\n\n"])
def test_prose_before_a_body_is_no_line_of_it(prose: str) -> None:
    assert program_in_answer(f"{prose}    return x + 1\n", "f", STARTER).program == f"{STARTER}    return x + 1\n"


def test_a_body_in_a_quotation_is_whole() -> None:
    program = program_in_answer("So:\n> y = x\n>     return y + 1\n", "f", STARTER).program
    assert program.startswith(f"{STARTER}    y = x\n    return y + 1\n")


def test_what_follows_a_stripped_body_stays() -> None:
    program = program_in_answer("y = x\n    return y + 1\n\nprint(f(2))\n", "f", STARTER).program
    assert program == f"{STARTER}    y = x\n    return y + 1\n\nprint(f(2))\n"


@pytest.mark.parametrize("mark", ["\ufeff", "\u200b", "\u2060", "\ufeff\u200b"])
@pytest.mark.parametrize(
    "around", ["```python\n{}```", "Sure:\n```\n{}```\nDone.", "Sure:\n\n{}\nDone it.", "> ```\n> {}> ```"]
)
def test_marks_of_no_width_before_a_program_are_none_of_it(around: str, mark: str) -> None:
    one_line = "f = lambda x: x + 1\n"
    program = program_in_answer(around.format(mark + one_line), "f", STARTER).program
    assert program.startswith(f"{STARTER}\n{one_line}")
    assert mark not in program


@pytest.mark.parametrize("space", ["\u00a0", "\u2003", "\u3000", "\u202f"])
@pytest.mark.parametrize("around", ["{}", "```python\n{}```", "Sure:\n\n{}\nDone it."])
def test_code_may_be_indented_by_other_spaces(around: str, space: str) -> None:
    text = f"def f(x):\n{space * 4}if x:\n{space * 8}x += 1\n {space * 3}return x\n"
    program = program_in_answer(around.format(text), "f").program
    assert program.strip() == "def f(x):\n    if x:\n        x += 1\n    return x"


SUM = "import sys\n\nfor _ in range(int(input())):\n    a, b = map(int, input().split())\n    print(a + b)\n"
LOOP = SUM.removeprefix("import sys\n\n")
BY_FUNCTION = f"def solve():\n{textwrap.indent(LOOP, '    ')}\n\nsolve()\n"
NO_ANSWERS_AFTER = [
    "a, b = map(int, input().split())\nprint(a + b)\n",
    "a, b = map(int, input().split())\n...\nprint(a + b)\n",
    "for _ in range(int(input())):\n    a, b = map(int, input().split())\n    # ...\n",
    "import io, sys\nsys.stdin = io.StringIO('1\\n1 2\\n')\nprint(input(), 'tried')\n",
    "import sys\nfrom io import StringIO\ndef run(t):\n    sys.stdin = StringIO(t)\n    print(input())\n\nrun('5')\n",
    "from io import BytesIO\nimport sys\nTEXT = b'1'\nsys.stdin = BytesIO(TEXT)\nprint(sys.stdin.read())\n",
    "import io\nfrom unittest.mock import patch\nwith patch('sys.stdin', io.StringIO('5')):\n    print(input())\n",
    "import subprocess\nprint(subprocess.run(['python', 'a.py'], stdin=open('in.txt')))\n",
    "import sys, pytest\ndef test_it(capsys):\n    sys.stdin = open('1.txt')\n    print(input())\n\npytest.main()\n",
    "import sys\nfrom io import StringIO\ndef test_it(patch):\n    patch.setattr(sys, 'stdin', StringIO('1'))\n"
    "    print(input())\n\ntest_it(print)\n",
]


@pytest.mark.parametrize("program", [SUM, BY_FUNCTION])
@pytest.mark.parametrize("after", NO_ANSWERS_AFTER)
@pytest.mark.parametrize(
    "around", ["```python\n{}```\nKey line:\n```python\n{}```\n", "```\n{}```\n- So:\n\n  ```\n{}```\nDone."]
)
def test_an_excerpt_or_a_trial_of_a_script_is_no_answer(program: str, after: str, around: str) -> None:
    assert program_in_answer(around.format(program, after)).program == program


@pytest.mark.parametrize(
    "better",
    [
        LOOP,  # most of it: rewritten
        "import io, sys\nsys.stdin = io.StringIO(sys.stdin.read())\nprint(input())\n",  # only reads sooner
        "import sys\nsys.stdin = open(0)\nprint(sys.stdin.read())\n",
        "a, b = map(int, input().split())\nprint(a - b)\n",
        "print(sum(map(int, input().split())))\n",
    ],
)
def test_another_script_after_it_is_the_answer(better: str) -> None:
    assert program_in_answer(f"```python\n{SUM}```\nBetter:\n```python\n{better}```\n").program == better


def test_a_script_that_brings_its_own_input_is_taken_where_there_is_no_other() -> None:
    script = "import io, sys\nsys.stdin = io.StringIO('5')\nprint(input())\n"
    assert program_in_answer(f"Run:\n```python\n{script}```").program == script


SESSION = ">>> def f(x):\n...     return x - 1\n...\n>>> f(1)\n0\n"


@pytest.mark.parametrize(
    "around",
    ["```python\n{0}```\nTry:\n```pycon\n{1}```\n", "```\n{1}```\nSo:\n```\n{0}```\n", "```\n{0}```\n```\n\n{1}```"],
)
def test_what_was_typed_is_no_answer_where_another_block_defines_it(around: str) -> None:
    assert program_in_answer(around.format(F, SESSION), "f").program == F


def test_what_was_typed_is_taken_where_no_other_defines_it() -> None:
    assert "return x - 1" in program_in_answer(f"```python\nimport math\n```\n```\n{SESSION}```", "f").program


@pytest.mark.parametrize("mark", ["> ", ">", "  > "])
@pytest.mark.parametrize("program", [F, f"import math\n\n{F}", "def f(x):\n    y = x\n\n    return y + 1\n"])
def test_code_in_a_quotation_needs_no_fence(mark: str, program: str) -> None:
    quoted = "".join(f"{mark}{line}".rstrip() + "\n" for line in program.splitlines())
    found = program_in_answer(f"As they say:\n\n{quoted}\nIt's so, I think.\n", "f").program
    assert ast.dump(ast.parse(found)) == ast.dump(ast.parse(program))


def test_imports_from_future_come_before_the_starter() -> None:
    program = program_in_answer(f"```python\nfrom __future__ import annotations\n{F}```", "f", STARTER).program
    assert program == f"from __future__ import annotations\n\n{STARTER}\n{F}"
    compile(program, "program", "exec")


def test_a_starter_that_is_no_python_alone_is_joined_where_it_is_needed() -> None:
    starter = "import math\ndef f(x):\n"
    assert program_in_answer(F, "f", starter).program == F
    needs = "def f(x):\n    return math.floor(x) + 1\n"
    assert program_in_answer(needs, "f", starter).program == f"{starter}    pass\n\n{needs}"
    assert program_in_answer("    return x + 1\n", "f", starter).program == f"{starter}    return x + 1\n"


def test_what_another_block_does_for_itself_is_left_out() -> None:
    helper = "def g(x):\n    return x\n\nassert g(1) == 5\nprint(g(input()))\nT = g(2)\n"
    program = program_in_answer(f"```\n{helper}```\n```\ndef f(x):\n    return g(x) + T\n```", "f").program
    assert program == "def g(x):\n    return x\n\nT = g(2)\n\ndef f(x):\n    return g(x) + T\n"


@pytest.mark.parametrize("line", ["It's prose (of a kind.\n", "(\n", '"""\n', "word\n", "if x:\n", "x = {\n", "@a\n"])
def test_the_search_among_lines_is_bounded(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = 0
    parse = prose.parse

    def counted(text: str, number: int) -> object:
        nonlocal parsed
        parsed += len(text)
        return parse(text, number)

    monkeypatch.setattr(prose, "parse", counted)
    text = [(number, line) for number in range(400_000 // len(line))]
    runs(text)
    assert parsed <= 5 * 400_000


def test_real_programs_stay_what_they_are(shared: Path) -> None:
    problems, solutions = records(mbpp.read(shared / "mbpp" / "mbpp.jsonl.gz"))
    of_contests = records(codecontests.read(shared / "codecontests" / "train.jsonl.gz"))
    of_humaneval = records(humaneval.read(shared / "humaneval" / "HumanEval.jsonl.gz"))
    entry_points = {p.problem_id: p.entry_point for p in (*problems, *of_contests[0], *of_humaneval[0])}
    programs = [(s.code, entry_points[s.problem_id]) for s in (*solutions, *of_contests[1], *of_humaneval[1])]
    assert len(programs) == 974 + 315 + 164
    for program, entry_point in programs:
        fence = f"```python\n{program}{'' if program.endswith(chr(10)) else chr(10)}```"
        assert program_in_answer(program, entry_point).program == program
        for answer in (fence, f"Here's the solution:\n\n{fence}\n\nIt's O(n), and (I think) right.\n"):
            assert program_in_answer(answer, entry_point).program.rstrip("\n") == program.rstrip("\n")
