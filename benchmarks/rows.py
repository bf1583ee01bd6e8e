"""Figures with their bars: rows of a page, measured part by part and kept as JSON beside it."""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.measures import machine

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure, the lowest and highest of its rounds where it is their median, and what it must be at least or at
    most."""

    name: str
    value: float
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def missed(self) -> bool:
        """Whether it misses its bar."""
        low = self.at_least is not None and self.value < self.at_least
        return low or (self.at_most is not None and self.value > self.at_most)

    def __str__(self) -> str:
        bar = f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}" if self.at_most else ""
        spread = "" if self.low is None or self.high is None else f" ({_told(self.low)} to {_told(self.high)})"
        return f"| {self.name} | {_told(self.value)} {self.unit}{spread} | {bar}{' (missed)' if self.missed else ''} |"


def _told(value: float) -> str:
    """Three digits, or the whole number where that has more."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def median(name: str, values: Sequence[float], unit: str, **bar: float) -> Row:
    """The median of some rounds."""
    return Row(name=name, value=statistics.median(values), unit=unit, low=min(values), high=max(values), **bar)


def page(head: Sequence[str], parts: Mapping[str, Any]) -> str:
    """Every part's rows under `head`, which begins with the title."""
    lines = list(head)
    for part, found in parts.items():
        host = found["machine"]
        where = f"{host['processor']}, {host['cores']} cores, load average {host['load_average']:.1f} when it began."
        lines += ["", f"`{part}`, {found['date']}: {where}", "", "| what | measured | bar |", "| --- | --- | --- |"]
        lines += [str(Row(**row)) for row in found["rows"]]
    return "\n".join(lines) + "\n"


def run(
    name: str, head: Sequence[str], measures: Mapping[str, Callable[[], list[Row]]], argv: Sequence[str] | None
) -> int:
    """The program `benchmarks.<name>`: measure the parts that are chosen, all without a choice, print them, and write
    `<name>.json` and `<name>.md`; the exit status is 1 when a bar is missed."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")
    parser.add_argument("parts", nargs="*", metavar="PART", default=list(measures), help=", ".join(measures))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(argv)
    if unknown := set(options.parts) - set(measures):
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    file, missed = options.out / f"{name}.json", False
    options.out.mkdir(parents=True, exist_ok=True)
    parts = json.loads(file.read_text()) if file.exists() else {}
    for part in options.parts:
        before = machine()
        rows = measures[part]()
        missed |= any(row.missed for row in rows)
        parts[part] = {"date": time.strftime("%Y-%m-%d"), "machine": before, "rows": [asdict(row) for row in rows]}
        file.write_text(json.dumps(parts, indent=1, ensure_ascii=False) + "\n")
        print("\n".join(map(str, rows)), flush=True)
    (options.out / f"{name}.md").write_text(page(head, parts))
    return int(missed)
