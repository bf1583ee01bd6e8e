"""A plan's memory and arithmetic are traced on torch's meta device: every family must go through it, however it is
trained."""

from pathlib import Path
from typing import Any

import pytest
from marsam_trainer.run import plan

from marsam.catalog.runs import Precision, RunSpec
from marsam.diffusion import registry
from marsam.diffusion.weights.net import bytes_at_rest
from tests.contract.families import rig as rigs


def _spec(method: str, *, side: int, precision: Precision, batch: int) -> RunSpec:
    return RunSpec(
        name="projects/p/runs/01arz3ndektsv4rrffq69g5fav",
        base="projects/p/models/base",
        base_digest="sha256:" + "0" * 64,
        dataset_version="projects/p/datasets/d/versions/1",
        dataset_digest="sha256:" + "0" * 64,
        method=method,
        output_model_id="out",
        steps=10,
        batch_size=batch,
        learning_rate=1e-4,
        resolution=side,
        seed=7,
        precision=precision,
    )


def _measured(base: Path, family: str, method: str, *, precision: Precision = "fp32", batch: int = 2) -> dict[str, Any]:
    facts = registry.read_base_folder(family, base)
    params = registry.method_params(method, rigs.PARAMS[method], family=family)
    spec = _spec(method, side=facts.default_side, precision=precision, batch=batch)
    return plan._measure(registry.family(family), registry.method(method), params, base, facts, spec)


@pytest.mark.slow
@pytest.mark.parametrize("method", registry.methods())
@pytest.mark.parametrize("family", registry.families())
def test_every_family_can_be_planned(bases: dict[str, Path], family: str, method: str) -> None:
    found = _measured(bases[family], family, method)
    rig = rigs.load(bases[family], family, method)
    assert found["trainable"] == sum(value.numel() for value in rig.trained.values())
    assert (found["share"] > 0) is (method == "qlora")
    assert found["flops"] > 0
    held = bytes_at_rest(rig.denoiser) - 4 * found["trainable"]
    assert found["terms"]["base weights"] == pytest.approx(held, rel=0.02, abs=4096)
    assert all(size > 0 for term, size in found["terms"].items() if term != "base weights")
    double = _measured(bases[family], family, method, batch=4)
    assert double["flops"] == pytest.approx(2 * found["flops"], rel=0.2)
    assert double["terms"]["activations"] > 1.5 * found["terms"]["activations"]
    # Weights are no activations, whatever they were cast to.
    half = [_measured(bases[family], family, method, precision="bf16")["terms"]["activations"] for _ in range(2)]
    assert half[0] == half[1] < found["terms"]["activations"]
