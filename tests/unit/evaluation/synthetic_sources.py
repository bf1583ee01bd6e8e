"""Manifests beside the synthetic evaluation: models, their runs' histories, the dataset version they were tuned on."""

import hashlib
import io
from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np
from marsam_generator.evaluation.report import Sources, thumbnail
from marsam_generator.evaluation.results import Results
from PIL import Image

from marsam.catalog.datasets import Caption, DatasetVersion, Finding, Item, Rights
from marsam.catalog.files import FileRef
from marsam.catalog.models import Lineage, Model

NOW = datetime(2026, 11, 25, 1, 0, tzinfo=UTC)


def digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def dataset(name: str = "projects/demo/datasets/hayy/versions/v1") -> DatasetVersion:
    """180 pictures in two languages under two licences, with what curation said and left out."""
    items = []
    for i in range(180):
        findings = [Finding(check="near_duplicate", severity="warn", reason="NEAR_DUPLICATE", message="resembles")]
        items.append(
            Item(
                id=f"01kb{i:022d}", file_name=f"{i:04d}.png",
                image=FileRef(path=f"{i}.png", digest=digest(f"image {i}"), size=20_000),
                original_digest=digest(f"original {i}"), pixel_digest=digest(f"pixels {i}"), width=256, height=256,
                phash=i, dhash=i,
                captions=(Caption(language="en", text=f"scene {i}"), Caption(language="ar", text=f"مشهد {i}")),
                rights=Rights(licence="CC0-1.0" if i % 3 else "Apache-2.0", holder="The Marsam authors",
                              source="drawn by examples/hayy", consent="none depicted"),
                findings=tuple(findings) if i % 40 == 0 else (),
            )
        )  # fmt: skip
    excluded = [("exact_duplicate", 6), ("caption_contradicts_attributes", 4), ("wrong_language", 3), ("unreadable", 2)]
    return DatasetVersion(
        name=name, create_time=NOW, items=tuple(items),
        excluded=tuple((f"01kc{n:021d}{i}", reason) for reason, n in excluded for i in range(n)),
        report={
            "associations": [
                {"a": "role", "b": "garment", "v": 0.46, "items": 180, "warns": False},
                {"a": "role", "b": "place", "v": 0.31, "items": 180, "warns": False},
                {"a": "place", "b": "garment", "v": 0.12, "items": 180, "warns": False},
            ],
            "warnings": [],
        },
    )  # fmt: skip


def curve(seed: int) -> tuple[tuple[int, float], ...]:
    rng = np.random.default_rng(seed)
    steps = np.arange(1, 151)
    losses = 0.19 + 0.22 * np.exp(-steps / 30) + rng.normal(0, 0.012, len(steps))
    return tuple((int(step), float(loss)) for step, loss in zip(steps, losses, strict=True))


def models(results: Results) -> tuple[Model, ...]:
    base = Model(
        name=results.models[0], kind="base", create_time=NOW, family="sd1", licence="Apache-2.0",
        files=(FileRef(path="unet/diffusion_pytorch_model.safetensors", digest=digest("base"), size=18_700_000),),
    )  # fmt: skip
    tuned = []
    for title, name in zip(results.model_titles[1:], results.models[1:], strict=True):
        method = title.rsplit("-", 1)[-1]
        size = {"lora": 2_300_000, "qlora": 2_300_000, "full": 17_100_000}[method]
        tuned.append(
            Model(
                name=name, kind="full" if method == "full" else "adapter", create_time=NOW, family="sd1", method=method,
                base=base.name, base_digest=base.digest, licence="Apache-2.0",
                files=(FileRef(path="model.safetensors", digest=digest(title), size=size),),
                params={"rank": 16, "alpha": 16.0, "targets": ["to_q", "to_k"]} if method != "full" else {},
                lineage=Lineage(
                    dataset_version="projects/demo/datasets/hayy/versions/v1", dataset_digest=digest("data"),
                    run="projects/demo/runs/01kb0000000000000000000001", seed=7, code_version="0.1.0",
                    quantisation="nf4" if method == "qlora" else "",
                ),
                metrics={
                    "weights_at_rest_bytes": 6.1e6 if method == "qlora" else 18.7e6,
                    "peak_memory_bytes": 612e6,
                    "train_seconds": 97.0,
                    "images_per_second": 24.7,
                    "artifact_bytes": float(size),
                    "trainable_parameters": 579_072.0,
                },
            )
        )  # fmt: skip
    return (base, *tuned)


def sources(results: Results, pictures: Mapping[str, bytes]) -> Sources:
    """Everything that the report of `results` needs."""
    version = dataset()
    return Sources(
        models=models(results),
        pictures={name: thumbnail(Image.open(io.BytesIO(data))) for name, data in pictures.items()},
        curves={name: curve(i) for i, name in enumerate(results.models) if i},
        datasets={version.name: version},
    )
