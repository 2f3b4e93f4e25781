"""Copies of evaluation problems are found; what merely sounds alike is not."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from splits import write_split

from weighted_mtp.data.preparation.decontaminate import _COMMON, ContaminationCheck, Overlap, _Texts
from weighted_mtp.data.preparation.fingerprints import of_programs, tokens, words
from weighted_mtp.data.schema import Problem, Solution, records
from weighted_mtp.data.sources import mbpp

STATEMENT = (
    "There are n psychos standing in a line. Each psycho is assigned a unique integer from 1 to n. At each step every "
    "psycho who has an id greater than the psycho to his right kills the psycho to his right in the line."
)
BOILERPLATE = "The first line contains two integers n and m (1 ≤ n, m ≤ 10^5), the second line contains n integers."
PROGRAM = '''
import sys
def killed(line):
    """How many steps it takes."""
    stack, best = [], 0
    for psycho in line:
        steps = 0
        while stack and stack[-1][0] < psycho:
            steps = max(steps, stack.pop()[1])
        steps = steps + 1 if stack else 0  # nobody greater on the left
        best = max(best, steps)
        stack.append((psycho, steps))
    return best
print(killed(list(map(int, sys.stdin.read().split()[1:]))))
'''


def problem(description: str, name: str = "train/1") -> Problem:
    return Problem(name, "train", "train", description)


def check_of(statement: str = "", program: str = "", language: str = "python3", is_correct: bool = True):
    return ContaminationCheck(
        [problem(statement, "eval/1")], [Solution("eval/1/0", "eval/1", program, is_correct, language)]
    )


def find(check: ContaminationCheck, statement: str = "", program: str = "", language: str = "python3"):
    return check.find(problem(statement), [Solution("train/1/0", "train/1", program, False, language)])


def filler(n: int) -> str:
    return " ".join(f"word{number}" for number in range(n))


def test_a_statement_is_the_same_whatever_its_case_punctuation_and_spaces() -> None:
    found = find(check_of(STATEMENT), STATEMENT.upper().replace(" ", "\n  ").replace(".", " —"))
    assert found is not None
    assert (found.problem_id, found.kind) == ("eval/1", "exact statement")
    assert found.text.startswith("there are n psychos standing")


def test_a_statement_is_found_inside_a_longer_one_and_the_other_way_round() -> None:
    longer = f"{filler(200)} {STATEMENT} {filler(50)}"
    for statements in ((STATEMENT, longer), (longer, STATEMENT)):
        found = find(check_of(statements[0]), statements[1])
        assert found is not None
        assert found.kind == "statement n-gram"
        assert found.text.startswith("there are n psychos")
        assert found.text.endswith("in the line")


def test_shared_boilerplate_of_long_statements_is_no_overlap() -> None:
    assert len(words(BOILERPLATE)) > 13
    assert find(check_of(f"{STATEMENT} {STATEMENT} {BOILERPLATE}"), f"{filler(80)} {BOILERPLATE}") is None


def test_a_statement_shorter_than_an_n_gram_is_compared_as_a_whole() -> None:
    check = check_of("Write a function to find the nth bell number.")
    assert find(check, "write a function: to find the nth bell number") is not None
    assert find(check, "Write a function to find the nth bell number of a set.") is None


def test_problems_without_statement_and_solutions_overlap_nothing() -> None:
    check = check_of()
    assert check.find(problem(""), []) is None
    assert find(check_of(STATEMENT, PROGRAM), "", "") is None
    assert find(ContaminationCheck([], []), STATEMENT, PROGRAM) is None


def test_a_program_is_the_same_without_its_comments_docstrings_and_layout() -> None:
    other = "\n\n".join(line.replace("    ", "\t") + "   # mine" for line in PROGRAM.split("\n") if '"""' not in line)
    found = find(check_of("", PROGRAM), "", other)
    assert found is not None
    assert (found.problem_id, found.kind) == ("eval/1", "exact solution")


def test_a_program_with_a_fault_put_in_is_nearly_the_same() -> None:
    found = find(check_of("", PROGRAM), "", PROGRAM.replace("if stack else 0", "if stack else 1"))
    assert found is not None
    assert found.kind == "solution n-gram"
    assert "def killed ( line )" in found.text


def test_an_authors_template_is_no_overlap() -> None:
    template = PROGRAM.partition("        best")[0]
    own = "".join(f"value{number} = read{number}()\n" for number in range(30))
    assert len(tokens(template, "python3")) > 60
    assert find(check_of("", template + own), "", template + own.replace("read", "ask")) is None


def test_programs_that_many_write_by_chance_are_not_compared() -> None:
    assert find(check_of("", "print(int(input()) * 2)"), "", "print(int(input()) * 2)") is None


def test_incorrect_programs_of_the_evaluation_side_do_not_count() -> None:
    assert find(check_of("", PROGRAM, is_correct=False), "", PROGRAM) is None


def test_programs_of_other_languages_are_compared_without_their_comments() -> None:
    program = (
        "int main(){int n;std::cin>>n;/* all\n of them */ for(int i=0;i<n;++i){std::cout<<i/2<<n;} return 0;} // end"
    )
    other = program.replace("/* all\n of them */", "\n").replace("// end", "").replace(";", " ;\n")
    found = find(check_of("", program, "cpp"), "", other, "cpp")
    assert found is not None
    assert found.kind == "exact solution"


def test_prepared_splits_are_read(tmp_path: Path) -> None:
    for name, statement in (("one", STATEMENT), ("two", filler(40))):
        solution = Solution("0", f"{name}/1", PROGRAM if name == "two" else "pass", True)
        write_split(tmp_path / name / "test", [problem(statement, f"{name}/1")], [solution])
    check = ContaminationCheck.of([tmp_path / "one" / "test", tmp_path / "two" / "test"])
    found = [find(check, STATEMENT), find(check, filler(39)), find(check, "", PROGRAM)]
    assert [(o.problem_id, o.kind) for o in found if o] == [
        ("one/1", "exact statement"),
        ("two/1", "statement n-gram"),
        ("two/1", "exact solution"),
    ]


def shares_by_hand(texts: Sequence[str], text: str, n: int, of_longer: bool) -> list[float]:
    """For each text, the words of `text` in n-grams of it as a share of the longer or shorter of the two."""
    grams = [{other[i : i + n] for i in range(len(other) - n + 1)} for other in texts]
    homes: dict[str, int] = {}
    for gram in set().union(*grams):
        homes[gram] = sum(gram in other for other in grams)
    shares = []
    for other, theirs in zip(texts, grams, strict=True):
        covered = set()
        for i in range(len(text) - n + 1):
            if text[i : i + n] in theirs and homes[text[i : i + n]] <= _COMMON:
                covered.update(range(i, i + n))
        shares.append(len(covered) / (max if of_longer else min)(len(other), len(text)))
    return shares


letters = st.text("abc", min_size=1, max_size=16)


@given(st.lists(letters, min_size=1, max_size=14, unique=True), letters, st.booleans())
@settings(max_examples=300, deadline=None)
def test_overlap_is_that_of_a_slow_loop(texts: list[str], text: str, of_longer: bool) -> None:
    n, share = 3, 0.6
    names, evaluated = list(map(str, range(len(texts)))), of_programs((" ".join(other), "text") for other in texts)
    found = _Texts(names, evaluated, n, share, of_longer=of_longer).first(of_programs([(" ".join(text), "text")]))
    shares = shares_by_hand(texts, text, n, of_longer)
    if text in texts:
        assert found is not None
        assert (found.name, found.is_all, text[found.run]) == (str(texts.index(text)), True, text)
    elif max(shares) >= share:
        assert found is not None
        assert not found.is_all
        assert shares[int(found.name)] == max(shares)
        assert len(text[found.run]) >= n
    else:
        assert found is None


def test_the_first_of_many_programs_that_overlaps_is_told() -> None:
    others = [
        Solution(f"train/1/{k}", "train/1", f"def f{k}(x):\n    return {filler(400)!r} + str(x * {k})\n" * 8, True)
        for k in range(200)
    ]
    copy = Solution("", "train/1", PROGRAM, True)
    nearly = replace(copy, code=PROGRAM.replace("if stack else 0", "if stack else 1"))
    found = check_of("", PROGRAM).find(problem(""), [*others, nearly, copy, *others])
    assert found is not None
    assert found.kind == "solution n-gram"


def test_n_grams_of_too_many_problems_are_boilerplate() -> None:
    for copies, is_found in ((_COMMON, True), (_COMMON + 1, False)):
        check = ContaminationCheck([problem(f"{STATEMENT} {k}", f"eval/{k}") for k in range(copies)], [])
        assert (find(check, STATEMENT) is not None) is is_found


def test_mbpp_has_near_duplicates_across_its_own_splits(shared: Path) -> None:
    problems, solutions = records(mbpp.read(shared / "mbpp" / "mbpp.jsonl.gz"))
    home = {p.problem_id: p.split for p in problems}
    check = ContaminationCheck(
        [p for p in problems if p.split == "test"], [s for s in solutions if home[s.problem_id] == "test"]
    )
    found: dict[str, Overlap] = {}
    for task, solution in zip(problems, solutions, strict=True):
        if task.split == "train" and (overlap := check.find(task, [solution])) is not None:
            found[task.problem_id] = overlap
    assert len(found) == 24
    assert found["mbpp/602"].problem_id == "mbpp/217"  # "find the first repeated character in a given string", twice
    assert found["mbpp/608"].kind == "solution n-gram"  # bell numbers by the same program, asked in other words
    assert "mbpp/752" not in found  # jacobsthal numbers and a sum by recursion: alike programs, other tasks
