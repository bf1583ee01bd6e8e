"""Randomness without state: every draw is a function of the run's seed and of what it is drawn for.

Nothing has to be saved to resume exactly, and neither previews nor the number of data threads can shift a draw.
"""

import hashlib
from collections.abc import Sequence

import torch


def bits(seed: int, *what: str | int) -> int:
    """63 uniform bits for the purpose `what`, the same on every machine."""
    text = "\x1f".join(str(part) for part in (seed, *what))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def unit(seed: int, *what: str | int) -> float:
    """A uniform number in [0, 1)."""
    return (bits(seed, *what) >> 10) / float(1 << 53)


def normal(shape: Sequence[int], seed: int, *what: str | int) -> torch.Tensor:
    """Standard normal numbers of `shape`, fp32, on the CPU: a device must not change a run's noise."""
    generator = torch.Generator("cpu").manual_seed(bits(seed, *what))
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32)
