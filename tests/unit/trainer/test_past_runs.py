"""What past runs took corrects plans of runs of their kind."""

from dataclasses import replace
from typing import Any

import pytest
from marsam_trainer.past_runs import ARITHMETIC, FAR, corrected_by, kind_of, sample_of
from marsam_trainer.plans import Fit, Plan, Remedy

from marsam.catalog.runs import RunSpec

SPEC = RunSpec(
    name="projects/p/runs/01arz3ndektsv4rrffq69g5fav",
    base="projects/p/models/base",
    base_digest="sha256:" + "0" * 64,
    dataset_version="projects/p/datasets/d/versions/1",
    dataset_digest="sha256:" + "0" * 64,
    method="lora",
    output_model_id="out",
    steps=10,
    batch_size=4,
    learning_rate=1e-4,
    resolution=64,
    seed=7,
)
PLAN = Plan(
    memory={"base weights": 500, "libraries": 400, "activations": 100},
    total_bytes=1000,
    available_bytes=1200,
    trainable_parameters=1,
    quantised_share=0.0,
    seconds=60.0,
    limit=1.05,
    peak_stage="train",
    remedies=(Remedy(changes={"gradient_checkpointing": True}, total_bytes=940, fits=True, message="slower"),),
)


def told(memory: float = 1.5, time: float = 2.0, **more: Any) -> dict[str, Any]:
    metrics = {
        "estimated_peak_bytes": 100.0, "measured_peak_bytes": 100.0 * memory,
        "estimated_step_seconds": 3.0, "step_seconds": 3.0 * time,
    }  # fmt: skip
    return {"family": "sd1", "device": "cuda:0", "metrics": metrics, **more}


def test_a_run_tells_of_its_kind_alone() -> None:
    found = sample_of(SPEC, told())
    assert found is not None
    assert (found.memory, found.time) == (1.5, 2.0)
    assert found.kind == kind_of(SPEC, family="sd1", device="cuda:3")
    others = [
        kind_of(SPEC, family="flux", device="cuda:0"),
        kind_of(SPEC, family="sd1", device="cpu"),
        *(
            kind_of(replace(SPEC, **change), family="sd1", device="cuda:0")
            for change in (
                {"method": "full"},
                {"precision": "bf16"},
                {"gradient_checkpointing": True},
                {"optimiser": "adamw_8bit"},
                {"method_params": {"dora": True}},
            )
        ),
    ]
    assert found.kind not in others
    # Other numbers are the same kind: that is what the arithmetic is for.
    assert kind_of(replace(SPEC, batch_size=9, resolution=512), family="sd1", device="cuda") == found.kind


@pytest.mark.parametrize(
    "words", [{}, told(metrics={}), told(metrics=None), {"metrics": told()["metrics"]}, told(memory=0.0)]
)
def test_a_run_from_before_tells_nothing(words: dict[str, Any]) -> None:
    assert sample_of(SPEC, words) is None


def test_the_median_of_enough_runs_corrects() -> None:
    assert corrected_by([(1.5, 2.0)] * 2) == ARITHMETIC
    # One that was measured beside something else does not count.
    found = corrected_by([(1.1, 2.0), (1.2, 2.2), (9.0, 50.0)])
    assert (found.runs, found.memory, found.time) == (3, 1.2, 2.2)
    assert corrected_by([(100.0, 0.001)] * 3).memory == FAR
    assert corrected_by([(100.0, 0.001)] * 3).time == 1 / FAR


def test_a_corrected_plan_is_judged_anew() -> None:
    assert (PLAN.fit, PLAN.shortage(), PLAN.tightness()) == (Fit.GOOD, [], [])
    tight, short = (PLAN.corrected(corrected_by([(ratio, 2.0)] * 5)) for ratio in (1.2, 1.3))
    assert (tight.total_bytes, tight.seconds, tight.fit, short.fit) == (1200, 120.0, Fit.TIGHT, Fit.SHORT)
    assert (tight.remedies[0].total_bytes, tight.remedies[0].fits) == (1128, False)
    (fault,) = short.shortage()
    assert (fault.reason, fault.field) == ("MEMORY_SHORT", "gradient_checkpointing")
    assert "by 5 past runs" in fault.message
    assert fault.message.index("base weights") < fault.message.index("activations")
    assert fault.remedy.startswith("gradient_checkpointing=true (slower)")
    assert PLAN.largest == "base weights"
    # Whoever insists sets the limit.
    assert replace(short, limit=1.5).fit is Fit.TIGHT
