"""Previews of every family: its own latents, however they are laid out, as its own image coder shows them."""

from pathlib import Path

import pytest
import torch
from marsam_generator.engine.coder import Coder
from marsam_generator.engine.looks import CELLS, fitted, made_up
from torch.nn.functional import avg_pool2d

from marsam.diffusion import registry

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", registry.families())
def test_colours_are_told_from_latents(bases: dict[str, Path], name: str) -> None:
    family = registry.family(name)
    parts = family.load(bases[name])
    colours, factor = fitted(Coder(family, parts)), parts.facts.latent_factor
    latents = torch.cat([made_up((parts.facts.latent_channels, CELLS, CELLS), seed=seed) for seed in (90, 91, 92)])
    with torch.no_grad():
        wanted = avg_pool2d(family.decode(parts, latents), factor // colours.fine)
    found = colours.of(latents)
    assert found.shape == wanted.shape == (3, 3, CELLS * colours.fine, CELLS * colours.fine)
    # These coders hold random weights: what they draw has little to do with any one cell, and yet some.
    middle = wanted.mean((0, 2, 3), keepdim=True)
    assert (found - wanted).square().sum() < 0.98 * (middle - wanted).square().sum()
