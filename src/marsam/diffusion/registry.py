"""Families, methods and objectives by name. The name is the module's name; nothing registers itself. Importing this
imports no torch.

`family_facts`, `read_base`, `method` and `objective` are torch-free; only `family` loads tensors' code.
"""

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from marsam.core.errors import Invalid, Violation, did_you_mean, unknown_name
from marsam.diffusion import tuned
from marsam.diffusion.basefiles import read_json
from marsam.diffusion.method import Method, Setting
from marsam.diffusion.objective import Objective
from marsam.diffusion.spec import BaseFacts, Family, FamilyFacts

if TYPE_CHECKING:
    from marsam.diffusion.onefile.facts import OneFile

_ROOT = "marsam.diffusion"


@cache
def _names(package: str) -> tuple[str, ...]:
    folder = importlib.import_module(f"{_ROOT}.{package}")
    return tuple(sorted(module.name for module in pkgutil.iter_modules(folder.__path__)))


def families() -> tuple[str, ...]:
    """Names of all families."""
    return _names("families")


def methods() -> tuple[str, ...]:
    """Names of all methods."""
    return _names("methods")


def objectives() -> tuple[str, ...]:
    """Names of all objectives."""
    return _names("objectives")


def _module(kind: str, package: str, name: str, suffix: str = "") -> Any:
    if name not in _names(package):
        raise unknown_name(kind, name, _names(package), field=kind)
    return importlib.import_module(f"{_ROOT}.{package}.{name}{suffix}")


def family_facts(name: str) -> FamilyFacts:
    """Facts of a family, without torch. Raises `Invalid` (UNKNOWN_FAMILY) with the nearest names."""
    return cast(FamilyFacts, _module("family", "families", name, ".facts").FACTS)


def one_file(name: str) -> "OneFile":
    """How a family's checkpoints in one file look, without torch."""
    return cast("OneFile", _module("family", "families", name, ".facts").ONE_FILE)


def read_base(name: str, configs: Mapping[str, Mapping[str, Any]]) -> BaseFacts:
    """Facts of a base of family `name` from its parsed JSON files, without torch. Raises `Invalid`."""
    return cast(BaseFacts, _module("family", "families", name, ".facts").read_base(configs))


def read_base_folder(name: str, source: Path) -> BaseFacts:
    """As `read_base`, from a diffusers folder."""
    paths = [path for path in family_facts(name).config_files if (source / path).is_file()]
    return read_base(name, {path: read_json(source / path) for path in paths})


def family(name: str) -> Family:
    """The family itself; loads torch and the model classes."""
    return cast(Family, _module("family", "families", name, ".net").FAMILY)


def method(name: str) -> Method:
    """A method; torch is loaded when it is used. Raises `Invalid` (UNKNOWN_METHOD)."""
    return cast(Method, _module("method", "methods", name).METHOD)


def objective(name: str) -> Objective:
    """An objective: pure functions of tensors."""
    return cast(Objective, _module("objective", "objectives", name).OBJECTIVE)


def method_params(name: str, given: Mapping[str, Any], *, family: str | None) -> dict[str, Any]:
    """All parameters of a method: `given` checked, the rest at their defaults, `targets` resolved to a preset of the
    family. Where no family is known, what depends on it is left unchecked.

    Raises one `Invalid` with a violation per fault.
    """
    facts = method(name).facts
    settings = {setting.name: setting for setting in facts.settings}
    of_family = family_facts(family) if family is not None else None
    faults = [
        Invalid(
            f"{name} has no parameter {key!r}; {did_you_mean(key, sorted(settings))}",
            field=f"method_params.{key}",
            reason="UNKNOWN_PARAMETER",
        )
        for key in given
        if key not in settings
    ]
    values: dict[str, Any] = {}
    for key, setting in settings.items():
        if key == "targets" and of_family is not None:
            choices = tuple(of_family.targets)
            setting = Setting(name=key, type=str, default=of_family.default_targets, choices=choices, help=setting.help)
        value = given.get(key)
        try:
            values[key] = setting.default if value is None or value == "" else _checked(setting, value)
        except Invalid as error:
            faults.append(error)
    if of_family is not None:
        try:
            tuned.check(values, facts, of_family)
        except Invalid as error:
            faults.append(error)
    if faults:
        raise _joined(faults)
    return values


def _joined(faults: Sequence[Invalid]) -> Invalid:
    """One error for all of them: a violation has no remedy of its own, so that it ends the message."""
    if len(faults) == 1:
        return faults[0]
    violations = [
        Violation(field=violation.field, message=str(fault), reason=violation.reason)
        for fault in faults
        for violation in fault.violations
    ]
    return Invalid(faults[0].message, reason=faults[0].reason, field=faults[0].field, violations=violations)


def _is(value: Any, wanted: type) -> bool:
    # Exactly the type: True is no number of steps.
    return type(value) is wanted


def _checked(setting: Setting, value: Any) -> Any:
    where = f"method_params.{setting.name}"
    if setting.type is float and type(value) is int:
        value = float(value)
    # Numbers that went through a JSON struct come back as floats.
    if setting.type is int and type(value) is float and value.is_integer():
        value = int(value)
    if not _is(value, setting.type):
        raise Invalid(
            f"{setting.name} must be a {setting.type.__name__}, got {value!r}", field=where, reason="PARAMETER_TYPE"
        )
    if setting.choices and value not in setting.choices:
        raise Invalid(
            f"{setting.name} must be one of {', '.join(setting.choices)}, got {value!r}",
            field=where,
            reason="PARAMETER_CHOICE",
            remedy=did_you_mean(str(value), setting.choices),
        )
    # Written so that NaN, which compares false with everything, is refused too.
    low, high = setting.minimum, setting.maximum
    if low is not None and high is not None and not low <= value <= high:
        raise Invalid(
            f"{setting.name} must be between {low:g} and {high:g}, got {value}", field=where, reason="PARAMETER_RANGE"
        )
    return value
