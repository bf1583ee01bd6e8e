"""What is drawn with: a UNet of Stable Diffusion 1's shape with random weights on Hayy's other parts, and adapters."""

import functools
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from benchmarks.training.bases import HAYY
from marsam.diffusion import registry
from marsam.diffusion.adapter import net as adapter_net
from marsam.diffusion.adapter.net import Adapter, LowRank
from marsam.diffusion.spec import Components, Conditioning, Part

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2")
RANK = 8
TOKENS, WIDTH = 77, 192
PIXELS = 8
"""Pixels of a picture's side by one of its latent's."""
FAMILY = registry.family("sd1")


def write_base(folder: Path) -> Path:
    """A base of 6.0 million parameters in its UNet, in diffusers layout."""
    torch.manual_seed(0)
    shutil.copytree(HAYY, folder, ignore=shutil.ignore_patterns("unet"))
    UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(64, 128, 128),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
    ).save_pretrained(folder / "unet")
    return folder


def write_adapter(folder: Path, base: Path, *, seed: int, rank: int = RANK) -> Path:
    """A random adapter on attention and convolutions, in PEFT's layout."""
    unet = UNet2DConditionModel.from_pretrained(base / "unet")
    shape = LowRank(rank=rank, alpha=float(rank), targets=TARGETS)
    chance = torch.Generator().manual_seed(seed)
    for name, value in adapter_net.inject(unet, shape, seed=seed).items():
        if "lora_B" in name:
            value.data = 0.02 * torch.randn(value.shape, generator=chance)
    adapter_net.save(unet, folder, metadata={})
    return folder


@dataclass(frozen=True, kw_only=True)
class Given:
    """What both sides draw with: one set of weights, and adapters by name."""

    folder: Path
    parts: Components
    adapters: Mapping[str, Path]

    @property
    def denoiser(self) -> Any:
        """The UNet of `parts`."""
        return self.parts.denoiser

    def read(self) -> dict[str, Adapter]:
        """The adapters as our bank takes them."""
        return {name: adapter_net.read(folder) for name, folder in self.adapters.items()}

    def bare(self) -> Any:
        """A UNet of its own around the same weights."""
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(self.folder / "unet"))
        unet.load_state_dict(self.denoiser.state_dict(), assign=True)
        return unet.eval().requires_grad_(False)

    def pipeline(self) -> StableDiffusionPipeline:
        """Diffusers' pipeline around the same weights with the same adapters, silent. It is handed encoded text and
        gives latents, so it needs no other parts."""
        pipe = StableDiffusionPipeline.from_pretrained(
            self.folder, unet=self.bare(), vae=None, text_encoder=None, tokenizer=None, safety_checker=None,
            feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
        pipe.set_progress_bar_config(disable=True)
        for name, folder in self.adapters.items():
            take(pipe.unet, folder, name)
        return pipe


def given(folder: Path, adapters: Mapping[str, int], *, rank: int = RANK) -> Given:
    """Write a base and adapters, name → seed, and load the base."""
    base = write_base(folder / "base")
    paths = {name: write_adapter(folder / name, base, seed=seed, rank=rank) for name, seed in adapters.items()}
    parts = FAMILY.load(base, parts=frozenset({Part.DENOISER}))
    return Given(folder=base, parts=parts, adapters=paths)


def as_diffusers(folder: Path, *, prefix: str) -> dict[str, torch.Tensor]:
    """An adapter by diffusers' names."""
    pairs = adapter_net.read(folder).pairs.items()
    return {
        f"{prefix}{layer}.lora_{half}.weight": value
        for layer, pair in pairs
        for half, value in zip("AB", pair, strict=True)
    }


def take(unet: Any, folder: Path, name: str) -> None:
    """Have PEFT's own layers in `unet` hold an adapter."""
    unet.load_lora_adapter(as_diffusers(folder, prefix=""), prefix=None, adapter_name=name)


@functools.cache
def states(seed: int) -> Conditioning:
    """The encoding of a prompt that nobody wrote."""
    return Conditioning({"hidden": torch.randn((1, TOKENS, WIDTH), generator=torch.Generator().manual_seed(seed))})


def inputs(side: int, *, rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy latents, times and encoded text of a forward."""
    chance = torch.Generator().manual_seed(side)
    noisy = torch.randn((rows, 4, side, side), generator=chance)
    return noisy, torch.arange(rows) * 100.0, torch.randn((rows, TOKENS, WIDTH), generator=chance)
