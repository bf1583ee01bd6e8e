"""The image coder's decoder, tuned beside the denoiser: what moves, what stays, what is saved."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from marsam_trainer.run.loop import loss_of

from marsam.diffusion import registry, tuned
from marsam.diffusion.sampling import Picture, sample
from tests.contract.families import rig as rigs

pytestmark = pytest.mark.slow
WITH_DECODER = {"image_decoder": True}
every_family = pytest.mark.parametrize("family", registry.families())


def _load(bases: dict[str, Path], family: str) -> rigs.Rig:
    return rigs.load(bases[family], family, "full", params=WITH_DECODER)


@torch.no_grad()
def _apart(rig: rigs.Rig) -> float:
    """The mean squared error of the training pictures, encoded and decoded."""
    samples = rigs.training_set(rig)
    pixels = samples.pictures(range(len(samples)))
    return float((rig.family.decode(rig.parts, torch.stack(list(samples.latents))) - pixels).square().mean())


@every_family
def test_it_learns_the_pictures_and_leaves_latents_alone(bases: dict[str, Path], family: str, tmp_path: Path) -> None:
    rig = _load(bases, family)
    facts, coder = rig.family.facts, rig.parts.image_coder
    folder = facts.image_folders[0]
    ours = {name.removeprefix(f"{folder}."): value for name, value in rig.trained.items() if name.startswith(folder)}
    named = dict(coder.named_parameters())
    assert set(ours) == {name for name, value in named.items() if value.requires_grad}
    assert {name.split(".")[0] for name in ours} <= {"decoder", "post_quant_conv"}
    before = {name: value.detach().clone() for name, value in coder.state_dict().items()}
    began, latents = _apart(rig), rigs.training_set(rig).latents
    rigs.taught(rig, steps=30, rate=2e-3, snr_gamma=None)
    assert _apart(rig) < 0.95 * began
    moved = {name for name, value in coder.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == set(ours)
    assert all(torch.equal(one, other) for one, other in zip(latents, rigs.training_set(rig).latents, strict=True))
    # Laid over the base it draws what was drawn here.
    paths = rig.save(tmp_path / "artifact")
    assert f"{folder}/config.json" in paths
    shutil.copytree(rig.source, tmp_path / "whole")
    shutil.copytree(tmp_path / "artifact", tmp_path / "whole", dirs_exist_ok=True)
    again = rig.family.load(tmp_path / "whole")
    picture = Picture(prompt="a red kite", seed=4, width=rig.side, height=rig.side, steps=3)
    for value in rig.trained.values():
        value.requires_grad_(False)
    rig.denoiser.eval()
    assert torch.equal(sample(rig.family, again, [picture]), sample(rig.family, rig.parts, [picture]))
    plain = rig.family.load(rig.source).image_coder.state_dict()
    kept = {name: value for name, value in again.image_coder.state_dict().items() if name not in ours}
    assert all(torch.equal(value, plain[name]) for name, value in kept.items())


@torch.no_grad()
def test_what_a_mask_leaves_out_is_not_reconstructed(bases: dict[str, Path]) -> None:
    rig = _load(bases, "sd1")
    batch = rigs.loop(rig).feed.batch(0)
    assert batch.pixels is not None
    cells = torch.ones(len(batch), 1, *batch.clean.shape[2:])
    cells[..., : cells.shape[-1] // 2] = 0.0
    marred = batch.pixels.clone()
    marred[..., : marred.shape[-1] // 2] = 1.0

    def loss(pixels: torch.Tensor, cells: torch.Tensor | None) -> float:
        objective = registry.objective(rig.parts.facts.objective)
        return float(loss_of(rig.family, rig.parts, objective, replace(batch, pixels=pixels, cells=cells), None))

    assert loss(marred, cells) == loss(batch.pixels, cells)
    assert loss(marred, None) != loss(batch.pixels, None)


@pytest.mark.parametrize("family", ["sd1", "sana"])
def test_resumed_in_the_same_bits(bases: dict[str, Path], family: str, tmp_path: Path) -> None:
    rigs.goes_on_in_the_same_bits(lambda: rigs.loop(_load(bases, family), ema_decay=0.9), tmp_path)


def test_the_denoiser_learns_what_it_would_alone(bases: dict[str, Path]) -> None:
    """The two losses share no weight: only how far the gradient is cut depends on both."""
    both, alone = _load(bases, "sd1"), rigs.load(bases["sd1"], "sd1", "full")
    gradients = []
    for rig in (both, alone):
        loop = rigs.loop(rig)
        loop._gradients(loop.feed.batch(0))
        gradients.append({name: value.grad for name, value in rig.trained.items()})
    assert all(torch.equal(gradients[0][name], value) for name, value in gradients[1].items())
    assert tuned.parts_of(alone.params) < tuned.parts_of(both.params)
