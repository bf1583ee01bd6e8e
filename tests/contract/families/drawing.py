"""The latents that a drawing of ours passes through, and the pictures that a generator's engine gives."""

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
)
from marsam_generator.engine.engine import Drawing, Drawn, Engine

from marsam.diffusion.sampling import Ground, Picture, Walk, for_base, sample, times, told
from marsam.diffusion.spec import Components, Family

THEIRS: Mapping[str, Any] = {
    "ddim": DDIMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "euler_a": EulerAncestralDiscreteScheduler,
}
"""The schedulers of a base that predicts noise or its velocity, as its pipelines are given them."""


@torch.no_grad()
def latents(family: Family, parts: Components, picture: Picture, ground: Ground | None = None) -> list[torch.Tensor]:
    """The latent (1, C, h, w) after each step of one picture."""
    picture = for_base(picture, parts.facts)
    walk = Walk(parts.facts, picture, ground)
    texts = told(family.encode_text(parts, [picture.prompt, picture.negative]), [picture, picture])
    found = []
    while not walk.done:
        noisy = torch.cat([walk.model_input()] * 2)
        said = family.predict(
            parts.denoiser, noisy, times([walk, walk]), texts, train_steps=parts.facts.train_steps
        ).split(1)
        walk.advance(said[0], said[1] if picture.guided else None)
        found.append(walk.latent)
    return found


def pixels(family: Family, parts: Components, picture: Picture) -> torch.Tensor:
    """The finished picture (1, 3, H, W) in [0, 1], as pipelines give it."""
    return (sample(family, parts, [picture]) + 1) / 2


async def drawn(engine: Engine, drawing: Drawing) -> list[torch.Tensor]:
    """The pictures of a drawing in their order, as levels (H, W, 3)."""
    found: dict[int, torch.Tensor] = {}
    async with contextlib.aclosing(engine.draw(drawing)) as events:
        async for event in events:
            if isinstance(event, Drawn):
                found[event.index] = event.pixels
    return [found[index] for index in range(len(drawing.pictures))]


def levels(pixels: torch.Tensor) -> torch.Tensor:
    """What `sample` gives of a picture, (3, H, W), as an engine gives it."""
    return ((pixels + 1.0) * 127.5).round().to(torch.uint8).permute(1, 2, 0)


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether levels are equal but for one where a value lies on its edge."""
    return int((one.int() - other.int()).abs().max()) <= 1
