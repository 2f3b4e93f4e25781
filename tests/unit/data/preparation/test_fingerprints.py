"""Fingerprints are of the words that plain regular expressions find, whatever stands around them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weighted_mtp.data.preparation.fingerprints import Fingerprints, of_programs, of_statements, tokens, words


@pytest.mark.parametrize(
    ("language", "code", "expected"),
    [
        ("python3", "a//b  # c\n", ["a", "/", "/", "b"]),
        ("python3", "x = '# no' + \"it's\\\"\"", ["x", "=", "'# no'", "+", '"it\'s\\""']),
        ("python3", 'r"""doc # x"""\nf(1)\n"""never closed', ["f", "(", "1", ")"]),
        ("python3", "print 'unclosed\ny", ["print", "'", "unclosed", "y"]),
        ("cpp", 'a // b\n"//"/**/c', ["a", '"//"', "c"]),
        ("text", "48/2 = <<48/2=24>>24", ["48", "/", "2", "=", "<", "<", "48", "/", "2", "=", "24", ">", ">", "24"]),
    ],
)
def test_tokens(language: str, code: str, expected: list[str]) -> None:
    assert tokens(code, language) == expected


def each(found: list[Fingerprints]) -> list[list[int]]:
    """Prints of every text's words."""
    return [
        some.prints[start:end].tolist()
        for some in found
        for start, end in zip(some.starts.tolist(), some.ends.tolist(), strict=True)
    ]


def prints_of(tokens_: list[str]) -> list[int]:
    """A print for every token, made of that token alone."""
    return [print_ for token in tokens_ for print_ in each(list(of_programs([(token, "python3")])))[0]]


hard = st.text(st.sampled_from(list("rbuf\"'#\\\n /*aé→_1 \t\x1c\0.")), max_size=20)
languages = st.sampled_from(["python3", "cpp"])


@given(st.lists(st.tuples(hard, languages), max_size=6))
@settings(max_examples=200, deadline=None)
def test_there_is_one_print_for_every_token_and_the_same_for_the_same(programs: list[tuple[str, str]]) -> None:
    known: dict[str, int] = {}
    found = each(list(of_programs(programs)))
    assert len(found) == len(programs)
    for (code, language), prints in zip(programs, found, strict=True):
        for token, print_ in zip(tokens(code, language), prints, strict=True):
            assert known.setdefault(token, print_) == print_
    assert len(set(known.values())) == len(known)


@given(st.lists(st.text(st.sampled_from(list("aB1_é .\n"))), max_size=6))
def test_statements_have_prints_of_their_words(statements: list[str]) -> None:
    for statement, prints in zip(statements, each(list(of_statements(statements))), strict=True):
        assert prints == prints_of(words(statement))


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=6), min_size=1, max_size=6), st.integers(1, 4))
def test_equal_runs_and_texts_have_equal_prints_and_others_do_not(texts: list[list[str]], n: int) -> None:
    (some,) = of_programs((" ".join(text), "text") for text in texts)
    flat = [word for text in texts for word in text]
    runs = ["".join(flat[i : i + n]) for i in range(len(flat) - n + 1)]
    for things, prints in ((runs, some.of_runs(n)), (["".join(text) for text in texts], some.of_texts())):
        assert len(prints) == len(things)
        assert np.array_equal(np.equal.outer(prints, prints), np.equal.outer(np.array(things), np.array(things)))


def test_many_programs_come_in_some_batches_in_their_order() -> None:
    programs = [f"value{number} = {number} * total  # {'so ' * 400}\n" for number in range(100)]
    found = list(of_programs((program, "python3") for program in programs))
    assert 1 < len(found) < len(programs)
    assert each(found) == [prints_of(tokens(program, "python3")) for program in programs]
