"""A real judge for the synthetic world, trained in seconds: a ResNet of some thousand weights on 32-pixel pictures."""

import io
import json
from pathlib import Path

import numpy as np
import torch
from marsam_generator.evaluation.judges.record import Confusion, JudgeRecord, Measured, write_record
from PIL import Image
from torch.nn import functional
from transformers import ResNetConfig, ResNetForImageClassification

from tests.unit.evaluation.synthetic import COVERS, GARMENTS, PLACES, draw

SIDE = 32
VALUES = {"place": PLACES, "garment": GARMENTS, "head_cover": COVERS}


def train(folder: Path, *, steps: int = 300) -> JudgeRecord:
    """Write a judge to `folder` and return what was measured of it."""
    torch.manual_seed(0)
    labels = [f"{name}:{value}" for name, values in VALUES.items() for value in values]
    sizes = [len(values) for values in VALUES.values()]
    network = ResNetForImageClassification(
        ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic",
                     downsample_in_first_stage=False, id2label=dict(enumerate(labels)),
                     label2id={label: i for i, label in enumerate(labels)})
    )  # fmt: skip
    pixels, truth = _pictures(range(2))
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3)
    rng = np.random.default_rng(0)
    network.train()
    for _ in range(steps):
        rows = rng.integers(0, len(pixels), 48)
        parts = network(pixel_values=pixels[rows]).logits.split(sizes, dim=1)
        loss = sum(functional.cross_entropy(part, truth[rows, i]) for i, part in enumerate(parts))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    network.save_pretrained(folder)
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    preprocessing = {"size": {"height": SIDE, "width": SIDE}, "resample": 1, **half}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    record = JudgeRecord(name="tiny-judge", attributes=_measure(network, sizes), trust_from=0.95)
    write_record(folder, record)
    return record


def _pictures(seeds: range) -> tuple[torch.Tensor, torch.Tensor]:
    """Every combination of values at each seed, and the numbers of their values."""
    values, truth = [], []
    for seed in seeds:
        for i, place in enumerate(PLACES):
            for j, garment in enumerate(GARMENTS):
                for k, cover in enumerate(COVERS):
                    data = draw({"place": place, "garment": garment, "head_cover": cover}, seed)
                    with Image.open(io.BytesIO(data)) as picture:
                        small = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
                    values.append(np.asarray(small, dtype=np.float32) / 127.5 - 1)
                    truth.append((i, j, k))
    return torch.from_numpy(np.stack(values)).permute(0, 3, 1, 2).contiguous(), torch.tensor(truth)


@torch.no_grad()
def _measure(network: ResNetForImageClassification, sizes: list[int]) -> dict[str, Measured]:
    pixels, truth = _pictures(range(100, 102))
    parts = network(pixel_values=pixels).logits.split(sizes, dim=1)
    found = {}
    for i, (name, values) in enumerate(VALUES.items()):
        counts = np.zeros((len(values), len(values)), dtype=int)
        np.add.at(counts, (truth[:, i].numpy(), parts[i].argmax(dim=1).numpy()), 1)
        table = Confusion(values=values, counts=tuple(tuple(map(int, row)) for row in counts))
        found[name] = Measured(renders=table)
    return found
