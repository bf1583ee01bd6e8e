"""Rendered pictures as tensors, straight from seeds: nothing is stored."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np
import torch
from torch import Tensor

from hayy.attributes import Attributes
from hayy.painter import draw
from hayy.world import sample

SIZE = 128
BASE_SEEDS = range(200_000)
TUNING_SEEDS = range(500_000, 600_000)
JUDGE_SEEDS = range(900_000, 1_000_000)
HELD_OUT_SEEDS = range(1_000_000, 1_100_000)
"""Seeds of pictures that neither the base nor the judge is trained on."""


def render(world: str, seeds: Sequence[int]) -> tuple[list[Attributes], Tensor]:
    """Return the people of `world` at `seeds` and their pictures, uint8 [n, 3, 128, 128]."""
    people = [sample(Random(seed), world) for seed in seeds]
    drawn = [draw(person, seed=seed, size=SIZE) for person, seed in zip(people, seeds, strict=True)]
    return people, torch.from_numpy(np.stack([np.asarray(picture) for picture in drawn])).permute(0, 3, 1, 2)


def to_unit(pictures: Tensor) -> Tensor:
    """Return uint8 pictures as float32 in [-1, 1], the range of the autoencoder."""
    return pictures.float() / 127.5 - 1
