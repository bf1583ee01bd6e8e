"""A run's own plan before it trains."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from marsam_trainer.run.estimate import Estimate, estimate
from marsam_trainer.run.work import Work

from tests.unit.trainer.test_knobs import VERSION, facts
from tests.unit.trainer.test_past_runs import SPEC


def test_a_run_that_cannot_be_planned_says_so_and_goes_on(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    reporter = SimpleNamespace(event=lambda kind, **fields: told.append({"kind": kind, **fields}))
    work = SimpleNamespace(spec=SPEC, version=VERSION, regularisation=None, device="cpu", reporter=reporter)
    assert estimate(cast(Work, work), tmp_path / "nothing", facts(), lanes=1) == Estimate()
    (only,) = told
    assert (only["kind"], only["level"]) == ("log", "warning")
    assert only["message"].startswith("what the run needs is not known: ")
