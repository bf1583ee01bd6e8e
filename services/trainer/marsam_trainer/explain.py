"""A complete order field by field: what each is, where that comes from, what it may be, what it does."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from marsam.catalog.runs import Preview, RunSpec
from marsam.diffusion import registry
from marsam.diffusion.method import Setting
from marsam.diffusion.spec import Default
from marsam_trainer import versions
from marsam_trainer.knobs import KNOBS, VISIBLE
from marsam_trainer.orders import Order

_GIVEN_AS = {"accept_licence": "accepted"}
"""Fields of an order that a spec calls otherwise."""

_UNSAID = {field.name: field.default for field in fields(Order)}


@dataclass(frozen=True, kw_only=True)
class Explained:
    """One field, or one parameter of the method. `origin` says where a default comes from; it is empty for what the
    caller gave."""

    name: str
    value: str
    given: bool
    origin: str
    rule: str
    help: str
    visible: bool


def explained(order: Order, spec: RunSpec, defaults: Mapping[str, Default]) -> tuple[Explained, ...]:
    """Every field of `spec`, in the order of the table, the method's parameters in the place of theirs."""
    found: list[Explained] = []
    for knob in KNOBS:
        if knob.name == "method_params":
            settings = registry.method(spec.method).facts.settings
            found += [_parameter(setting, order, spec) for setting in settings]
            continue
        given = _said(order, knob.name)
        found.append(
            Explained(
                name=knob.name,
                value=_words(getattr(spec, _GIVEN_AS.get(knob.name, knob.name))),
                given=given,
                origin="" if given else _origin(knob.name, spec, defaults),
                rule=knob.rule,
                help=knob.help,
                visible=knob.name in VISIBLE,
            )
        )
    return tuple(found)


def _origin(name: str, spec: RunSpec, defaults: Mapping[str, Default]) -> str:
    if name in defaults:
        return defaults[name].origin
    filled_in = spec.regularisation or not name.startswith("regularisation")
    return versions.ORIGINS.get(name, "left out") if filled_in else "left out"


def _said(order: Order, name: str) -> bool:
    value = getattr(order, name)
    return bool(value) if isinstance(value, Mapping) else value != _UNSAID[name]


def _parameter(setting: Setting, order: Order, spec: RunSpec) -> Explained:
    given = order.method_params.get(setting.name) not in (None, "")
    low, high = setting.minimum, setting.maximum
    rule = f"between {low:g} and {high:g}" if low is not None and high is not None else ""
    return Explained(
        name=setting.name,
        value=_words(spec.method_params.get(setting.name)),
        given=given,
        origin="" if given else f"the usual one of {spec.method}",
        rule=rule or ", ".join(setting.choices),
        help=setting.help,
        visible=setting.name in VISIBLE,
    )


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Preview):
        return f"{len(value.prompts)} prompts every {value.every} steps"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={entry}" for name, entry in value.items())
    return "" if value is None else str(getattr(value, "licence", value))
