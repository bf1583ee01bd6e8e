"""Frozen dataclasses ⇄ canonical JSON.

Canonical: UTF-8, keys sorted, no spaces, finite numbers only; so equal records have equal bytes. Reading is strict: an
unknown key, a missing one or a wrong type is a `Corrupt` error that names the place, because a manifest that is half
understood is worse than one that is refused. A class that is stored on its own carries `SCHEMA: ClassVar[str]`, which
is written as the key `schema` and compared on the way back.
"""

import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import datetime
from enum import Enum
from functools import cache
from typing import Any, TypeVar, cast

from marsam.core.clock import format_time, parse_time
from marsam.core.errors import Corrupt, Invalid, MarsamError, did_you_mean

T = TypeVar("T")


def canonical(value: object) -> bytes:
    """Return the canonical JSON bytes of plain data; Invalid when it holds NaN, an infinity or a foreign type."""
    try:
        text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return text.encode("utf-8")
    except (TypeError, ValueError) as error:
        raise Invalid(f"not representable as JSON: {error}", reason="NOT_JSON") from error


def dump(record: object) -> bytes:
    """Return the canonical bytes of a dataclass instance, its `schema` included where it has one."""
    return canonical(to_plain(record))


def to_plain(value: object) -> Any:
    """Return `value` as dicts, lists and scalars; dataclasses become dicts, times become RFC 3339 text."""
    if is_dataclass(value) and not isinstance(value, type):
        plain = {f.name: to_plain(getattr(value, f.name)) for f in fields(value)}
        schema = getattr(type(value), "SCHEMA", None)
        return {"schema": schema, **plain} if schema else plain
    if isinstance(value, datetime):
        return format_time(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(v) for v in value]
    return value


def load(cls: type[T], data: bytes, *, what: str = "") -> T:
    """Return the `cls` that `data` holds; Corrupt, naming `what` and the place inside, when it holds something else."""
    what = what or cls.__name__
    try:
        plain = json.loads(data)
    except (ValueError, UnicodeDecodeError) as error:
        raise Corrupt(f"{what} is not JSON: {error}", reason="MANIFEST_UNREADABLE") from error
    return from_plain(cls, plain, what=what)


def from_plain(cls: type[T], plain: object, *, what: str = "") -> T:
    """Return the `cls` that plain JSON data describes; Corrupt as for `load`."""
    return cast(T, _build(cls, plain, what or cls.__name__))


def _wrong(place: str, expected: str, value: object) -> Corrupt:
    got = type(value).__name__ if not isinstance(value, str) else f"'{value[:40]}'"
    return Corrupt(f"{place}: expected {expected}, got {got}", reason="MANIFEST_INVALID")


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _build(cls: type, plain: object, place: str) -> object:
    if not isinstance(plain, dict):
        raise _wrong(place, "an object", plain)
    known: dict[str, Field[Any]] = {f.name: f for f in fields(cls)}
    schema = getattr(cls, "SCHEMA", None)
    given = dict(plain)
    if schema is not None:
        found = given.pop("schema", None)
        if found != schema:
            raise Corrupt(
                f"{place}: expected schema '{schema}', got '{found}'",
                reason="SCHEMA_UNKNOWN",
                remedy="it was written by another version of Marsam",
            )
    for key in given:
        if key not in known:
            raise Corrupt(
                f"{place}: unknown key '{key}'", reason="MANIFEST_INVALID", remedy=did_you_mean(key, list(known))
            )
    hints = _hints(cls)
    values: dict[str, object] = {}
    for name, field in known.items():
        if name in given:
            values[name] = _convert(hints[name], given[name], f"{place}.{name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise Corrupt(f"{place}: key '{name}' is missing", reason="MANIFEST_INVALID")
    try:
        return cls(**values)
    except MarsamError as error:
        raise Corrupt(f"{place}: {error.message}", reason="MANIFEST_INVALID") from error


def _convert(hint: Any, value: object, place: str) -> object:
    """Return JSON `value` as the annotated type `hint`, checked."""
    if hint is Any or hint is object:
        return value
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        rest = [a for a in arguments if a is not type(None)]
        for option in rest[:-1]:
            try:
                return _convert(option, value, place)
            except Corrupt:
                continue
        return _convert(rest[-1], value, place)
    if origin is typing.Literal:
        if value not in arguments:
            raise _wrong(place, " | ".join(map(str, arguments)), value)
        return value
    if origin in (tuple, Sequence) or hint is tuple:
        return _sequence(arguments, value, place)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise _wrong(place, "an object", value)
        return {k: _convert(arguments[1], v, f"{place}.{k}") for k, v in value.items()}
    if is_dataclass(hint):
        return _build(cast(type, hint), value, place)
    return _scalar(hint, value, place)


def _sequence(arguments: tuple[Any, ...], value: object, place: str) -> tuple[object, ...]:
    if not isinstance(value, list):
        raise _wrong(place, "a list", value)
    if not arguments or arguments[-1] is Ellipsis or len(arguments) == 1:
        inner = arguments[0] if arguments else Any
        return tuple(_convert(inner, v, f"{place}[{i}]") for i, v in enumerate(value))
    if len(arguments) != len(value):
        raise _wrong(place, f"a list of {len(arguments)}", value)
    return tuple(_convert(a, v, f"{place}[{i}]") for i, (a, v) in enumerate(zip(arguments, value, strict=True)))


def _scalar(hint: Any, value: object, place: str) -> object:
    if hint is datetime:
        if not isinstance(value, str):
            raise _wrong(place, "a time", value)
        try:
            return parse_time(value)
        except ValueError as error:
            raise _wrong(place, "a time", value) from error
    if isinstance(hint, type) and issubclass(hint, Enum):
        try:
            return hint(value)
        except ValueError as error:
            raise _wrong(place, " | ".join(str(member.value) for member in hint), value) from error
    if hint is float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise _wrong(place, "a finite number", value)
        return float(value)
    if hint is int and (isinstance(value, bool) or not isinstance(value, int)):
        raise _wrong(place, "a whole number", value)
    if not isinstance(value, hint):
        raise _wrong(place, hint.__name__, value)
    return value
