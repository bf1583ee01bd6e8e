"""A dashboard's graphs as an SVG, drawn from what a Prometheus answers: for pages that have no Grafana.

python scripts/board_picture.py runs.json --prometheus http://… --from SECONDS --to SECONDS > runs.svg
"""

import argparse
import json
import math
import re
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any

Points = list[tuple[float, float]]
Ask = Callable[[str], list[tuple[Mapping[str, str], Points]]]
"""An expression → (labels, (time, value) …) of each series."""

VARIABLES = {"$__rate_interval": "15s", "$__range": "1h", "$namespace": ".*", "$run": ".+", "$hour_price": "2"}
COLOURS = ("#3274d9", "#e0752d", "#37872d", "#a352cc", "#c4162a", "#8f6b00")
MOST_SERIES = len(COLOURS)
WIDTH, HEIGHT, HEAD = 1500, 190, 30
LEFT, TOP, BOTTOM = 54, 28, 22


def expression(text: str) -> str:
    """An expression with the board's variables replaced by what they are when everything is chosen."""
    for name, value in VARIABLES.items():
        text = text.replace(name, value)
    return text


def draw(board: Mapping[str, Any], ask: Ask, *, began: float, ended: float, note: str) -> str:
    """The board as SVG text; `note` says where the figures are from."""
    rows = [panel for panel in board["panels"] if not panel.get("collapsed")]
    parts: list[str] = []
    y = 46
    graphs: list[Any] = []
    for panel in [*rows, None]:
        if panel is None or panel["type"] == "row":
            parts += _row(graphs, ask, y, began, ended)
            y += HEIGHT if graphs else 0
            graphs = []
            if panel is not None:
                parts.append(f'<text x="12" y="{y + 20}" class="row">{escape(panel["title"])}</text>')
                y += HEAD
        else:
            graphs.append(panel)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 10}" viewBox="0 0 {WIDTH} {y + 10}" '
        'font-family="sans-serif" font-size="11"><style>.row{font-size:14px;font-weight:bold}.title{font-weight:bold}'
        '.axis{fill:#666}.stat{font-size:26px}</style><rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="12" y="24" font-size="18" font-weight="bold">{escape(board["title"])}</text>'
        f'<text x="{WIDTH - 12}" y="24" text-anchor="end" class="axis">{escape(note)}</text>'
    )
    return head + "\n".join(parts) + "</svg>\n"


def _row(panels: list[Any], ask: Ask, y: float, began: float, ended: float) -> list[str]:
    drawn = []
    for at, panel in enumerate(panels):
        width = WIDTH / len(panels)
        inside = _panel(panel, ask, width - 12, began, ended)
        drawn.append(f'<g transform="translate({at * width + 6:.0f},{y})">{inside}</g>')
    return drawn


def _panel(panel: Mapping[str, Any], ask: Ask, width: float, began: float, ended: float) -> str:
    frame = f'<rect width="{width:.0f}" height="{HEIGHT - 10}" fill="none" stroke="#ddd"/>'
    title = f'<text x="8" y="17" class="title">{escape(panel["title"])}</text>'
    series: list[tuple[str, Points]] = []
    for target in panel["targets"]:
        for labels, points in ask(expression(target["expr"])):
            finite = [(when, value) for when, value in points if math.isfinite(value)]
            if finite:
                series.append((_legend(target["legendFormat"], labels), finite))
    series.sort(key=lambda one: -max(value for _, value in one[1]))
    unit = panel["fieldConfig"]["defaults"]["unit"]
    if not series:
        inside = f'<text x="{width / 2:.0f}" y="{HEIGHT / 2}" text-anchor="middle" class="axis">no data here</text>'
    elif panel["type"] == "table":
        lines = [f'<text x="8" y="{40 + 16 * at}">{escape(name)}</text>' for at, (name, _) in enumerate(series[:8])]
        inside = "".join(lines)
    elif panel["type"] == "stat":
        inside = "".join(
            f'<text x="{width / 2:.0f}" y="{60 + 46 * at}" text-anchor="middle" class="stat">'
            f"{escape(figure(points[-1][1], unit))}</text>"
            f'<text x="{width / 2:.0f}" y="{76 + 46 * at}" text-anchor="middle" class="axis">{escape(name)}</text>'
            for at, (name, points) in enumerate(series[:3])
        )
    else:
        inside = _lines(series, unit, width, began, ended)
    return frame + title + inside


def _lines(series: list[tuple[str, Points]], unit: str, width: float, began: float, ended: float) -> str:
    shown = series[:MOST_SERIES]
    top = max(value for _, points in shown for _, value in points) or 1.0
    across, up = width - LEFT - 8, HEIGHT - 10 - TOP - BOTTOM - 14
    made = []
    for share in (0.0, 0.5, 1.0):
        y = TOP + up * (1 - share)
        made.append(f'<line x1="{LEFT}" x2="{width - 8:.0f}" y1="{y:.0f}" y2="{y:.0f}" stroke="#eee"/>')
        made.append(
            f'<text x="{LEFT - 4}" y="{y + 4:.0f}" text-anchor="end" class="axis">{figure(top * share, unit)}</text>'
        )
    x = 8.0
    for (name, points), colour in zip(shown, COLOURS, strict=False):
        path = " ".join(
            f"{LEFT + across * (when - began) / (ended - began):.1f},{TOP + up * (1 - max(value, 0) / top):.1f}"
            for when, value in points
        )
        made.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        name = name if len(name) <= 44 else f"…{name[-43:]}"
        if x + 6.2 * len(name) < width:
            made.append(f'<text x="{x:.0f}" y="{HEIGHT - 18}" fill="{colour}">{escape(name)}</text>')
        x += 6.2 * len(name) + 14
    made.append(f'<text x="{LEFT}" y="{HEIGHT - 32}" class="axis">0 s</text>')
    made.append(
        f'<text x="{width - 8:.0f}" y="{HEIGHT - 32}" text-anchor="end" class="axis">{ended - began:.0f} s</text>'
    )
    return "".join(made)


def _legend(form: str, labels: Mapping[str, str]) -> str:
    for name, value in labels.items():
        # A run's id is long; its end tells runs apart.
        form = form.replace(f"{{{{{name}}}}}", value[-6:] if name == "run_id" else _short(value))
    return re.sub(r"\{\{\w+\}\}", "", form).strip()


def _short(value: str) -> str:
    """A resource's or a method's name without what it belongs to, but a version with its dataset."""
    return re.sub(r"^/?(?:[^/]+/)*?(?=[^/]+(?:/versions/[^/]+)?$)", "", value).replace("/versions/", "/")


def figure(value: float, unit: str) -> str:
    """A number as a person reads it."""
    if unit == "percentunit":
        return f"{value:.0%}"
    if unit in ("bytes", "Bps"):
        power = min(4, int(math.log(value, 1024))) if value >= 1 else 0
        return f"{value / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}{'/s' if unit == 'Bps' else ''}"
    suffix = {"s": " s", "h": " h", "ops": "/s", "reqps": "/s", "currencyUSD": " $"}.get(unit, "")
    if 0 < value < 0.1 and unit == "s":
        return f"{value * 1000:.3g} ms"
    return f"{value:,.0f}{suffix}" if value >= 1000 else f"{value:.3g}{suffix}"


def asking(prometheus: str, *, began: float, ended: float, points: int = 60) -> Ask:
    """Ask a Prometheus for about so many points between two times."""

    def ask(expr: str) -> list[tuple[Mapping[str, str], Points]]:
        parameters = {"query": expr, "start": began, "end": ended, "step": max(1.0, (ended - began) / points)}
        address = f"{prometheus}/api/v1/query_range?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(address, timeout=30) as answer:
            found = json.load(answer)["data"]["result"]
        return [(one["metric"], [(float(when), float(value)) for when, value in one["values"]]) for one in found]

    return ask


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("board", type=Path)
    parser.add_argument("--prometheus", required=True)
    parser.add_argument("--from", dest="began", type=float, required=True, help="seconds since 1970")
    parser.add_argument("--to", dest="ended", type=float, required=True)
    parser.add_argument("--note", default="")
    given = parser.parse_args()
    ask = asking(given.prometheus, began=given.began, ended=given.ended)
    board = json.loads(given.board.read_text(encoding="utf-8"))
    sys.stdout.write(draw(board, ask, began=given.began, ended=given.ended, note=given.note))
    return 0


if __name__ == "__main__":
    sys.exit(main())
