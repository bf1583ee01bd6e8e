"""Perceptual hashes of 64 bits: close pictures have close hashes.

Both hashes are built so that the hash of the mirrored picture follows from the hash of the picture, without its pixels.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

_DCT_SIZE = 32
_KEEP = 8


@lru_cache(maxsize=1)
def _dct_matrix() -> np.ndarray:
    """The first eight rows of the orthonormal DCT-II of size 32."""
    k = np.arange(_KEEP)[:, None]
    n = np.arange(_DCT_SIZE)[None, :]
    matrix = np.cos(np.pi * (2 * n + 1) * k / (2 * _DCT_SIZE)) * np.sqrt(2 / _DCT_SIZE)
    matrix[0] /= np.sqrt(2)
    return matrix


def _pack(bits: np.ndarray) -> int:
    return int.from_bytes(np.packbits(bits.reshape(-1)).tobytes(), "big")


def phash(luma: Any) -> int:
    """DCT hash of a Pillow picture of mode L.

    Signs of the 8×8 lowest frequencies of a 32×32 reduction; the mean (0, 0) is left out and its bit is 0. A sign,
    rather than a comparison with the median, is what makes the mirrored hash computable: mirroring negates the odd
    columns.
    """
    small = np.asarray(
        luma.resize((_DCT_SIZE, _DCT_SIZE), Image.Resampling.LANCZOS, reducing_gap=3.0), dtype=np.float64
    )
    matrix = _dct_matrix()
    bits = (matrix @ small @ matrix.T) > 1e-6
    bits[0, 0] = False
    return _pack(bits)


def dhash(luma: Any) -> int:
    """Gradient hash of a Pillow picture of mode L: is each cell of a 9×8 reduction brighter than its left neighbour.

    Equal neighbours count as falling in the left half and rising in the right one, so that the rule survives mirroring.
    """
    small = np.asarray(luma.resize((9, 8), Image.Resampling.LANCZOS, reducing_gap=3.0), dtype=np.int16)
    step = np.diff(small, axis=1)
    return _pack(np.where(step == 0, np.arange(8) >= 4, step > 0))


_ODD_COLUMNS = int.from_bytes(bytes([0b01010101]) * 8, "big")


def mirror_phash(value: int) -> int:
    """The pHash of the left-right mirrored picture (exact unless a coefficient is zero)."""
    return value ^ _ODD_COLUMNS


def mirror_dhash(value: int) -> int:
    """The dHash of the left-right mirrored picture (the resize rounds a few neighbours the other way)."""
    rows = value.to_bytes(8, "big")
    return int.from_bytes(bytes(int(f"{row ^ 0xFF:08b}"[::-1], 2) for row in rows), "big")


def distance(a: int, b: int) -> int:
    """Number of differing bits."""
    return (a ^ b).bit_count()
