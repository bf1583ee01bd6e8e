"""Looks at pictures on their way: colours straight from latents, by a matrix fitted to the base's own image coder.

Decoding at every step would cost more than denoising. A cell of a latent and its neighbours are close to linear in the
colours that the cell stands for, so a least-squares fit gives a small picture for the price of a multiplication.
"""

import io
from dataclasses import dataclass

import torch
from PIL import Image
from torch.nn.functional import avg_pool2d, interpolate, pad, pixel_shuffle, pixel_unshuffle, unfold

from marsam_generator.engine.coder import Coder

SHARP = 4
"""Pixels along a side of the square that is one pixel of a look, where a cell of the latent is not smaller."""

PICTURES = 16
CELLS = 16
"""The fit sees this many pictures of so many cells a side."""

RIDGE = 1e-3
"""Keeps the weights small along what the made-up latents do not tell apart, in shares of a latent's spread."""

JPEG_QUALITY = 80


@dataclass(frozen=True, kw_only=True)
class Colours:
    """From the 3 × 3 cells around each cell of a latent to its `fine`² pixels: `weight` (9·C + 1, 3·fine²), fp32 on the
    CPU; rows in the order of `unfold`, the last is added; columns in that of `pixel_shuffle`."""

    weight: torch.Tensor
    fine: int

    def of(self, latent: torch.Tensor) -> torch.Tensor:
        """Latents (B, C, h, w) → pixels (B, 3, h·fine, w·fine) in [-1, 1]."""
        height, width = latent.shape[2:]
        pixels = (_around(latent.float().cpu()) @ self.weight).transpose(1, 2).unflatten(2, (height, width))
        return pixel_shuffle(pixels, self.fine).nan_to_num(0.0).clamp(-1.0, 1.0)


def fitted(coder: Coder) -> Colours:
    """The least-squares fit to what the base's image coder makes of made-up latents. The same coder gives the same fit.
    Takes seconds for a large coder on a CPU."""
    facts = coder.parts.facts
    factor = facts.latent_factor
    fine = max(1, factor // SHARP)
    shape = (facts.latent_channels, CELLS, CELLS)
    known: list[torch.Tensor] = []
    wanted: list[torch.Tensor] = []
    for seed in range(PICTURES):
        latent = made_up(shape, seed=seed)
        picture = coder.decoded(latent)
        known.append(_around(latent)[0].double())
        wanted.append(pixel_unshuffle(avg_pool2d(picture, factor // fine), fine)[0].flatten(1).T.double())
    rows, colours = torch.cat(known), torch.cat(wanted)
    ridge = RIDGE * len(rows) * torch.eye(rows.shape[1], dtype=rows.dtype)
    weight = torch.linalg.solve(rows.T @ rows + ridge, rows.T @ colours)
    return Colours(weight=weight.float(), fine=fine)


def made_up(shape: tuple[int, int, int], *, seed: int) -> torch.Tensor:
    """A latent (1, C, h, w) of mean square 1 with as much in every octave, as those of pictures have."""
    chance = torch.Generator("cpu").manual_seed(seed)
    channels, height, width = shape
    latent = torch.zeros(1, *shape)
    cells = 1
    while cells <= max(height, width):
        octave = torch.randn(1, channels, cells, cells, generator=chance)
        latent += interpolate(octave, size=(height, width), mode="bilinear")
        cells *= 2
    return latent / latent.square().mean().sqrt()


def jpeg(colours: Colours, latent: torch.Tensor, *, width: int, height: int, max_side: int) -> bytes:
    """A JPEG of the picture of `width` × `height` pixels that a latent (1, C, h, w) will be, at most `max_side` on its
    longest side and never larger than itself."""
    pixels = ((colours.of(latent)[0] + 1.0) * 127.5).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    small = Image.frombytes("RGB", (pixels.shape[1], pixels.shape[0]), pixels.numpy().tobytes())
    scale = min(1.0, max_side / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    out = io.BytesIO()
    small.resize(size, Image.Resampling.BICUBIC).save(out, format="JPEG", quality=JPEG_QUALITY)
    return out.getvalue()


def _around(latents: torch.Tensor) -> torch.Tensor:
    """Latents (B, C, h, w) → for each cell itself and its neighbours, and a one: (B, h·w, 9·C + 1)."""
    cells = unfold(pad(latents, (1, 1, 1, 1), mode="replicate"), 3).transpose(1, 2)
    return torch.cat([cells, cells.new_ones((*cells.shape[:2], 1))], dim=2)
