"""The dashboards keep to what Grafana and an operator expect, and show nothing that no program exports."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from marsam.telemetry import metrics
from scripts import dashboards

ROOT = Path(__file__).parents[3]
BOARDS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(dashboards.FOLDER.glob("*.json"))}
DCGM = re.compile(r"DCGM_FI_[A-Z_]+")
WORD = re.compile(r"\bmarsam[a-z0-9_:]+")
EXPORTED = {metric.name for metric in metrics.declared()} | {
    f"{metric.name}_{part}"
    for metric in metrics.declared()
    if isinstance(metric, metrics.Histogram)
    for part in ("bucket", "sum", "count")
}


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in board["panels"]:
        yield panel
        yield from panel.get("panels", ())


def graphs() -> list[Any]:
    return [
        pytest.param(name, panel, id=f"{name}-{panel['title']}")
        for name, board in BOARDS.items()
        for panel in panels(board)
        if panel["type"] != "row"
    ]


def recorded() -> set[str]:
    text = "".join(path.read_text() for path in (ROOT / "deploy/helm/marsam/alerts").glob("*.yaml"))
    return set(re.findall(r"record: (\S+)", text))


def test_the_files_are_what_the_script_makes() -> None:
    assert set(BOARDS) == {"runs", "platform", "generator"}
    for path, text in dashboards.files().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is stale: run make dashboards"


def test_ids_are_unique_and_the_schema_is_pinned() -> None:
    assert len({board["uid"] for board in BOARDS.values()}) == len(BOARDS)
    for board in BOARDS.values():
        ids = [panel["id"] for panel in panels(board)]
        assert len(ids) == len(set(ids)) > 10
        assert board["schemaVersion"] == 39
        names = [variable["name"] for variable in board["templating"]["list"]]
        assert names[:2] == ["datasource", "namespace"]


@pytest.mark.parametrize("name", BOARDS)
def test_throughput_and_device_memory_are_the_first_row(name: str) -> None:
    head, first, *others = panels(BOARDS[name])
    assert head["title"] == "Throughput and memory"
    assert first["title"] == "Images per second"
    row = [panel for panel in others if panel["gridPos"]["y"] == first["gridPos"]["y"]]
    assert {"GPU memory (VRAM)", "Host memory (RSS)"} <= {panel["title"] for panel in row}


@pytest.mark.parametrize("name", BOARDS)
def test_nothing_lies_on_anything_else(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARDS[name]["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken
        taken |= cells


@pytest.mark.parametrize(("name", "panel"), graphs())
def test_a_panel_says_what_it_shows(name: str, panel: dict[str, Any]) -> None:
    assert 0 < len(panel["title"]) <= 40
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert target["legendFormat"]


@pytest.mark.parametrize(("name", "panel"), graphs())
def test_an_expression_keeps_the_rules(name: str, panel: dict[str, Any]) -> None:
    titles = [other["title"] for other in panels(BOARDS[name])]
    assert titles.count(panel["title"]) == 1
    for target in panel["targets"]:
        expr = target["expr"]
        assert "<" not in expr.replace("<=", "")
        # Every series is chosen by namespace, none by a job's or a namespace's own name.
        selectors = re.findall(r"(?:marsam[a-z0-9_:]*|DCGM_FI_[A-Z_]+)(\{[^}]*\})?", expr)
        assert all('namespace=~"$namespace"' in selector for selector in selectors)
        assert not re.search(r'\b(?:job|namespace|instance|pod)="', expr)
        for span in re.findall(r"\[([^\]]+)\]", expr):
            assert span in ("$__rate_interval", "$__range")
        found = {word for word in WORD.findall(expr) if not word.startswith("marsam.")}
        assert {word for word in found if word.startswith("marsam_")} <= EXPORTED
        assert {word for word in found if ":" in word} <= recorded()
        assert found or DCGM.search(expr)
        # What only goes up is shown by its growth, except where the legend of the panel says since when it counts.
        counters = [metric.name for metric in metrics.declared() if isinstance(metric, metrics.Counter)]
        for counter in set(counters) & found:
            grows = re.search(rf"(?:rate|increase)\({counter}\b", expr)
            assert grows or panel["title"] in ("Launches", "Files refused", "Phases of the attempt")


def test_runs_are_told_apart_on_their_own_board_only() -> None:
    for name, board in BOARDS.items():
        said = json.dumps(board)
        assert ("run_id" in said) == (name == "runs")
