"""`marsam runs compare`: what differs between runs, and what came of it, side by side."""

from pathlib import Path
from typing import Annotated, Any

import typer

from marsam.cli import console
from marsam.cli.compare.gather import Trial, gather
from marsam.cli.compare.tables import differing, outcomes, same
from marsam.cli.following import find
from marsam.cli.session import Json, run
from marsam.client import AsyncMarsam, short
from marsam.core.errors import Invalid

MOST = 8
"""Runs on one page: as many as there are colours and dashes to tell their curves by."""


def compare(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="RUN RUN…", help="Runs, or the starts of their ids.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path("comparison.html"),
    as_json: Json = False,
) -> None:
    """Compare runs: settings that differ, losses, samples at equal prompts and seeds. Writes one HTML page."""

    async def work(marsam: AsyncMarsam) -> list[Trial]:
        found = [await find(marsam, name) for name in names]
        if len({one.name for one in found}) != len(found) or not 2 <= len(found) <= MOST:
            raise Invalid(
                f"{len({one.name for one in found})} different runs of {len(found)} were named",
                field="names",
                reason="RUNS_TO_COMPARE",
                remedy=f"name from two to {MOST} runs, each once: marsam runs list",
            )
        return [await gather(marsam, one) for one in found]

    trials = run(context, work, as_json=as_json)
    from marsam.cli.compare.page import render  # brings jinja2 along

    try:
        out.write_text(render(trials), encoding="utf-8")
    except OSError as error:
        fault = Invalid(f"{out} cannot be written: {error.strerror}", field="--out", reason="OUT_UNWRITABLE")
        console.fail(fault, as_json=as_json)
    if as_json:
        console.print_json({"page": str(out), "runs": [_plain(trial) for trial in trials],
                            "differing": [row.name for row in differing(trials)]})  # fmt: skip
        return
    heads = ("", *(short(trial.name) for trial in trials))
    rows = [(row.name, *row.values) for row in (*differing(trials), *outcomes(trials))]
    console.print_table(heads, rows, nothing="")
    for trial in trials:
        for remark in trial.remarks:
            console.note(f"{short(trial.name)}: {remark}")
    console.out().print(f"{len(same(trials))} more settings are the same · {out}", markup=False)


def _plain(trial: Trial) -> dict[str, Any]:
    return {
        "name": trial.name,
        "state": trial.state,
        "model": trial.model,
        "settings": dict(trial.settings),
        "outcomes": dict(trial.measures),
        "losses": [list(point) for point in trial.losses],
        "validation": [list(point) for point in trial.validation],
        "samples": [{"prompt": one.prompt, "seed": one.seed} for one in trial.samples],
        "remarks": list(trial.remarks),
    }
