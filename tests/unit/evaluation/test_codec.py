"""The codec between program and judge."""

import collections
import enum
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighted_mtp.evaluation.guest.codec import CodecError, from_plain, pack, to_plain, unpack

atoms = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.complex_numbers(allow_nan=False),
    st.text(st.characters(exclude_categories=())), st.binary(),
)  # fmt: skip
keys = st.one_of(atoms, st.tuples(atoms, atoms), st.frozensets(atoms, max_size=3))
values = st.recursive(
    st.one_of(keys, st.sets(keys, max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(collections.deque),
        st.dictionaries(keys, inner, max_size=3),
        st.tuples(inner),
    ),
    max_leaves=8,
)


def refuse(*arguments):
    raise TypeError(arguments)


def across(value):
    return from_plain(unpack(pack(to_plain(value, refuse))), refuse)


def same_types(one, other) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return all(same_types(*pair) for pair in zip(one.items(), other.items(), strict=True))
    if isinstance(one, (list, tuple, collections.deque)):
        return all(map(same_types, one, other))
    return True


@given(values)
def test_a_value_arrives_equal_and_of_the_same_types(value):
    arrived = across(value)
    assert arrived == value
    assert same_types(arrived, value)


def test_nan_infinities_and_signed_zero_arrive():
    assert math.isnan(across(math.nan))
    assert across([math.inf, -math.inf]) == [math.inf, -math.inf]
    assert math.copysign(1, across(-0.0)) == -1


class Colour(enum.IntEnum):
    RED = 1


class Sly(str):
    def __eq__(self, other):
        return True

    __hash__ = str.__hash__


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.defaultdict(list, {1: [2]}), {1: [2]}),
        (collections.namedtuple("Point", "x y")(1, 2), (1, 2)),
        (Colour.RED, 1),
        (Sly("a"), "a"),
        (bytearray(b"a"), b"a"),
        (range(3), range(3)),
    ],
)
def test_a_subclass_arrives_as_its_base(value, plain):
    assert across(value) == plain
    assert type(across(value)) is type(plain)


def test_builtin_types_arrive_as_themselves_and_others_do_not():
    assert across([int, str, type(None)]) == [int, str, type(None)]
    with pytest.raises(TypeError):
        across(Colour)


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"\xff", b"[" * 100_000, b'{"a":1}', b"[]", b"[1]", b'["z",1]', b'["d",1]', b'["s",["l"]]',
     b'["i","x"]', b'["i"]', b'["y","open"]', b'["b","0"]', b'["c","1"]', b'["r",1,2,0]', b'[["l"]]'],
)  # fmt: skip
def test_nonsense_is_a_codec_error(payload):
    with pytest.raises(CodecError):
        from_plain(unpack(payload), refuse)
