"""Which orders a checkpoint is of."""

from dataclasses import replace

from marsam_trainer.run.compatible import digest as of

from marsam.catalog.acceptance import Acceptance
from marsam.catalog.runs import RunSpec
from marsam.core.clock import SystemClock

SPEC = RunSpec(
    name="projects/p/runs/01arz3ndektsv4rrffq69g5fav", base="projects/p/models/base",
    base_digest="sha256:" + "0" * 64, dataset_version="projects/p/datasets/d/versions/v1",
    dataset_digest="sha256:" + "1" * 64, method="lora", output_model_id="m", steps=1, batch_size=1,
    learning_rate=1e-3, resolution=32, seed=0,
)  # fmt: skip
BEFORE = "sha256:5b7d84989a20067fc88cb2e84a1586595f333bb8d2a3284edb9123d22e6c8567"
"""What checkpoints of this order say that were written before acceptances and the like were recorded."""


def test_a_checkpoint_from_before_is_still_of_its_order() -> None:
    assert of(SPEC) == BEFORE
    accepted = Acceptance(licence="openrail++", by="mona", at=SystemClock().now())
    assert of(replace(SPEC, accepted=accepted, allow_distilled=True)) == BEFORE
    assert of(replace(SPEC, steps=2)) != BEFORE
    assert of(replace(SPEC, accumulate=2)) != BEFORE
    assert of(replace(SPEC, batch_size=2, processes=2)) != of(replace(SPEC, batch_size=2))
