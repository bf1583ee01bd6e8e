"""What can be measured on a picture without knowing what it shows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

_SIDE = 512
_TILES = 4
_LEVELS = np.arange(256, dtype=np.float64)


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
    histogram = np.array(luma.histogram(), dtype=np.float64)
    share = histogram / histogram.sum()
    brightness = float(share @ _LEVELS)
    there = share[share > 0]
    return Measures(
        sharpness=round(_sharpness(np.asarray(luma)), 2),
        brightness=round(brightness, 2),
        contrast=round(float(np.sqrt(share @ (_LEVELS - brightness) ** 2)), 2),
        entropy=round(float(-(there * np.log2(there)).sum()) + 0.0, 3),
    )


def _sharpness(pixels: np.ndarray) -> float:
    if min(pixels.shape) < 3:
        return 0.0
    wide = pixels.astype(np.int16)  # a Laplacian of bytes is within ±1020
    laplacian = wide[:-2, 1:-1] + wide[2:, 1:-1]
    laplacian += wide[1:-1, :-2]
    laplacian += wide[1:-1, 2:]
    laplacian -= 4 * wide[1:-1, 1:-1]
    tiles = min(_TILES, *laplacian.shape)
    bands = np.array_split(laplacian.astype(np.float32), tiles)
    return max(_variance(tile) for band in bands for tile in np.array_split(band, tiles, axis=1))


def _variance(tile: np.ndarray) -> float:
    values = tile.ravel()
    mean = float(values.mean(dtype=np.float64))
    return max(0.0, float(values @ values) / values.size - mean * mean)
