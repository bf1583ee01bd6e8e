"""Each alert says how bad it is, what is wrong and what to do, and is held to firing and to staying quiet."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from marsam.telemetry import metrics

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy/helm/marsam/alerts"
TESTS = ROOT / "tests/integration/monitoring/alerts"
FILES = sorted(FOLDER.glob("*.yaml"))


def rules(path: Path) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


ALERTS = [pytest.param(path, rule, id=rule["alert"]) for path in FILES for rule in rules(path) if "alert" in rule]
NAMES = [rule["alert"] for path in FILES for rule in rules(path) if "alert" in rule]


def test_there_are_alerts_for_runs_services_and_pictures() -> None:
    assert [path.name for path in FILES] == ["generator.yaml", "platform.yaml", "runs.yaml"]
    assert len(NAMES) == len(set(NAMES)) >= 16


@pytest.mark.parametrize(("path", "rule"), ALERTS)
def test_an_alert_says_what_it_means_and_what_to_do(path: Path, rule: dict[str, Any]) -> None:
    assert rule["alert"].startswith("Marsam")
    assert rule["labels"] == {"severity": rule["labels"]["severity"]}
    assert rule["labels"]["severity"] in ("info", "warning", "critical")
    assert re.fullmatch(r"\S.{10,100}\.", rule["annotations"]["summary"])
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^### (\w+)\n\n(\S)", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert anchor == rule["alert"].lower()
    assert anchor in {heading.lower() for heading, _ in headings}


def test_the_runbook_explains_no_alert_that_is_gone() -> None:
    page = (ROOT / "docs/runbook.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^### (\w+)", page, flags=re.MULTILINE)) == sorted(NAMES)


@pytest.mark.parametrize(("path", "rule"), ALERTS)
def test_an_alert_is_seen_to_fire_and_to_stay_quiet(path: Path, rule: dict[str, Any]) -> None:
    cases = [
        (test, check)
        for test in yaml.safe_load((TESTS / path.name).read_text())["tests"]
        for check in test["alert_rule_test"]
        if check["alertname"] == rule["alert"]
    ]
    assert any(check["exp_alerts"] for _, check in cases)
    # Quiet: no alert at all at some time, or series of others beside those that fired.
    assert any(len(check["exp_alerts"]) <= len(test["input_series"]) / 2 for test, check in cases)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_rules_speak_of_what_is_exported(path: Path) -> None:
    known = {metric.name for metric in metrics.declared()}
    made = {rule["record"] for rule in rules(path) if "record" in rule}
    for rule in rules(path):
        for word in re.findall(r"\bmarsam[a-z0-9_:]+", rule["expr"].replace("marsam.api", "")):
            name = re.sub(r"_(bucket|sum|count)$", "", word)
            assert word in made or word in known or name in known


def test_promtool_accepts_the_rules_and_their_tests() -> None:
    checked = ["promtool", "check", "rules", "--lint=all", "--lint-fatal", *map(str, FILES)]
    tested = ["promtool", "test", "rules", *(str(TESTS / path.name) for path in FILES)]
    for command in (checked, tested):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
