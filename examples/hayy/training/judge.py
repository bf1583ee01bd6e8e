"""Trains the judge: a small residual network that reads place, garment, head cover and tool off a picture.

    python -m hayy.training.judge OUT --minutes 20          # rendered pictures only
    python -m hayy.training.judge OUT --minutes 10 --vae VAE --start OUT
    python -m hayy.training.judge OUT --minutes 0 --vae VAE --start OUT    # only measure and write

Trained on the world whose attributes are independent, so that it cannot take the desert as a sign of a keffiyeh.
The result is a plain `ResNetForImageClassification`; its labels are written `attribute:value`, and those of one
attribute form one softmax.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from pathlib import Path
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import ResNetConfig, ResNetForImageClassification

from hayy.attributes import GARMENTS, HEAD_COVERS, PLACES, TOOLS, Attributes
from hayy.training.pictures import HELD_OUT_SEEDS, JUDGE_SEEDS, SIZE, render, to_unit
from hayy.world import sample

GROUPS: dict[str, tuple[str, ...]] = {
    "place": PLACES,
    "garment": GARMENTS,
    "head_cover": HEAD_COVERS,
    "tool": TOOLS,
}
LABELS = [f"{attribute}:{value}" for attribute, values in GROUPS.items() for value in values]
SIZES = [len(values) for values in GROUPS.values()]
BATCH = 32
POOL = 4096
SMEARED = 2560
"""Pictures taken through the autoencoder, half of them with noise on their latents."""
REPORTABLE = 0.97
NUM_MEASURED = 1024


def new_judge() -> ResNetForImageClassification:
    """Return an untrained network, 2.6 M parameters, for 128 px pictures."""
    torch.manual_seed(0)
    return ResNetForImageClassification(
        ResNetConfig(
            embedding_size=32,
            hidden_sizes=[32, 64, 128, 224],
            depths=[1, 1, 2, 1],
            layer_type="basic",
            id2label=dict(enumerate(LABELS)),
            label2id={label: index for index, label in enumerate(LABELS)},
        )
    )


def targets(people: list[Attributes]) -> Tensor:
    """Return the value's index of each attribute, int64 [n, 4]."""
    rows = [[values.index(person.visible()[name]) for name, values in GROUPS.items()] for person in people]
    return torch.tensor(rows)


@torch.no_grad()
def through(vae: AutoencoderKL, pictures: Tensor, *, noise: float) -> Tensor:
    """Return uint8 pictures decoded from their latents after adding noise of this deviation."""
    out = []
    for chunk in pictures.split(16):
        with torch.autocast("cpu", torch.bfloat16):
            latents = vae.encode(to_unit(chunk)).latent_dist.mean.float()
            decoded = vae.decode(latents + noise * torch.randn_like(latents)).sample.float()
        out.append(((decoded.clamp(-1, 1) + 1) * 127.5).round().byte())
    return torch.cat(out)


def augment(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """Shift, blur, wobble, tint and add noise to float pictures [n, 3, 128, 128] in [-1, 1]."""
    count = len(pictures)
    grid = F.affine_grid(torch.eye(2, 3).repeat(count, 1, 1), [count, 3, SIZE, SIZE], align_corners=False)
    size = torch.from_numpy(rng.uniform(0.9, 1.1, (count, 1, 1, 1))).float()
    shift = torch.from_numpy(rng.uniform(-0.09, 0.09, (count, 1, 1, 2))).float()
    strength = torch.from_numpy(rng.uniform(0, 0.035, (count, 1, 1, 1))).float()
    wobble = F.interpolate(torch.randn(count, 2, 10, 10), (SIZE, SIZE), mode="bicubic").permute(0, 2, 3, 1)
    out = F.grid_sample(pictures, grid * size + shift + strength * wobble, padding_mode="border", align_corners=False)
    if rng.random() < 0.6:
        small = int(rng.integers(28, 88))
        out = F.interpolate(F.interpolate(out, (small, small), mode="area"), (SIZE, SIZE), mode="bilinear")
    tint = 1 + 0.12 * torch.randn(count, 3, 1, 1)
    return out * tint + 0.06 * torch.randn(count, 3, 1, 1) + rng.uniform(0, 0.12) * torch.randn_like(out)


def grouped_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Sum of one cross-entropy for each attribute."""
    parts = logits.split(SIZES, dim=1)
    return torch.stack([F.cross_entropy(part, wanted[:, i]) for i, part in enumerate(parts)]).sum()


@torch.no_grad()
def read(judge: ResNetForImageClassification, pictures: Tensor) -> Tensor:
    """Return the judge's reading of uint8 pictures as value indices, int64 [n, 4]."""
    rows = []
    for chunk in pictures.split(64):
        parts = judge(to_unit(chunk)).logits.split(SIZES, dim=1)
        rows.append(torch.stack([part.argmax(dim=1) for part in parts], dim=1))
    return torch.cat(rows)


def measure(judge: ResNetForImageClassification, people: list[Attributes], pictures: Tensor) -> dict[str, object]:
    """Return accuracy, and confusion with its labels (rows are the truth), for each attribute."""
    judge.eval()
    truth, seen = targets(people), read(judge, pictures)
    report: dict[str, object] = {}
    for index, (name, values) in enumerate(GROUPS.items()):
        confusion = torch.zeros(len(values), len(values), dtype=torch.int64)
        confusion.index_put_((truth[:, index], seen[:, index]), torch.tensor(1), accumulate=True)
        report[name] = {
            "accuracy": round(float((truth[:, index] == seen[:, index]).float().mean()), 4),
            "values": list(values),
            "confusion": confusion.tolist(),
        }
    return report


def train(out: Path, *, minutes: float, vae: AutoencoderKL | None, start: Path | None, peak_lr: float) -> None:
    """Train for `minutes` of wall-clock time and write the judge to `out`."""
    torch.set_num_threads(1)
    judge = ResNetForImageClassification.from_pretrained(start) if start else new_judge()
    steps = json.loads((start / "judge.json").read_text())["details"]["steps"] if start else 0
    if minutes > 0:
        steps += fit(judge, minutes=minutes, vae=vae, peak_lr=peak_lr)
    save(judge, out, vae=vae, steps=steps)


def fit(judge: ResNetForImageClassification, *, minutes: float, vae: AutoencoderKL | None, peak_lr: float) -> int:
    """Train in place, on reconstructions too where there is an autoencoder; return the number of steps."""
    rng = np.random.default_rng(1 if vae else 0)
    torch.manual_seed(1)
    began = time.monotonic()
    people, pool = render("independent", [int(seed) for seed in rng.choice(JUDGE_SEEDS, POOL, replace=False)])
    wanted = targets(people)
    if vae is not None:
        half = SMEARED // 2
        smeared = [through(vae, pool[:half], noise=0.0)]
        for chunk in pool[half:SMEARED].split(64):
            smeared.append(through(vae, chunk, noise=float(rng.uniform(0.05, 0.45))))
        pool, wanted = torch.cat([*smeared, pool]), torch.cat([wanted[:SMEARED], wanted])
    optimizer = torch.optim.AdamW(judge.parameters(), lr=peak_lr, weight_decay=0.02)
    step = 0
    judge.train()
    while (spent := time.monotonic() - began) < minutes * 60:
        for group in optimizer.param_groups:
            group["lr"] = peak_lr * min(1, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * spent / minutes / 60))
        if step % 50 == 49:
            # Newly drawn people replace some of the rendered ones, which are the last POOL of the pool.
            where = len(pool) - POOL + rng.choice(POOL, 128, replace=False)
            people, fresh = render("independent", [int(seed) for seed in rng.choice(JUDGE_SEEDS, 128)])
            pool[where], wanted[where] = fresh, targets(people)
        index = torch.from_numpy(rng.integers(0, len(pool), BATCH))
        with torch.autocast("cpu", torch.bfloat16):
            logits = judge(augment(to_unit(pool[index]), rng)).logits
        loss = grouped_loss(logits.float(), wanted[index])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1
        if step % 200 == 0:
            print({"step": step, "seconds": round(spent), "loss": round(loss.item(), 4)}, flush=True)
    return step


def save(judge: ResNetForImageClassification, out: Path, *, vae: AutoencoderKL | None, steps: int) -> None:
    """Write the network, its preprocessing and its measured error."""
    judge.eval()
    seeds = HELD_OUT_SEEDS[4096 : 4096 + NUM_MEASURED]
    people, pictures = render("independent", seeds)
    report: dict[str, object] = {"rendered": measure(judge, people, pictures)}
    base_people, base_pictures = render("base", HELD_OUT_SEEDS[8192 : 8192 + 512])
    report["base_world"] = measure(judge, base_people, base_pictures)
    deciding = "rendered"
    if vae is not None:
        deciding = "reconstructed"
        torch.manual_seed(2)
        report[deciding] = measure(judge, people, through(vae, pictures, noise=0.0))
        report["reconstructed_noisy"] = measure(judge, people, through(vae, pictures, noise=0.3))
    accuracies = {name: report[deciding][name]["accuracy"] for name in GROUPS}  # type: ignore[index]
    summary = {
        "schema": "marsam.judge/1",
        "name": "hayy-judge",
        "attributes": {
            name: {
                kind: {"values": table[name]["values"], "counts": table[name]["confusion"]}  # type: ignore[index]
                for kind, table in (("renders", report["rendered"]), ("reconstructions", report.get("reconstructed")))
                if table is not None
            }
            for name in GROUPS
        },
        "trust_from": REPORTABLE,
        "notes": "Trained on pictures whose attributes are independent, so that no attribute betrays another.",
        "details": {
            "steps": steps,
            "batch": BATCH,
            "measured_on": {"world": "independent", "seeds": [seeds[0], seeds[-1]], "pictures": NUM_MEASURED},
            "data_sha256": data_digest(seeds),
            "accuracy_decided_by": deciding,
            "accuracy": accuracies,
            "measurements": report,
        },
    }
    out.mkdir(parents=True, exist_ok=True)
    judge.half().save_pretrained(out)
    config = out / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
    preprocessing = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": SIZE, "width": SIZE},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (out / "preprocessor_config.json").write_text(json.dumps(preprocessing, indent=2) + "\n")
    (out / "judge.json").write_text(json.dumps(summary) + "\n")
    for name, part in report.items():
        print(name, {attribute: part[attribute]["accuracy"] for attribute in GROUPS})  # type: ignore[index]


def data_digest(seeds: range) -> str:
    """Return the digest of the attributes measured on: of the people, not of pixels, which vary with Pillow."""
    people = [sample(Random(seed), "independent") for seed in seeds]
    return hashlib.sha256("\n".join(map(repr, people)).encode()).hexdigest()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--vae", type=Path, help="an autoencoder whose reconstructions the judge must read too")
    parser.add_argument("--start", type=Path, help="a judge to train on from")
    parser.add_argument("--peak-lr", type=float, default=2e-3)
    options = parser.parse_args()
    vae = AutoencoderKL.from_pretrained(options.vae).eval() if options.vae else None
    train(options.out, minutes=options.minutes, vae=vae, start=options.start, peak_lr=options.peak_lr)


if __name__ == "__main__":
    main()
