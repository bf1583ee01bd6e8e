import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marsam.core.errors import Corrupt, Invalid
from marsam.core.records import canonical, dump, load


class Colour(StrEnum):
    RED = "RED"
    BLUE = "BLUE"


@dataclass(frozen=True, kw_only=True)
class Part:
    name: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise Invalid("weight must be ≥ 0", field="weight")


@dataclass(frozen=True, kw_only=True)
class Thing:
    SCHEMA: ClassVar[str] = "test.thing/1"

    name: str
    at: datetime
    count: int = 0
    kind: Literal["a", "b"] = "a"
    colour: Colour = Colour.RED
    parts: tuple[Part, ...] = ()
    pair: tuple[str, int] = ("x", 1)
    pairs: tuple[tuple[str, str], ...] = ()
    maybe: str | None = None
    part: Part | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    anything: Mapping[str, Any] = field(default_factory=dict)


AT = datetime(2026, 11, 25, 1, 2, 3, 4, UTC)


def test_a_round_trip_keeps_everything() -> None:
    thing = Thing(
        name="مرسم",
        at=AT,
        count=3,
        kind="b",
        colour=Colour.BLUE,
        parts=(Part(name="p", weight=0.5), Part(name="q")),
        pair=("y", 2),
        pairs=(("a", "b"), ("c", "d")),
        maybe="yes",
        part=Part(name="only"),
        numbers={"loss": 0.25, "whole": 2.0},
        anything={"deep": {"list": [1, "two", None, True]}},
    )
    assert load(Thing, dump(thing)) == thing


def test_the_bytes_are_canonical() -> None:
    assert dump(Part(name="مرسم", weight=0.5)) == '{"name":"مرسم","weight":0.5}'.encode()
    assert canonical({"b": 1, "a": [1, 2]}) == b'{"a":[1,2],"b":1}'
    first = Thing(name="n", at=AT, numbers={"a": 1.0, "b": 2.0})
    second = Thing(name="n", at=AT, numbers={"b": 2.0, "a": 1.0})
    assert dump(first) == dump(second)


def test_times_are_utc_whatever_the_zone() -> None:
    assert b'"at":"2026-11-25T01:02:03.000004Z"' in dump(Thing(name="n", at=AT))


def test_defaults_may_be_absent_and_whole_numbers_are_floats() -> None:
    data = b'{"schema":"test.thing/1","name":"n","at":"2026-11-25T01:02:03Z","numbers":{"a":2}}'
    thing = load(Thing, data)
    assert thing.count == 0
    assert thing.numbers == {"a": 2.0}
    assert isinstance(thing.numbers["a"], float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colur": "RED"}, "unknown key 'colur' (did you mean 'colour'"),
        ({"name": None}, "Thing.name: expected str"),
        ({"count": "3"}, "Thing.count: expected a whole number"),
        ({"count": True}, "Thing.count: expected a whole number"),
        ({"count": 1.5}, "Thing.count: expected a whole number"),
        ({"kind": "c"}, "Thing.kind: expected a | b, got 'c'"),
        ({"colour": "GREEN"}, "Thing.colour: expected RED | BLUE"),
        ({"at": "yesterday"}, "Thing.at: expected a time"),
        ({"at": "2026-11-25T01:02:03"}, "Thing.at: expected a time"),
        ({"parts": {}}, "Thing.parts: expected a list"),
        ({"parts": [{"name": "p", "wight": 1}]}, "Thing.parts[0]: unknown key 'wight'"),
        ({"parts": [{"weight": 1}]}, "Thing.parts[0]: key 'name' is missing"),
        ({"parts": [{"name": "p", "weight": -1}]}, "Thing.parts[0]: weight must be ≥ 0"),
        ({"pair": ["x"]}, "Thing.pair: expected a list of 2"),
        ({"part": 3}, "Thing.part: expected an object"),
        ({"numbers": {"loss": "low"}}, "Thing.numbers.loss: expected a finite number"),
        ({"schema": "test.thing/2"}, "expected schema 'test.thing/1', got 'test.thing/2'"),
        ({"schema": None}, "expected schema"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_place(change: dict[str, Any], message: str) -> None:
    plain = {"schema": "test.thing/1", "name": "n", "at": "2026-11-25T01:02:03Z", **change}
    with pytest.raises(Corrupt) as caught:
        load(Thing, canonical(plain))
    assert message in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"name": "n"}'])
def test_bytes_that_are_no_record(data: bytes) -> None:
    with pytest.raises(Corrupt):
        load(Thing, data, what="the manifest")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_know_are_refused(value: float) -> None:
    with pytest.raises(Invalid):
        dump(Part(name="p", weight=value))
    text = str(value).replace("nan", "NaN").replace("inf", "Infinity")
    with pytest.raises(Corrupt):
        load(Part, f'{{"name":"p","weight":{text}}}'.encode())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    anything=st.dictionaries(st.text(), json_values, max_size=4),
    numbers=st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    name=st.text(),
)
def test_any_content_comes_back_equal(anything: dict[str, Any], numbers: dict[str, float], name: str) -> None:
    thing = Thing(name=name, at=AT, anything=anything, numbers=numbers)
    data = dump(thing)
    assert load(Thing, data) == thing
    assert dump(load(Thing, data)) == data
