"""The codec between program and judge."""

import collections
import enum
import ipaddress
import math
import pathlib
from array import array
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighted_mtp.sandbox.guest.codec import CodecError, from_plain, pack, to_plain, unpack

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


library = st.one_of(
    st.fractions(), st.decimals(allow_nan=False), st.dates(), st.datetimes(), st.times(), st.timedeltas(),
    st.datetimes(timezones=st.just(timezone(timedelta(hours=-3)))), st.just(timezone(timedelta(minutes=5))),
    st.lists(st.integers(0, 255)).map(lambda items: array("B", items)), st.slices(9),
    st.dictionaries(keys, st.integers(), max_size=3).map(collections.Counter),
    st.dictionaries(keys, st.integers(), max_size=3).map(collections.OrderedDict),
    st.dictionaries(keys, st.integers(), max_size=3).map(lambda items: collections.defaultdict(list, items)),
    st.uuids(), st.ip_addresses(), st.ip_addresses().map(ipaddress.ip_network), st.text().map(collections.UserString),
    st.ip_addresses().map(ipaddress.ip_interface), st.just(...), st.just(NotImplemented),
    st.text().map(pathlib.PurePosixPath), st.text().map(pathlib.PureWindowsPath),
    st.lists(atoms, max_size=3).map(collections.UserList),
    st.dictionaries(keys, st.integers(), max_size=3).map(collections.UserDict),
    st.lists(st.dictionaries(keys, st.integers(), max_size=3), min_size=1, max_size=3).map(
        lambda maps: collections.ChainMap(*maps)
    ),
)  # fmt: skip


@given(library)
def test_a_value_of_the_library_arrives_equal_and_of_the_same_type(value):
    arrived = across(value)
    assert arrived == value
    assert type(arrived) is type(value)
    if "set(" not in repr(value):  # a set's order is that of its hashes and of how it was filled
        assert repr(arrived) == repr(value)


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


class Mapping(dict):
    pass


class Share(Fraction):
    pass


class Day(date):
    pass


class Moment(datetime):
    pass


class Price(Decimal):
    pass


class Sly(str):
    def __eq__(self, other):
        return True

    __hash__ = str.__hash__


@pytest.mark.parametrize("value", [Sly("a"), [Sly("a")], {Sly("a"): 1}])
def test_what_compares_itself_is_referred_to(value):
    with pytest.raises(TypeError):
        across(value)


def test_views_of_a_dict_arrive_as_views():
    views = [{1: 2, 3: 4}.keys(), {1: 2, 3: 4}.items()]
    assert across(views) == views
    assert list(across({1: 2, 3: 4}.values())) == [2, 4]


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Mapping(a=1), {"a": 1}),
        (Share(1, 3), Fraction(1, 3)),
        (Day(2024, 2, 29), date(2024, 2, 29)),
        (Moment(2024, 2, 29, 3), datetime(2024, 2, 29, 3)),
        (Price("1.50"), Decimal("1.50")),
        (collections.namedtuple("Point", "x y")(1, 2), (1, 2)),
        (Colour.RED, 1),
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
     b'["v"]', b'["v","open","/"]', b'["v","Fraction",1,0]', b'["v","Decimal","x"]', b'["v","date",1]',
     b'["v","UUID",1]', b'["v","UUID","x"]', b'["v","PurePosixPath",["t"]]', b'["v","UserString",1]',
     b'["v","ChainMap",1]', b'["v","UserList",1]', b'["v","memoryview",["t",3],"i",["b","00"]]',
     b'["v","memoryview",1,"B",["b","00"]]', b'["v","PosixPath","/"]', b'["y","Elipsis"]',
     b'["i","x"]', b'["i"]', b'["y","open"]', b'["b","0"]', b'["c","1"]', b'["r",1,2,0]', b'[["l"]]'],
)  # fmt: skip
def test_nonsense_is_a_codec_error(payload):
    with pytest.raises(CodecError):
        from_plain(unpack(payload), refuse)
