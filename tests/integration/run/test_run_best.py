"""The weights that were best on pictures held out are a model of their own; training without effect is an error."""

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from marsam_trainer.run import codes
from marsam_trainer.run.loop import Loop

from marsam.catalog.models import Model
from marsam.catalog.repository import load_model
from marsam.catalog.runs import Preview
from marsam.core.errors import Missing
from tests.integration.run.endings import tensors
from tests.integration.run.store import Shelf

pytestmark = pytest.mark.slow
Program = Callable[[list[str]], int]
SPOILING = {"method": "full", "learning_rate": 0.1, "steps": 8, "checkpoint_every": 2, "warmup_steps": 7}
"""Learns slowly at first, and then so fast that it unlearns."""


def trained(shelf: Shelf, cache: Path, program: Program, **changes: Any) -> tuple[str, Model]:
    job_id = asyncio.run(shelf.order(**changes))
    code = program(shelf.arguments(job_id, 1, cache))
    assert code == codes.DONE
    return job_id, asyncio.run(shelf.model(job_id))


def test_last_and_best_are_two_models_of_one_run(shelf: Shelf, cache: Path, program: Program) -> None:
    some = asyncio.run(shelf.holding_out(3))
    job_id, last = trained(some, cache, program, publish="both", **SPOILING)
    best = asyncio.run(load_model(some.blobs, f"{last.name}-best"))
    curve = json.loads((some.attempt_folder(job_id, 1) / "result.json").read_text())["validation_curve"]
    losses = {step: loss for step, loss in curve if step > 0}
    step = min(losses, key=lambda step: losses[step])
    assert step < 8
    assert (best.metrics["weights_step"], last.metrics["weights_step"]) == (float(step), 8.0)
    assert best.lineage == last.lineage
    weights = asyncio.run(tensors(some.blobs, last)), asyncio.run(tensors(some.blobs, best))
    assert weights[0] != weights[1]
    assert [sample.digest for sample in best.samples[:2]] != [sample.digest for sample in last.samples[:2]]
    told = [event["message"] for event in asyncio.run(some.events(job_id, 1)) if event["kind"] == "log"]
    assert any(
        message.startswith(f"the best weights on pictures held out are those of step {step}") for message in told
    )
    # Asked for one of them alone, it is the same one, under the run's own id.
    _, plain = trained(some, cache, program, **SPOILING)
    alone_id, alone = trained(some, cache, program, publish="best", **SPOILING)
    assert (asyncio.run(tensors(some.blobs, plain)), asyncio.run(tensors(some.blobs, alone))) == weights
    assert alone.metrics["weights_step"] == float(step)
    result = json.loads((some.attempt_folder(alone_id, 1) / "result.json").read_text())
    assert result["model"] == alone.name
    with pytest.raises(Missing):
        asyncio.run(load_model(some.blobs, f"{alone.name}-best"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "lora"}, "the adapter changes no pixel of a picture"),
        ({"method": "qlora"}, "the adapter changes no pixel of a picture"),
        ({"method": "full", "learning_rate": 1e-60}, "after 3 steps every parameter is what it was before the first"),
        (
            {"method": "full", "learning_rate": 1e-60, "steps": 1000},
            "after 10 steps every parameter is what it was before the first",
        ),
    ],
)
def test_training_that_had_no_effect_fails_and_says_so(
    shelf: Shelf, cache: Path, program: Program, changes: dict[str, Any], said: str
) -> None:
    job_id = asyncio.run(shelf.order(**{"learning_rate": 1e-30, "steps": 3, **changes}))
    code = program(shelf.arguments(job_id, 1, cache))
    failure = json.loads((shelf.attempt_folder(job_id, 1) / "failure.json").read_text())
    assert (code, failure["reason"], failure["message"]) == (codes.NO_EFFECT, "TRAINED_NOTHING", said)
    assert "learning_rate" in failure["remedy"]
    with pytest.raises(Missing):
        asyncio.run(shelf.model(job_id))


def test_a_stop_in_the_last_validation_costs_no_answer(
    shelf: Shelf, cache: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = asyncio.run(shelf.holding_out(3))
    _, calm = trained(some, cache, program, publish="both", steps=4)
    job_id = asyncio.run(some.order(publish="both", steps=4))
    validate = Loop.validate

    def interrupted(loop: Loop, *given: Any, **named: Any) -> float | None:
        if loop.done:
            os.kill(os.getpid(), signal.SIGTERM)
        return validate(loop, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "validate", interrupted)
        assert program(some.arguments(job_id, 1, cache)) == codes.STOPPED
    assert not (some.attempt_folder(job_id, 1) / "result.json").exists()
    asyncio.run(some.begin(job_id))
    assert program(some.arguments(job_id, 2, cache)) == codes.DONE
    curves = [
        json.loads((some.attempt_folder(run, attempt) / "result.json").read_text())["validation_curve"]
        for run, attempt in ((calm.lineage.run.split("/")[-1], 1), (job_id, 2))
    ]
    assert curves[0] == curves[1]
    assert [step for step, _ in curves[0]] == [0, 4]
    bests = [
        asyncio.run(load_model(some.blobs, f"{model.name}-best")) for model in (calm, asyncio.run(some.model(job_id)))
    ]
    assert asyncio.run(tensors(some.blobs, bests[0])) == asyncio.run(tensors(some.blobs, bests[1]))


def test_previews_are_drawn_by_the_weights_that_would_be_published(shelf: Shelf, cache: Path, program: Program) -> None:
    """An average that all but stands still is what both show, whatever was learnt meanwhile."""
    drawn = {"preview": Preview(prompts=("a kite",), every=2), "steps": 3, "method": "full", "learning_rate": 0.01}
    shown = []
    for decay in (None, 1 - 1e-12):
        job_id, model = trained(shelf, cache, program, ema_decay=decay, **drawn)
        (preview,) = [event for event in asyncio.run(shelf.events(job_id, 1)) if event["kind"] == "preview"]
        shown.append((preview["files"][0]["digest"], model.samples[0].digest))
    assert shown[1][0] == shown[1][1]
    assert shown[0][0] not in (shown[0][1], shown[1][0])
