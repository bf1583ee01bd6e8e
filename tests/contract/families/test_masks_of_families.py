"""Masked loss under every family: only what the mask lets count is learnt from, and no mask is the loss as it was."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from marsam_trainer.run.loop import loss_of
from marsam_trainer.run.masks import weights

from marsam.diffusion import registry
from tests.contract.families import rig as rigs

pytestmark = pytest.mark.slow
every_family = pytest.mark.parametrize("family", registry.families())


def _left(shape: tuple[int, ...]) -> torch.Tensor:
    """(h, w): the left half counts."""
    mask = torch.zeros(shape[1:])
    mask[:, : shape[2] // 2] = 1.0
    return mask


def _masked(loop: Any, mask: torch.Tensor, floor: float) -> Any:
    """The loop with every sample masked."""
    samples = loop.feed.samples
    cells = {row: weights(mask, floor) for row in range(len(samples))}
    loop.feed.samples = replace(samples, cells=cells)
    return loop


@every_family
def test_the_gradient_outside_of_the_mask_is_zero(bases: dict[str, Path], family: str) -> None:
    loop = rigs.loop(rigs.load(bases[family], family, "lora"))
    shape = loop.feed.samples.shape(0)
    _masked(loop, _left(shape), 0.0)
    batch = loop.feed.batch(0)
    kept: list[torch.Tensor] = []

    class Watched:
        """The family, with what it predicts kept for its gradient."""

        def predict(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            said = loop.family.predict(*args, **kwargs)
            said.retain_grad()
            kept.append(said)
            return said

    watched: Any = Watched()
    loss = loss_of(watched, loop.parts, loop.objective, batch, None)
    loss.backward()
    gradient = kept[0].grad
    assert gradient is not None
    half = shape[2] // 2
    assert bool((gradient[..., :half] != 0).any())
    assert not bool(gradient[..., half:].any())
    # A mean over half of the cells: the loss of a picture does not shrink with its mask.
    noisy = loop.objective.noisy(batch.clean, batch.noise, batch.signal, batch.noise_level)
    target = loop.objective.target(batch.clean, batch.noise, batch.signal, batch.noise_level)
    assert noisy.shape == kept[0].shape
    inside = (kept[0].detach().float() - target).square()[..., :half].mean()
    assert float(loss.detach()) == pytest.approx(float(inside), rel=1e-5)


@pytest.mark.parametrize("family", ["sd1", "flux"])
def test_a_white_mask_is_the_loss_as_it_was_in_its_bits(bases: dict[str, Path], family: str) -> None:
    plain = rigs.loop(rigs.load(bases[family], family, "lora"), steps=3)
    white = rigs.loop(rigs.load(bases[family], family, "lora"), steps=3)
    _masked(white, torch.ones(white.feed.samples.shape(0)[1:]), 0.1)
    while not plain.done:
        assert plain.step() == white.step()
    assert rigs.digest(plain.state()) == rigs.digest(white.state())


def test_lanes_and_parts_cut_the_mask_with_the_rows(bases: dict[str, Path]) -> None:
    def gradients(**plan: Any) -> tuple[float, dict[str, torch.Tensor]]:
        loop = rigs.loop(rigs.load(bases["sd1"], "sd1", "lora"), **plan)
        samples = loop.feed.samples
        mask = _left(samples.shape(0))
        loop.feed.samples = replace(samples, cells={0: weights(mask, 0.2), 3: weights(1 - mask, 0.0)})
        loop.parts.denoiser.train()
        loss, _ = loop._gradients(loop.feed.batch(0))
        return loss, {name: value.grad.clone() for name, value in loop.trained.items()}

    whole, parted = gradients(), gradients(lanes=2, accumulate=2)
    assert parted[0] == pytest.approx(whole[0], rel=1e-5)
    for name, gradient in whole[1].items():
        torch.testing.assert_close(parted[1][name], gradient, atol=1e-6, rtol=1e-3)
