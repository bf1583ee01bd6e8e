"""Settings: frozen dataclasses filled from a TOML file and `MARSAM_*` variables; a key nobody knows is an error."""

import re
import tomllib
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

from marsam.core.errors import Invalid, did_you_mean

T = TypeVar("T")

# Kubernetes injects such variables for every Service in the namespace, ours (marsam-dataset …) included.
_SERVICE_LINK = re.compile(r".*_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP)(_\w+)?)?)")


def load_settings(
    cls: type[T],
    *,
    env: Mapping[str, str],
    file: Path | None = None,
    prefix: str = "MARSAM_",
    also_known: Collection[str] = (),
) -> T:
    """Return a `cls` from its defaults, then `file` (TOML, one flat table), then `env` (`prefix` + FIELD_NAME).

    `also_known` names variables with the prefix that belong to somebody else. Supported field types: str, int, float,
    bool, Path, `tuple[str, ...]` (comma-separated in the environment), each of them or None ('' in the environment).

    Raises Invalid naming the file key or variable: unknown, ill-typed or required and absent.
    """
    hints = typing.get_type_hints(cls)
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]  # T is a dataclass by contract
    values: dict[str, object] = {}
    for key, value in _read_toml(file).items():
        if key not in known:
            raise Invalid(f"unknown setting '{key}' in {file}", field=key, reason="SETTING_UNKNOWN",
                          remedy=did_you_mean(key, known))  # fmt: skip
        values[key] = _typed(hints[key], value, f"'{key}' in {file}", key)
    variables = {prefix + name.upper(): name for name in known}
    for variable, text in env.items():
        if not variable.startswith(prefix) or variable in also_known:
            continue
        if variable in variables:
            name = variables[variable]
            values[name] = _from_text(hints[name], text, variable, name)
        elif not _SERVICE_LINK.fullmatch(variable):
            raise Invalid(f"unknown setting {variable} in the environment", field=variable, reason="SETTING_UNKNOWN",
                          remedy=did_you_mean(variable, list(variables)))  # fmt: skip
    for field in fields(cls):  # type: ignore[arg-type]
        if field.name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise Invalid(f"setting '{field.name}' is required", field=field.name, reason="SETTING_MISSING",
                          remedy=f"set {prefix}{field.name.upper()}")  # fmt: skip
    return cls(**values)


def read_pem(path: Path, setting: str, *, reason: str) -> bytes:
    """Content of the PEM file that a setting names. Raises Invalid with `reason`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise Invalid(
            f"cannot read {path}: {error.strerror}",
            field=setting,
            reason=reason,
            remedy=f"set MARSAM_{setting.upper()} to a PEM file that this service may read",
        ) from error


def _read_toml(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise Invalid(f"cannot read {file}: {error.strerror}", reason="SETTINGS_UNREADABLE") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"{file} is not TOML: {error}", reason="SETTINGS_UNREADABLE") from error


def _options(hint: Any) -> tuple[Any, bool]:
    """Return (the type, whether None is allowed too)."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        rest = [a for a in typing.get_args(hint) if a is not type(None)]
        return rest[0], True
    return hint, False


def _from_text(hint: Any, text: str, place: str, field: str) -> object:
    kind, optional = _options(hint)
    if optional and text == "":
        return None
    try:
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        if kind in (int, float):
            return kind(text)
    except (ValueError, KeyError) as error:
        raise _ill_typed(kind, text, place, field) from error
    if typing.get_origin(kind) is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return kind(text)


def _typed(hint: Any, value: object, place: str, field: str) -> object:
    kind, _ = _options(hint)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if typing.get_origin(kind) is tuple and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value)
    if not isinstance(kind, type) or not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _ill_typed(kind, value, place, field)
    return value


def _ill_typed(kind: Any, value: object, place: str, field: str) -> Invalid:
    expected = getattr(kind, "__name__", str(kind))
    return Invalid(f"{place} must be a {expected}, got {value!r}", field=field, reason="SETTING_ILL_TYPED")
