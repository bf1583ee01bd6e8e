"""Another law of times is another run: which times a flow learns at, and what is asked of it is the same for all."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from marsam_trainer.run import codes

from tests.contract.families.bases import BUILDERS
from tests.integration.run.store import Shelf, make

pytestmark = pytest.mark.slow
Program = Callable[[list[str]], int]


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """A store whose base predicts a flow with a shift of 3, and a version that holds two pictures out."""
    folder = BUILDERS["sd3"](tmp_path_factory.mktemp("base") / "sd3")
    shelf = asyncio.run(make(tmp_path_factory.mktemp("flow") / "store", folder, family="sd3"))
    return asyncio.run(shelf.holding_out(2))


def _curves(shelf: Shelf, cache: Path, program: Program, **changes: Any) -> tuple[list[float], list[float]]:
    job_id = asyncio.run(shelf.order(steps=4, **changes))
    assert program(shelf.arguments(job_id, 1, cache)) == codes.DONE
    result = json.loads((shelf.attempt_folder(job_id, 1) / "result.json").read_text())
    params = asyncio.run(shelf.model(job_id)).params
    assert {name: params.get(name) for name in changes} == changes
    return tuple([loss for _, loss in result[f"{which}_curve"]] for which in ("loss", "validation"))


def test_a_law_of_times_changes_what_is_learnt_and_nothing_of_what_is_asked(
    flow: Shelf, cache: Path, program: Program
) -> None:
    plain, asked = _curves(flow, cache, program)
    for same in ({"shift": 3.0}, {"timestep_sampling": "logit_normal"}):
        assert _curves(flow, cache, program, **same) == (plain, asked)
    seen = [plain[0]]
    for other in ({"shift": 9.0}, {"timestep_sampling": "uniform"}, {"timestep_mean": -1.0}, {"timestep_std": 0.2}):
        losses, validation = _curves(flow, cache, program, **other)
        # Of the base itself the same is asked, at the same times: those of the base's own law.
        assert validation[0] == asked[0]
        assert losses[0] not in seen
        seen.append(losses[0])


def test_a_base_without_a_flow_refuses_it(shelf: Shelf, cache: Path, program: Program) -> None:
    job_id = asyncio.run(shelf.order(shift=3.0))
    assert program(shelf.arguments(job_id, 1, cache)) == codes.BAD_SPEC
    failure = json.loads((shelf.attempt_folder(job_id, 1) / "failure.json").read_text())
    assert failure["reason"] == "TIMES_FIXED"
