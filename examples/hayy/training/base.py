"""Trains the base: denoiser and text encoder together, on cached latents, one single-threaded process per core.

    python -m hayy.training.base FOLDER --export BASE --samples SAMPLES --until 2026-01-01T06:00 --processes 2

The learning rate is a function of the share of the time spent, so it lands at zero at `--until` however fast the
machine was. Run again with the same arguments to resume from `FOLDER/base_state.pt`. Every few minutes the averaged
weights are exported to BASE as a complete pipeline, and a grid of the same prompts and seeds is drawn.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import json
import math
import os
import time
from pathlib import Path
from random import Random

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTokenizer

from hayy.corpus import training_caption
from hayy.training.latents import load
from hayy.training.model import export, new_scheduler, new_text_encoder, new_unet
from hayy.training.samples import draw_grid
from hayy.world import sample

BATCH = 16
"""Pictures per process and step: small, because the number of steps limits a short training, not their noise."""
PEAK_LR = 1.2e-3
WARM_UP_STEPS = 200
SYNC_STEPS = 8
"""Steps that each process takes alone before all average their weights: a process that another program slows down
then holds the others up once in eight steps, not at each."""
NO_CAPTION = 0.1
EMA_DECAY = 0.9995
EXPORT_SECONDS = 480
STATE_SECONDS = 150


class Base(nn.Module):
    """Denoiser and text encoder as one module, trained with the v-objective."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.unet = new_unet()
        self.text_encoder = new_text_encoder(tokenizer)
        scheduler = new_scheduler()
        self.register_buffer("alphas", scheduler.alphas_cumprod.float(), persistent=False)

    def loss(self, latents: Tensor, tokens: Tensor) -> Tensor:
        """Return the mean squared error of v at uniform times; latents [n, 4, 16, 16], tokens [n, 32]."""
        times = torch.randint(0, len(self.alphas), (len(latents),))
        alpha = self.alphas[times].view(-1, 1, 1, 1)
        noise = torch.randn_like(latents)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        wanted = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
        # At 64 tokens and fewer, fused attention on a CPU is slower than plain matrix products, above all backwards.
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            states = self.text_encoder(tokens).last_hidden_state
            predicted = self.unet(noisy, times, states).sample
        return (predicted.float() - wanted).square().mean()


class Batches:
    """Random batches: a cached latent with a caption written anew each time, half English and half Arabic."""

    def __init__(self, folder: Path, tokenizer: CLIPTokenizer, *, seed: int) -> None:
        self._folder, self._tokenizer = folder, tokenizer
        self._rng = Random(seed)
        self.refresh()

    def refresh(self) -> None:
        """Read the shards that other processes have finished since."""
        self._latents, seeds = load(self._folder)
        self._people = [sample(Random(seed), "base") for seed in seeds]

    def __len__(self) -> int:
        return len(self._people)

    def take(self) -> tuple[Tensor, Tensor]:
        """Return latents [16, 4, 16, 16] and tokens [16, 32]."""
        index = [self._rng.randrange(len(self._people)) for _ in range(BATCH)]
        texts = [
            ""
            if self._rng.random() < NO_CAPTION
            else training_caption(self._people[i], self._rng, language=self._rng.choice(("en", "ar")), world="base")
            for i in index
        ]
        tokens = self._tokenizer(
            texts, padding="max_length", max_length=self._tokenizer.model_max_length, return_tensors="pt"
        )
        return self._latents[index].float(), tokens["input_ids"]


def learning_rate(step: int, share: float) -> float:
    """Return the rate at this step when `share` (0 to 1) of the time is spent."""
    return PEAK_LR * min(1.0, (step + 1) / WARM_UP_STEPS) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, share)))


@torch.no_grad()
def average_weights(parameters: list[nn.Parameter], processes: int) -> None:
    """Replace every weight by its mean over all processes."""
    flat = torch.cat([parameter.reshape(-1) for parameter in parameters])
    dist.all_reduce(flat)
    flat /= processes
    for parameter, mean in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.copy_(mean.view_as(parameter))


def worker(rank: int, options: argparse.Namespace) -> None:
    """Train as one of several equal processes; rank 0 also keeps the average, the state and the samples."""
    torch.set_num_threads(1)
    folder, processes = options.folder, options.processes
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(options.port))
    dist.init_process_group("gloo", rank=rank, world_size=processes, timeout=datetime.timedelta(minutes=30))
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    torch.manual_seed(0)
    base = Base(tokenizer)
    average = copy.deepcopy(base).eval()
    parameters = [p for p in base.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    state_path = folder / "base_state.pt"
    step, pictures, began = 0, 0, time.time()
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        base.load_state_dict(state["base"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step, pictures, began = state["step"], state["pictures"], state["began"]
    batches = Batches(folder, tokenizer, seed=step * processes + rank)
    torch.manual_seed(step * processes + rank + 1)
    until = datetime.datetime.fromisoformat(options.until).timestamp()
    exported = saved = refreshed = time.time()
    smoothed = 0.0
    share = _agree((time.time() - began) / (until - began))
    while share < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, share)
        loss = base.loss(*batches.take())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step, pictures = step + 1, pictures + BATCH * processes
        smoothed = 0.99 * smoothed + 0.01 * loss.item() if smoothed else loss.item()
        if step % SYNC_STEPS:
            continue
        if processes > 1:
            average_weights(parameters, processes)
        share = _agree((time.time() - began) / (until - began))
        if time.time() - refreshed > 120:
            refreshed = time.time()
            batches.refresh()
        if rank:
            continue
        update_average(average, base, decay=min(EMA_DECAY, step / (step + 60)) ** SYNC_STEPS)
        if step % 80 == 0:
            _log(
                folder,
                {
                    "step": step,
                    "pictures": pictures,
                    "distinct": len(batches),
                    "loss": round(smoothed, 4),
                    "lr": round(optimizer.param_groups[0]["lr"], 6),
                    "seconds": round(time.time() - began),
                },
            )
        if time.time() - saved > STATE_SECONDS:
            saved = time.time()
            _save(
                {
                    "base": base.state_dict(),
                    "average": average.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                    "pictures": pictures,
                    "began": began,
                },
                state_path,
            )
        if time.time() - exported > EXPORT_SECONDS:
            exported = time.time()
            _publish(average, tokenizer, options, step)
    if rank == 0:
        _save(
            {
                "base": base.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step,
                "pictures": pictures,
                "began": began,
            },
            state_path,
        )
        _publish(average, tokenizer, options, step)
    dist.destroy_process_group()


def _agree(share: float) -> float:
    """Return rank 0's share of the time spent, so that every process leaves the loop at the same step."""
    told = torch.tensor([share], dtype=torch.float64)
    dist.broadcast(told, src=0)
    return told.item()


@torch.no_grad()
def update_average(average: Base, base: Base, *, decay: float) -> None:
    """Move the slow weights towards the fast ones."""
    torch._foreach_lerp_(list(average.parameters()), list(base.parameters()), 1 - decay)


def _publish(average: Base, tokenizer: CLIPTokenizer, options: argparse.Namespace, step: int) -> None:
    vae = AutoencoderKL.from_pretrained(options.folder / "vae").eval()
    export(
        options.export,
        vae=vae,
        text_encoder=average.text_encoder,
        tokenizer_folder=options.folder / "tokenizer",
        unet=average.unet,
    )
    grid = draw_grid(unet=average.unet, text_encoder=average.text_encoder, tokenizer=tokenizer, vae=vae)
    options.samples.mkdir(parents=True, exist_ok=True)
    grid.save(options.samples / f"{step:06}.png")


def _save(state: dict[str, object], path: Path) -> None:
    fresh = path.with_suffix(".new")
    torch.save(state, fresh)
    os.replace(fresh, path)


def _log(folder: Path, line: dict[str, object]) -> None:
    with (folder / "base_log.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")
    print(line, flush=True)


def main() -> None:
    """Read the command line and start one process per core asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds tokenizer/, vae/ and latents/; the state is kept here")
    parser.add_argument("--export", type=Path, required=True)
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--until", required=True, help="local time at which the learning rate reaches zero")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--port", type=int, default=29517)
    options = parser.parse_args()
    mp.spawn(worker, (options,), nprocs=options.processes)


if __name__ == "__main__":
    main()
