"""A plan is made of every family on torch's meta device: what it counts is what a run would hold."""

from pathlib import Path

import pytest
from marsam_trainer.run import plan

from marsam.catalog.runs import RunSpec
from marsam.diffusion import registry
from marsam.diffusion.weights.net import bytes_at_rest
from tests.contract.families import rig as rigs
from tests.contract.families.test_conformance import every_pair

DIGEST = "sha256:" + "0" * 64


@every_pair
def test_a_plan_counts_what_a_run_holds(bases: dict[str, Path], family: str, method: str) -> None:
    rig = rigs.load(bases[family], family, method)
    spec = RunSpec(
        name="projects/p/runs/01ja0000000000000000000000",
        base="projects/p/models/base",
        base_digest=DIGEST,
        dataset_version="projects/p/datasets/d/versions/1",
        dataset_digest=DIGEST,
        method=method,
        output_model_id="out",
        steps=1,
        batch_size=2,
        learning_rate=1e-4,
        resolution=rig.side,
        seed=0,
    )
    facts = registry.read_base_folder(family, bases[family])
    found = plan._measure(rig.family, rig.method, rig.params, bases[family], facts, spec)
    assert found["trainable"] == sum(value.numel() for value in rig.trained.values())
    assert found["terms"]["activations"] > 0
    assert found["flops"] > 0
    held = bytes_at_rest(rig.denoiser) - 4 * found["trainable"]
    assert found["terms"]["base weights"] == pytest.approx(held, rel=0.02, abs=4096)
