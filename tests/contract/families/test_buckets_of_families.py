"""Every family learns from pictures of several aspects: each in batches of its own size, all counting the same."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from marsam_trainer.run.checkpoint import write_state
from marsam_trainer.run.feed import Feed
from marsam_trainer.run.loop import loss_of
from marsam_trainer.run.validation import HeldOut
from safetensors.torch import load_file

from marsam.diffusion import buckets, registry, schedule
from tests.contract.families import rig as rigs

pytestmark = pytest.mark.slow
every_family = pytest.mark.parametrize("family", registry.families())
SIZES = ((32, 64), (32, 32), (64, 32))
PICTURES = ((300, 300), (300, 150), (290, 150), (150, 300), (310, 150), (280, 290), (600, 300))


def _loop(bases: dict[str, Path], family: str, *, lanes: int = 1, **plan: Any) -> Any:
    """A loop over `PICTURES`, of which three are square, three wide and one tall."""
    rig = rigs.load(bases[family], family, "lora")
    facts = rig.parts.facts
    cuts = [buckets.cut(*picture, SIZES) for picture in PICTURES]
    generator = torch.Generator().manual_seed(3)
    latents = []
    for cut in cuts:
        pixels = torch.rand((1, 3, cut.size[1], cut.size[0]), generator=generator) * 2 - 1
        (latent,) = rig.family.encode_image(rig.parts, pixels)
        assert tuple(latent.shape) == facts.latent_shape(*cut.size)
        latents.append(latent)
    samples = replace(
        rigs.training_set(rig, len(PICTURES)),
        latents=latents,
        frames=torch.tensor([cut.frame for cut in cuts], dtype=torch.float32),
    )
    loop = rigs.loop(rig, lanes=lanes, **plan)
    loop.feed = Feed(samples, schedule.by_cells(facts), seed=11, batch_size=4, caption_dropout=0.2, bucketed=True)
    return loop


def _gradients(loop: Any, step: int) -> tuple[float, dict[str, torch.Tensor]]:
    loop.parts.denoiser.train()
    loss, _ = loop._gradients(loop.feed.batch(step))
    return loss, {name: value.grad.clone() for name, value in loop.trained.items()}


@every_family
def test_it_learns_and_a_resumed_run_ends_in_the_same_bits(bases: dict[str, Path], family: str, tmp_path: Path) -> None:
    whole = _loop(bases, family, steps=6)
    before = {name: value.detach().clone() for name, value in whole.trained.items()}
    while not whole.done:
        whole.step()
    assert whole.shown == 2 * len(PICTURES)
    assert any(not torch.equal(value, before[name]) for name, value in whole.trained.items())
    first = _loop(bases, family, steps=6)
    for _ in range(2):
        first.step()
    write_state(first.state(), tmp_path / "state.safetensors")
    second = _loop(bases, family, steps=6)
    second.restore(load_file(tmp_path / "state.safetensors"), 2)
    while not second.done:
        second.step()
    assert second.position.losses == whole.position.losses
    assert rigs.digest(second.state()) == rigs.digest(whole.state())
    held_out = HeldOut(whole.feed.samples, schedule.by_cells(whole.parts.facts), seed=1, batch_size=3)
    assert whole.validate(held_out, stopping=lambda: False) == whole.validate(held_out, stopping=lambda: False)


@pytest.mark.parametrize("family", ["sd1", "flux"])
def test_every_picture_of_an_epoch_counts_the_same(bases: dict[str, Path], family: str) -> None:
    """The gradient of a batch is the sum over its pictures, divided by the pictures of a full one; its loss the mean.
    In parts and lanes it is the same."""
    loop = _loop(bases, family)
    for step in range(3):
        loss, whole = _gradients(loop, step)
        batch = loop.feed.batch(step)
        losses, singles = [], []
        for row in range(len(batch)):
            alone = batch.part(slice(row, row + 1))
            one = loss_of(loop.family, loop.parts, loop.objective, alone, loop.plan.snr_gamma)
            losses.append(float(one.detach()))
            singles.append(torch.autograd.grad(one, list(loop.trained.values())))
        assert loss == pytest.approx(sum(losses) / len(batch), rel=1e-5)
        for place, gradient in enumerate(whole.values()):
            total = torch.stack([gradients[place] for gradients in singles]).sum(dim=0) / 4
            torch.testing.assert_close(gradient, total, atol=1e-6, rtol=1e-3)
        again, parts = _gradients(_loop(bases, family, accumulate=2, lanes=2), step)
        assert again == pytest.approx(loss, rel=1e-5)
        for name, gradient in whole.items():
            torch.testing.assert_close(parts[name], gradient, atol=1e-6, rtol=1e-3)
