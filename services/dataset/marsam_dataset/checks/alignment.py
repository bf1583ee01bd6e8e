"""Are two pictures one and the same, apart from a little cropping, scaling and brightness? Answered by aligning them.

Hashes cannot tell a copy cropped by two percent from another drawing on the same ground; once aligned, a copy differs
by its resampling alone.
"""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

SIDE = 128
_LEVELS = (32, 64)
_ROUNDS = 6
_MARGIN = 5
"""Cells of 64 left out at each edge: there one picture may show what the other has lost."""
_FURTHEST = 0.12


@dataclass(frozen=True, kw_only=True)
class Apart:
    """How far two aligned pictures differ, 0–255: `mean` over all, `most` in the worst of 18×18 blocks."""

    mean: float
    most: float


NOTHING_ALIKE = Apart(mean=255.0, most=255.0)


class View:
    """A picture at 128×128, whatever its shape, with the smaller versions that alignment starts from."""

    def __init__(self, image: Image.Image) -> None:
        self.image = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
        luma = self.image.convert("L")
        self.levels = {n: _floats(luma.resize((n, n), Image.Resampling.BOX)) for n in _LEVELS}
        self.coarse = _centred(_floats(self.image.resize((16, 16), Image.Resampling.BOX)))

    @classmethod
    def of_png(cls, png: bytes) -> "View":
        """The view of a normalised picture. Blocking."""
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            return cls(image)

    def mirrored(self) -> "View":
        """The same picture, left and right exchanged."""
        return View(self.image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))


def apart(a: View, b: View) -> Apart:
    """Return how far `a` and `b` differ at their best alignment."""
    return min((_one_way(a, b), _one_way(b, a)), key=lambda found: found.mean)


def _one_way(a: View, b: View) -> Apart:
    """Warp `a` onto `b`: it works when `a` shows all that `b` shows."""
    found = _register(a, b)
    if found is None:
        return NOTHING_ALIKE
    warped = a.image.transform(
        (SIDE, SIDE), Image.Transform.AFFINE, _coefficients(found, SIDE), resample=Image.Resampling.BICUBIC
    )
    inner = slice(_MARGIN, 64 - _MARGIN)
    x = _floats(warped.resize((64, 64), Image.Resampling.BOX))[inner, inner]
    y = _floats(b.image.resize((64, 64), Image.Resampling.BOX))[inner, inner]
    off = np.abs(_relight(x, y) - y)
    blocks = off.reshape(18, 3, 18, 3, 3).mean(axis=(1, 3))
    return Apart(mean=float(off.mean()), most=float(blocks.max()))


def _relight(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bring `x` to the brightness and contrast of `y`, clipped as a picture is: what is white stays white."""
    free = (y > 4) & (y < 250)
    if free.mean() < 0.2:
        return x
    u, v = x[free], y[free]
    spread = float(((u - u.mean()) ** 2).sum())
    gain = float(((u - u.mean()) * (v - v.mean())).sum()) / spread if spread > 1e-3 else 1.0
    gain = min(1.5, max(0.67, gain))
    return np.clip(gain * (x - u.mean()) + v.mean(), 0, 255)


def _register(a: View, b: View) -> np.ndarray | None:
    """Find (scale x, scale y, shift x, shift y) and a change of brightness that bring `a` onto `b`.

    Gauss-Newton on the brightness-constancy equation (Lucas and Kanade 1981), coarse to fine; shifts are in units of
    the side, scales are relative. None when it runs away: the pictures are different.
    """
    motion = np.zeros(4)
    for n in _LEVELS:
        source, target = a.levels[n], b.levels[n]
        edge = n // 12
        inner = slice(edge, n - edge)
        across = (np.arange(n) - (n - 1) / 2)[inner]
        x, y = np.meshgrid(across, across)
        gain = 1.0
        units = np.array([1, 1, n, n])
        for _ in range(_ROUNDS):
            warped = _warp(source, motion, n)
            down, right = np.gradient(warped)
            right, down = right[inner, inner] * gain, down[inner, inner] * gain
            columns = (right * x, down * y, right, down, warped[inner, inner], np.ones_like(x))
            matrix = np.stack([c.ravel() for c in columns], axis=1)
            solved = np.linalg.lstsq(matrix, target[inner, inner].ravel(), rcond=None)[0]
            motion = motion + solved[:4] / units
            gain = float(solved[4])
            if np.abs(motion).max() > _FURTHEST:
                return None
    return motion


def _warp(source: np.ndarray, motion: np.ndarray, n: int) -> np.ndarray:
    image = Image.fromarray(source)
    return _floats(
        image.transform((n, n), Image.Transform.AFFINE, _coefficients(motion, n), resample=Image.Resampling.BILINEAR)
    )


def _coefficients(motion: np.ndarray, n: int) -> tuple[float, ...]:
    """Pillow's affine coefficients for a motion about the centre of an n×n picture."""
    kx, ky = 1 + motion[0], 1 + motion[1]
    centre = n / 2
    return (kx, 0.0, centre + motion[2] * n - centre * kx, 0.0, ky, centre + motion[3] * n - centre * ky)


def _floats(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.float32)


def _centred(pixels: np.ndarray) -> np.ndarray:
    return pixels - pixels.mean(axis=(0, 1))
