"""Every panel and every rule, asked of a real Prometheus that watched real programs and faults on order."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from marsam.telemetry import metrics
from scripts import board_picture
from tests.integration.monitoring.stack import ALERTS
from tests.integration.monitoring.world import World, lived

pytestmark = pytest.mark.slow
DASHBOARDS = Path(__file__).parents[3] / "deploy/helm/marsam/dashboards"

NO_DATA_HERE = {
    "GPU memory (VRAM)": "there is no GPU here; the series come with device=cuda:N from the same collector",
    "Framebuffer used": "DCGM exporter",
    "Engine busy": "DCGM exporter",
    "Temperature": "DCGM exporter",
    "Power": "DCGM exporter",
}
"""Panels that show nothing on a machine without a GPU."""

SERIES = {"run": 75, "dataset": 600, "trainer": 700, "generator": 600, "faulty": 700}
"""The most series that a program of each kind may export."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with lived(tmp_path_factory.mktemp("world")) as seen:
        yield seen


def panels() -> list[Any]:
    """Every graph of every board."""
    found = []
    for path in sorted(DASHBOARDS.glob("*.json")):
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            inner = panel["panels"] if panel["type"] == "row" else [panel]
            found += [pytest.param(one, id=f"{path.stem}-{one['title']}") for one in inner]
    return found


def asked(expr: str) -> str:
    """What Grafana would send."""
    expr = board_picture.expression(expr)
    assert "$" not in expr
    return expr


def numbers(series: list[dict[str, Any]]) -> list[float]:
    return [float(value) for one in series for _, value in one["values"] if value not in ("NaN", "+Inf", "-Inf")]


@pytest.mark.parametrize("panel", panels())
def test_a_panel_shows_what_happened(world: World, panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        series = world.prometheus.over(asked(target["expr"]), world.began, world.ended)
        if panel["title"] in NO_DATA_HERE:
            assert series == [], f"{panel['title']} has data: take it off the list"
        else:
            assert numbers(series), f"{panel['title']}: no data for {target['expr']}"
            labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            missing = [one["metric"] for one in series if labels - one["metric"].keys()]
            assert not missing or panel["title"] == "Store failures", f"{panel['title']}: the legend lacks {missing}"


def test_the_figures_are_those_of_the_run(world: World) -> None:
    def most(expr: str) -> float:
        return max(numbers(world.prometheus.over(expr, world.began, world.ended)))

    # The last steps fall between the last scrape and the end.
    assert most("marsam_training_progress_ratio") > 0.8
    assert most("marsam_training_images_total") == 2 * most("marsam_training_step") > 4000
    assert most("marsam_training_checkpoints_total") == 4
    assert most("marsam_training_checkpoint_step") == 2000
    assert most('marsam_import_files_total{verdict="accepted"}') == 20
    assert most('sum(marsam_import_files_total{verdict="refused"})') == 3
    assert most('marsam_model_requests_total{kind="adapter",result="miss"}') == 1
    assert most('marsam_model_requests_total{kind="adapter",result="hit"}') == 3
    assert most('marsam_model_drops_total{kind="adapter"}') == 1
    assert most("sum(marsam_generation_first_image_seconds_count)") == 12
    ended = world.prometheus.at("sum by (state) (marsam_runs_ended_total)", world.ended)
    assert {one["metric"]["state"]: one["value"][1] for one in ended} == {
        "SUCCEEDED": "2",
        "FAILED": "5",
        "CANCELLED": "0",
    }
    causes = world.prometheus.at("sum by (cause) (marsam_job_attempts_ended_total) > 0", world.ended)
    assert {one["metric"]["cause"]: one["value"][1] for one in causes} == {
        "DONE": "2", "LOSS_NOT_FINITE": "1", "KILLED": "1", "OUT_OF_MEMORY": "1", "INTERNAL": "2",
    }  # fmt: skip
    failed = world.prometheus.at('marsam_launches_total{outcome!="ok"}', world.ended)
    assert [(one["metric"]["outcome"], one["value"][1]) for one in failed] == [("PROGRAM_NOT_FOUND", "2")]
    waits = world.prometheus.over("marsam_runs_waiting_seconds", world.began, world.ended)
    assert {one["metric"]["reason"] for one in waits} <= {"QUEUED", "STARTING", "RETRY"}
    phases = world.prometheus.over("sum by (phase) (marsam_run_phase_seconds_total)", world.began, world.ended)
    assert {"loading", "caching", "training", "checkpoint", "preview"} <= {one["metric"]["phase"] for one in phases}


def test_a_board_can_be_drawn(world: World) -> None:
    for path in sorted(DASHBOARDS.glob("*.json")):
        board = json.loads(path.read_text(encoding="utf-8"))
        ask = board_picture.asking(world.prometheus.url, began=world.began, ended=world.ended)
        text = board_picture.draw(board, ask, began=world.began, ended=world.ended, note="a note")
        said = [element.text for element in ElementTree.fromstring(text).iter() if element.tag.endswith("text")]
        shown = [panel["title"] for panel in board["panels"] if not panel.get("collapsed")]
        assert [title for title in shown if title not in said] == []
        assert said.count("no data here") == 1
        committed = (DASHBOARDS.parents[3] / "docs/boards" / f"{path.stem}.svg").read_text(encoding="utf-8")
        assert [title for title in shown if title not in committed] == [], "draw docs/boards anew: see world.py"


def test_rules_are_evaluated_without_a_fault(world: World) -> None:
    groups = world.prometheus.ask("rules")["groups"]
    rules = {rule["name"]: rule for group in groups for rule in group["rules"]}
    declared = {
        rule.get("alert") or rule["record"]
        for path in ALERTS.glob("*.yaml")
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    }
    assert set(rules) == declared
    assert {name: rule.get("lastError") for name, rule in rules.items() if rule["health"] != "ok"} == {}


def test_an_alert_reaches_whoever_is_told(world: World) -> None:
    alert = world.told.wait_for("MarsamRunLossNotFinite")
    assert alert["status"] == "firing"
    assert alert["labels"]["severity"] == "warning"
    assert alert["annotations"]["summary"] == "A run was ended because its loss was no finite number."
    assert world.told.wait_for("MarsamLaunchFailures")["labels"]["outcome"] == "PROGRAM_NOT_FOUND"


def test_promtool_finds_nothing_to_say_of_what_is_exported(world: World) -> None:
    for name, text in world.expositions.items():
        done = subprocess.run(
            ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=30, check=False
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, ""), name


def test_series_stay_within_their_budget(world: World) -> None:
    for name, text in world.expositions.items():
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        assert len(lines) <= SERIES[name], f"{name} exports {len(lines)} series"
    run = [line for line in world.expositions["run"].splitlines() if "_bucket{" in line]
    assert len(run) == len(metrics.STEP_BUCKETS) + 1


def test_only_a_run_says_which_run_it_is(world: World) -> None:
    for name, text in world.expositions.items():
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        told = [line for line in lines if f'run_id="{world.run}"' in line]
        assert told == (lines if name == "run" else [])
        assert world.run not in text or name == "run"
    jobs = world.prometheus.ask("series", **{"match[]": '{run_id!=""}', "start": str(world.began)})
    assert {series["job"] for series in jobs} == {"marsam-runs"}


def test_runs_are_found_by_service_discovery(world: World) -> None:
    (entry,) = world.listed
    assert entry["labels"] == {"__meta_marsam_run": f"projects/hayy/runs/{world.run}"}
    assert re.fullmatch(r"127\.0\.0\.1:\d+", entry["targets"][0])
    up = world.prometheus.over('up{job="marsam-runs"}', world.began, world.ended)
    assert [one["metric"]["instance"] for one in up] == entry["targets"]
    # Gone with the run, not down.
    assert world.prometheus.at('up{job="marsam-runs"}', world.ended) == []
