"""Trains the autoencoder: 128 px pictures to latents of 4 x 16 x 16.

    python -m hayy.training.vae FOLDER --minutes 25
    python -m hayy.training.vae FOLDER --minutes 30 --decoder-only     # encoder frozen: cached latents stay valid

The learning rate falls to zero over the wall-clock time given, whatever the speed of the machine. Run again with
the same arguments to resume.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from hayy.figure import HAND, HEAD
from hayy.training.pictures import BASE_SEEDS, HELD_OUT_SEEDS, JUDGE_SEEDS, SIZE, render, to_unit

CROP = 64
BATCH = 8
POOL = 2048
"""Pictures held ready; one in eight is replaced by a newly drawn one every hundred steps."""
INITIAL_LOG_VARIANCE = -6.0
"""With the default of 0 the noise of the posterior drowns the signal for hundreds of steps."""


def new_autoencoder() -> AutoencoderKL:
    """Return an untrained autoencoder, 3.3 M parameters, reducing each side eightfold."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 64, 96, 128),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=SIZE,
        scaling_factor=1.0,
        force_upcast=False,
    )
    with torch.no_grad():
        vae.quant_conv.bias[4:].fill_(INITIAL_LOG_VARIANCE)
    return vae


def reconstruct(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Return uint8 pictures [n, 3, 128, 128] after encoding to the latent mean and decoding."""
    out: list[Tensor] = []
    with torch.no_grad():
        for chunk in pictures.split(16):
            decoded = vae.decode(vae.encode(to_unit(chunk)).latent_dist.mean).sample
            out.append(((decoded.clamp(-1, 1) + 1) * 127.5).round().byte())
    return torch.cat(out)


def psnr(vae: AutoencoderKL, pictures: Tensor) -> float:
    """Return the mean peak signal-to-noise ratio of reconstructions, in dB."""
    error = (reconstruct(vae, pictures).float() - pictures.float()).square().mean(dim=(1, 2, 3))
    return float((10 * torch.log10(255**2 / error.clamp_min(1e-6))).mean())


class Crops:
    """An endless stream of 64-px crops, two of three around the face or the tool, where detail is."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._pictures = self._draw(POOL)
        self._taken = 0

    def take(self) -> Tensor:
        """Return float crops [8, 3, 64, 64] in [-1, 1]."""
        self._taken += 1
        if self._taken % 100 == 0:
            where = self._rng.choice(POOL, POOL // 8, replace=False)
            self._pictures[torch.from_numpy(where)] = self._draw(POOL // 8)
        crops = []
        for index in self._rng.integers(0, POOL, BATCH):
            left, top = self._corner()
            crops.append(self._pictures[index, :, top : top + CROP, left : left + CROP])
        return to_unit(torch.stack(crops))

    def _corner(self) -> tuple[int, int]:
        kind = self._rng.integers(0, 3)
        if kind == 2:
            x, y = self._rng.integers(0, SIZE - CROP + 1, 2)
            return int(x), int(y)
        x, y = np.array(HEAD if kind == 0 else HAND) - CROP / 2 + self._rng.normal(0, 7, 2)
        return int(np.clip(x, 0, SIZE - CROP)), int(np.clip(y, 0, SIZE - CROP))

    def _draw(self, count: int) -> Tensor:
        half = count // 2
        base = [int(seed) for seed in self._rng.choice(BASE_SEEDS, half)]
        every = [int(seed) for seed in self._rng.choice(JUDGE_SEEDS, count - half)]
        return torch.cat([render("base", base)[1], render("independent", every)[1]])


def loss_of(vae: AutoencoderKL, crops: Tensor, *, decoder_only: bool) -> Tensor:
    """Absolute, squared and gradient error, plus a trace of the KL term."""
    with torch.autocast("cpu", torch.bfloat16):
        if decoder_only:
            with torch.no_grad():
                posterior = vae.encode(crops).latent_dist
                latents = posterior.mean.float()
                latents = latents + 0.05 * torch.randn_like(latents)
        else:
            posterior = vae.encode(crops).latent_dist
            latents = posterior.sample()
        decoded = vae.decode(latents).sample
    difference = decoded.float() - crops
    edges = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    loss = difference.abs().mean() + difference.square().mean() + 0.5 * edges
    if decoder_only:
        return loss
    mean, log_variance = posterior.mean.float(), posterior.logvar.float()
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return loss + 2e-4 * divergence


@torch.no_grad()
def fold_whitening(vae: AutoencoderKL, pictures: Tensor) -> None:
    """Make latents zero mean and unit variance per channel, inside the 1x1 quant convolutions: exact."""
    latents = torch.cat([vae.encode(to_unit(chunk)).latent_dist.mean for chunk in pictures.split(16)])
    mean, deviation = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    vae.quant_conv.weight[:4] /= deviation[:, None, None, None]
    vae.quant_conv.bias[:4] = (vae.quant_conv.bias[:4] - mean) / deviation
    vae.quant_conv.bias[4:] -= 2 * deviation.log()
    # Undo it before the decoder: scale its input columns, add the mean through the bias.
    vae.post_quant_conv.bias += (vae.post_quant_conv.weight[:, :, 0, 0] * mean).sum(dim=1)
    vae.post_quant_conv.weight *= deviation[None, :, None, None]


def train(folder: Path, *, minutes: float, decoder_only: bool, peak_lr: float) -> None:
    """Train into `folder`/vae (exported every two minutes), resuming from `folder`/vae_state.pt if it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    state_path = folder / ("decoder_state.pt" if decoder_only else "vae_state.pt")
    vae = AutoencoderKL.from_pretrained(folder / "vae") if decoder_only else new_autoencoder()
    trained = [vae.decoder, vae.post_quant_conv] if decoder_only else [vae]
    vae.requires_grad_(False)
    for module in trained:
        module.requires_grad_(True)
    parameters = [p for p in vae.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=peak_lr, betas=(0.9, 0.95), weight_decay=0.0)
    average = copy.deepcopy(vae).eval()
    step, spent = 0, 0.0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        vae.load_state_dict(state["vae"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["spent"]
    crops = Crops(seed=step + 1)
    _, held_out = render("independent", HELD_OUT_SEEDS[:96])
    began, exported = time.monotonic() - spent, time.monotonic()
    torch.manual_seed(step)
    while (spent := time.monotonic() - began) < minutes * 60:
        rate = peak_lr * min(1.0, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * spent / (minutes * 60)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(vae, crops.take(), decoder_only=decoder_only)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        decay = min(0.998, step / (step + 20))
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), vae.parameters(), strict=True):
                slow.lerp_(fast, 1 - decay)
        if time.monotonic() - exported > 120:
            exported = time.monotonic()
            torch.save(
                {
                    "vae": vae.state_dict(),
                    "average": average.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                    "spent": spent,
                },
                state_path,
            )
            _log(folder, step, spent, loss, psnr(average, held_out))
            if decoder_only:
                _export(average, folder / "vae")
    if not decoder_only:
        fold_whitening(average, render("base", BASE_SEEDS[:1024])[1])
    _export(average, folder / "vae")
    _log(folder, step, spent, loss, psnr(average, held_out))


def _export(vae: AutoencoderKL, target: Path) -> None:
    """Write beside the target, then rename: a reader never sees half a model."""
    fresh, old = target.with_name(target.name + ".new"), target.with_name(target.name + ".old")
    vae.save_pretrained(fresh)
    if target.exists():
        os.replace(target, old)
    os.replace(fresh, target)
    if old.exists():
        for file in old.iterdir():
            file.unlink()
        old.rmdir()


def _log(folder: Path, step: int, spent: float, loss: Tensor, decibels: float) -> None:
    line = {
        "step": step,
        "crops": step * BATCH,
        "seconds": round(spent),
        "loss": round(float(loss), 4),
        "psnr_db": round(decibels, 2),
    }
    with (folder / "vae_log.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")
    print(line, flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--decoder-only", action="store_true")
    parser.add_argument("--peak-lr", type=float, default=2e-3)
    options = parser.parse_args()
    train(options.folder, minutes=options.minutes, decoder_only=options.decoder_only, peak_lr=options.peak_lr)


if __name__ == "__main__":
    main()
