"""Caches the base world's latents: the autoencoder is the expensive part, and needs to see each picture once.

    python -m hayy.training.latents FOLDER --count 32768 --part 0 --parts 2

Each part writes its own shards of `FOLDER/latents`, and skips those already there, so several may run side by side.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL

from hayy.training.pictures import BASE_SEEDS, render, to_unit

SHARD = 2048


def encode(vae: AutoencoderKL, seeds: range) -> npt.NDArray[np.float16]:
    """Return latent means of the base's pictures at `seeds`, float16 [n, 4, 16, 16]."""
    out = []
    for first in range(seeds.start, seeds.stop, 16):
        pictures = render("base", range(first, min(first + 16, seeds.stop)))[1]
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            out.append(vae.encode(to_unit(pictures)).latent_dist.mean.to(torch.float16))
    return torch.cat(out).numpy()


def cache(folder: Path, *, count: int, part: int, parts: int) -> None:
    """Encode every `parts`-th shard, beginning with `part`."""
    torch.set_num_threads(1)
    vae = AutoencoderKL.from_pretrained(folder / "vae").eval()
    target = folder / "latents"
    target.mkdir(exist_ok=True)
    for index in range(part, count // SHARD, parts):
        path = target / f"{index:03}.npy"
        if path.exists():
            continue
        first = BASE_SEEDS.start + index * SHARD
        fresh = path.with_suffix(f".{os.getpid()}.tmp")
        with fresh.open("wb") as file:
            np.save(file, encode(vae, range(first, first + SHARD)))
        os.replace(fresh, path)
        print(path.name, flush=True)


def load(folder: Path) -> tuple[torch.Tensor, list[int]]:
    """Return all latents cached so far, float16 [n, 4, 16, 16], and the seeds that they belong to."""
    paths = sorted((folder / "latents").glob("*.npy"))
    seeds = [BASE_SEEDS.start + int(path.stem) * SHARD + offset for path in paths for offset in range(SHARD)]
    return torch.from_numpy(np.concatenate([np.load(path) for path in paths])), seeds


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=32_768)
    parser.add_argument("--part", type=int, default=0)
    parser.add_argument("--parts", type=int, default=1)
    options = parser.parse_args()
    cache(options.folder, count=options.count, part=options.part, parts=options.parts)


if __name__ == "__main__":
    main()
