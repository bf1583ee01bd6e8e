"""Every value of values.yaml is set by some file of ci/, and does something there."""

import copy
import functools
import json
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from scripts.chart_readme import rows
from tests.helm.rendering import CASES, CHART, Once, template

VALUES = (CHART / "values.yaml").read_text(encoding="utf-8")
DEFAULTS = {path: json.loads(default) for path, _, default in rows(VALUES)}
ABSENT = object()


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Values files one on the other, as Helm lays them."""
    result = dict(under)
    for key, value in over.items():
        known = result.get(key)
        result[key] = merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return result


@functools.cache
def given(name: str) -> dict[str, Any]:
    """What the files of a case say. Shared: do not change it."""
    (case,) = (case for case in CASES if case.name == name)
    found: dict[str, Any] = {}
    for file in case.files:
        found = merged(found, yaml.load(file.read_text(encoding="utf-8"), Loader=Once))
    return found


def lines(text: str) -> list[str]:
    """What is rendered, without the empty lines that an absent value may leave."""
    return [line.rstrip() for line in text.splitlines() if line.strip()]


@functools.cache
def whole(name: str) -> list[str]:
    """What a case renders, its values read as `given` reads them."""
    (case,) = (case for case in CASES if case.name == name)
    done = template(given(name), apis=case.apis)
    assert done.returncode == 0, done.stderr
    return lines(done.stdout)


def look(values: Any, path: str) -> Any:
    """The value at a dotted path; ABSENT where there is none."""
    for key in path.split("."):
        if not isinstance(values, dict) or key not in values:
            return ABSENT
        values = values[key]
    return values


def setting_cases(path: str) -> list[str]:
    """Cases that set the value to something else than its default."""
    return [case.name for case in CASES if look(given(case.name), path) not in (ABSENT, DEFAULTS[path])]


@pytest.mark.slow
@pytest.mark.parametrize("path", DEFAULTS)
def test_each_value_changes_what_is_rendered(path: str) -> None:
    names = setting_cases(path)
    assert names, "no file of ci/ sets it"
    for name in names:
        (case,) = (case for case in CASES if case.name == name)
        values = copy.deepcopy(given(name))
        *folders, last = path.split(".")
        place = values
        for folder in folders:
            place = place[folder]
        del place[last]
        done = template(values, apis=case.apis)
        # Refused without it: it matters.
        if done.returncode != 0 or lines(done.stdout) != whole(name):
            return
    raise AssertionError(f"{path} is set by {names} and changes nothing")
