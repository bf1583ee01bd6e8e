"""What can be measured on a picture without knowing what it shows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

_SIDE = 512
_TILES = 4


@dataclass(frozen=True, kw_only=True)
class Measures:
    """`sharpness`: variance of the Laplacian in the sharpest of 4×4 tiles of the luma at ≤ 512 px, so that a sharp
    subject before a soft ground counts as sharp. `brightness`: mean luma, 0–255. `contrast`: standard deviation of
    the luma. `entropy`: bits per pixel of the luma's histogram, 0–8.
    """

    sharpness: float
    brightness: float
    contrast: float
    entropy: float


def measure(luma: Any) -> Measures:
    """Measures of a Pillow picture of mode L."""
    longest = max(luma.size)
    if longest > _SIDE:
        size = (max(1, round(luma.width * _SIDE / longest)), max(1, round(luma.height * _SIDE / longest)))
        luma = luma.resize(size, Image.Resampling.BOX, reducing_gap=None)
    histogram = np.bincount(np.asarray(luma, dtype=np.uint8).reshape(-1), minlength=256)
    share = histogram[histogram > 0] / histogram.sum()
    pixels = np.asarray(luma, dtype=np.float32)
    return Measures(
        sharpness=round(_sharpness(pixels), 2),
        brightness=round(float(pixels.mean()), 2),
        contrast=round(float(pixels.std()), 2),
        entropy=round(float(-(share * np.log2(share)).sum()) + 0.0, 3),
    )


def _sharpness(pixels: np.ndarray) -> float:
    if min(pixels.shape) < 3:
        return 0.0
    inner = pixels[1:-1, 1:-1]
    laplacian = pixels[:-2, 1:-1] + pixels[2:, 1:-1] + pixels[1:-1, :-2] + pixels[1:-1, 2:] - 4 * inner
    tiles = min(_TILES, *laplacian.shape)
    return max(
        float(tile.var()) for band in np.array_split(laplacian, tiles) for tile in np.array_split(band, tiles, axis=1)
    )
