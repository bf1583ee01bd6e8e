"""A base belongs to one family, and a plan can be made for it without its weights."""

from pathlib import Path

import pytest
import torch

from marsam.catalog.runs import RunSpec
from marsam.core.errors import Invalid
from marsam.diffusion import registry
from tests.contract.families import rig as rigs

pytestmark = pytest.mark.slow
every_family = pytest.mark.parametrize("family", registry.families())


def spec(method: str, batch: int, side: int) -> RunSpec:
    """An order for a run, of which a plan takes the numbers."""
    return RunSpec(
        name="projects/plan/runs/01jdzq00000000000000000000",
        base="projects/plan/models/base",
        base_digest="sha256:" + 64 * "0",
        dataset_version="projects/plan/datasets/data/versions/v1",
        dataset_digest="sha256:" + 64 * "0",
        method=method,
        output_model_id="tuned",
        steps=10,
        batch_size=batch,
        learning_rate=1e-4,
        resolution=side,
        seed=1,
        precision="bf16",
    )


@every_family
def test_a_base_is_of_one_family_alone(bases: dict[str, Path], family: str) -> None:
    def takes(name: str) -> bool:
        try:
            return registry.read_base_folder(name, bases[family]).family == name
        except Invalid as error:
            assert error.field == "base"
            return False

    assert [name for name in registry.families() if takes(name)] == [family]


@every_family
def test_what_is_declared_idle_is_all_that_no_prediction_depends_on(bases: dict[str, Path], family: str) -> None:
    rig = rigs.load(bases[family], family, "full")
    named = dict(rig.denoiser.named_parameters())
    for value in named.values():
        value.requires_grad_(True)
    batch = rigs.loop(rig).feed.batch(0)
    said = rig.family.predict(rig.denoiser, batch.clean, batch.t, batch.cond, train_steps=rig.parts.facts.train_steps)
    found = torch.autograd.grad(said.square().sum(), tuple(named.values()), allow_unused=True)
    unused = {name for name, gradient in zip(named, found, strict=True) if gradient is None or not gradient.any()}
    assert unused == set(named) - set(rig.trained)
