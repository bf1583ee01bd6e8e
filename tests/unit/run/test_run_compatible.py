"""Which checkpoints a run may go on from, and what is said of how they were made."""

from dataclasses import replace
from typing import Any

import pytest
from marsam_trainer.run import compatible

from marsam.catalog.checkpoints import Checkpoint
from marsam.catalog.runs import Preview, RunSpec
from marsam.core.errors import Invalid
from marsam.core.records import dump, load

SPEC = RunSpec(
    name="projects/p/runs/01arz3ndektsv4rrffq69g5fav", base="projects/p/models/base",
    base_digest="sha256:" + "0" * 64, dataset_version="projects/p/datasets/d/versions/v1",
    dataset_digest="sha256:" + "1" * 64, method="lora", output_model_id="m", steps=10, batch_size=1,
    learning_rate=1e-3, resolution=32, seed=0, method_params={"rank": 4},
)  # fmt: skip


def mark(spec: RunSpec = SPEC, *, told: bool = True) -> Checkpoint:
    return Checkpoint(
        attempt=1, step=3, spec_digest=compatible.digest(spec), state_digest="sha256:" + "2" * 64, state_size=1,
        cores=1, lanes=2, code_version="1.0", libraries={"torch": "2.0"}, device="cpu",
        order=compatible.order_of(spec) if told else {},
    )  # fmt: skip


def test_the_same_order_is_gone_on_with_whether_it_is_told_or_not() -> None:
    for told in (True, False):
        compatible.check(load(Checkpoint, dump(mark(told=told))), SPEC)


def test_what_changes_nothing_that_is_learnt_may_change() -> None:
    free = replace(
        SPEC, display_name="x", labels={"a": "b"}, preview=Preview(prompts=("p",), every=2), profile="large",
        checkpoint_every=7, gradient_checkpointing=True,
    )  # fmt: skip
    assert {name for name in RunSpec.FREE if getattr(free, name) != getattr(SPEC, name)} == RunSpec.FREE
    compatible.check(mark(), free)
    compatible.check(mark(free), SPEC)


def test_every_other_difference_is_named() -> None:
    other = replace(SPEC, steps=20, optimiser="adamw_8bit", method_params={"rank": 8}, profile="large")
    with pytest.raises(Invalid) as caught:
        compatible.check(mark(), other)
    error = caught.value
    assert error.reason == "CHECKPOINT_MISMATCH"
    assert [violation.field for violation in error.violations] == ["method_params", "optimiser", "steps"]
    assert "steps was 10 and is 20" in error.message
    assert 'optimiser was the default and is "adamw_8bit"' in error.message
    assert "labels, preview, profile" in error.remedy


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"timestep_sampling": "uniform"}, 'timestep_sampling was the default and is "uniform"'),
        ({"timestep_mean": -0.5}, "timestep_mean was the default and is -0.5"),
        ({"timestep_std": 0.5}, "timestep_std was the default and is 0.5"),
        ({"shift": 3.0}, "shift was the default and is 3.0"),
    ],
)
def test_another_law_of_times_is_another_order(change: dict[str, Any], told: str) -> None:
    with pytest.raises(Invalid) as caught:
        compatible.check(mark(), replace(SPEC, **change))
    assert told in caught.value.message


def test_of_a_checkpoint_that_does_not_tell_its_order_only_the_same_is_gone_on_with() -> None:
    with pytest.raises(Invalid) as caught:
        compatible.check(mark(told=False), replace(SPEC, profile="large"))
    assert caught.value.reason == "CHECKPOINT_MISMATCH"


def test_what_may_round_otherwise_is_said() -> None:
    same = {"code_version": "1.0", "libraries": {"torch": "2.0", "peft": "1"}, "device": "cpu", "lanes": 2}
    assert compatible.remarks(mark(), **same) == []
    told = compatible.remarks(
        mark(), code_version="1.1", libraries={"torch": "2.1", "peft": "1"}, device="cuda", lanes=1
    )
    assert [remark.split(":")[0] for remark in told] == [
        "Marsam was 1.0 and is 1.1", "torch was 2.0 and is 2.1", "the device was cpu and is cuda",
        "the number of lanes was 2 and is 1",
    ]  # fmt: skip
