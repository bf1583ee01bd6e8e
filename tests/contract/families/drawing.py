"""The latents that a drawing of ours passes through, for comparisons with a maker's own pipeline."""

import torch

from marsam.diffusion.sampling import Ground, Picture, Walk, for_base, sample, times, told
from marsam.diffusion.spec import Components, Family


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
