"""The report: one HTML file that opens from a disk, loads nothing, runs no script and carries its numbers with it."""

import base64
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from marsam import pages
from marsam.core import records
from marsam.pages.curves import smooth, thin_out
from marsam_generator.evaluation.report import formats
from marsam_generator.evaluation.report.candour import judge_rows, limits
from marsam_generator.evaluation.report.pictures import SHOWN_AT_ONCE, Album, thumbnail
from marsam_generator.evaluation.report.plots import bar, curve
from marsam_generator.evaluation.report.provenance import Sources, data_facts, lineage, model_facts
from marsam_generator.evaluation.report.view import (
    LANGUAGE_NAMES,
    STATUSES,
    Findings,
    NumberRow,
    contenders,
    direction,
    in_language,
)
from marsam_generator.evaluation.results import Results
from marsam_generator.evaluation.verdict import LEARNING

__all__ = ["Sources", "render", "thumbnail"]


def render(results: Results, sources: Sources) -> str:
    """Return the report as HTML. Blocks for a second or so; call it off the event loop."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        percent=formats.percent,
        size=formats.size,
        duration=formats.duration,
        count=formats.count,
        short=formats.short_digest,
        last=formats.last_part,
        when=formats.day_and_time,
        direction=direction,
        text=in_language,
    )
    model = results.verdict.model
    album = Album(results, sources.pictures)
    findings = Findings(results, model)
    numbers = findings.numbers() if model else []
    facts = [model_facts(m) for m in sources.models]
    learning = [g for g in results.suite.groups if g.asks in LEARNING]
    page = environment.from_string(_resource("template.html.j2")).render(
        results=results,
        style=Markup(pages.style() + _resource("style.css")),
        status=STATUSES[results.verdict.status],
        model=model,
        before=results.model_titles[0],
        after=results.model_titles[model],
        pair=len(results.models) == 2,
        leading=album.leading(list(reversed(learning)), model),
        panels=findings.panels() if model else [],
        numbers=numbers,
        gaps=findings.gaps() if model else [],
        albums=[(group, album.scenes(group)) for group in results.suite.groups],
        shown_at_once=SHOWN_AT_ONCE,
        album_complete=album.complete,
        contenders=contenders(results, facts) if len(results.models) > 2 else [],
        facts=facts,
        curves=_curves(results, sources),
        datasets=[data_facts(version) for version in sources.datasets.values()],
        trail=lineage(results, sources.models, sources.datasets),
        judge=judge_rows(results),
        limits=limits(results),
        bar=bar,
        languages=LANGUAGE_NAMES,
        results_uri=_data_uri("application/json", records.dump(results)),
        csv_uri=_data_uri("text/csv;charset=utf-8", _csv(numbers)),
    )
    return page


def _resource(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text("utf-8")


@dataclass(frozen=True, kw_only=True)
class _Curve:
    """One model's loss curve: its plot, the scale that all curves share, and its own ends."""

    title: str
    plot: Markup
    low: float
    high: float
    first_step: int
    last_step: int
    last_loss: float


def _curves(results: Results, sources: Sources) -> list[_Curve]:
    """The loss curve of each model that has one, on one scale, so that they can be compared by eye."""
    all_points = [sources.curves.get(name, ()) for name in results.models]
    known = [(i, thin_out(points)) for i, points in enumerate(all_points) if len(points) >= 2]
    if not known:
        return []
    losses = [loss for _, points in known for _, loss in points]
    low, high = min(losses), max(losses)
    return [
        _Curve(
            title=results.model_titles[i],
            plot=curve(points, low=low, high=high),
            low=low,
            high=high,
            first_step=points[0][0],
            last_step=points[-1][0],
            last_loss=smooth([loss for _, loss in points])[-1],
        )
        for i, points in known
    ]


def _data_uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def _csv(rows: Sequence[NumberRow]) -> bytes:
    out = io.StringIO()
    names = list(NumberRow.__dataclass_fields__)
    writer = csv.DictWriter(out, names)
    writer.writeheader()
    writer.writerows({name: getattr(row, name) for name in names} for row in rows)
    return out.getvalue().encode("utf-8-sig")
