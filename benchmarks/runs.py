"""A store with Hayy's base and drawings in it, and runs of the run program over it."""

import io
import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from marsam.catalog.datasets import Caption, DatasetVersion, Item
from marsam.catalog.files import FileRef
from marsam.catalog.models import Model
from marsam.catalog.repository import save_model, save_version
from marsam.catalog.runs import RunSpec
from marsam.core.clock import SystemClock
from marsam.core.ids import digest_of, new_ulid
from marsam.core.records import dump
from marsam.diffusion import registry
from marsam.jobs.states import State
from marsam.jobs.store import JobStore
from marsam.store.blobs import Blobs
from marsam.store.content import put_blob

BASE = Path(__file__).resolve().parent.parent / "examples" / "hayy" / "base"
PROJECT, PICTURES = "bench", 64


async def fill(blobs: Blobs, folder: Path) -> tuple[Model, DatasetVersion]:
    """The base, and a dataset of drawings of 256 px."""
    now, files = datetime.now(UTC), []
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):  # noqa: ASYNC240 - nobody waits
        stored = await put_blob(blobs, PROJECT, path)
        files.append(FileRef(path=path.relative_to(folder).as_posix(), digest=stored.digest, size=stored.size))
    base = Model(name=f"projects/{PROJECT}/models/base", kind="base", create_time=now, files=tuple(files), family="sd1")
    await save_model(blobs, base)
    items = [await _item(blobs, row) for row in range(PICTURES)]
    version = DatasetVersion(name=f"projects/{PROJECT}/datasets/set/versions/v1", create_time=now, items=tuple(items))
    await save_version(blobs, version)
    return base, version


async def _item(blobs: Blobs, row: int) -> Item:
    chance, out = np.random.default_rng(row), io.BytesIO()
    picture = Image.fromarray(chance.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize((256, 256), 0)
    picture.save(out, format="PNG")
    stored = await put_blob(blobs, PROJECT, out.getvalue())
    return Item(
        id=new_ulid(),
        file_name=f"{row}.png",
        image=FileRef(path=f"{row}.png", digest=stored.digest, size=stored.size, media_type="image/png"),
        original_digest=stored.digest,
        pixel_digest=digest_of(out.getvalue()),
        width=256,
        height=256,
        phash=row,
        dhash=row,
        captions=(Caption(language="en", text=f"a doctor with a clipboard in hospital {row}"),),
    )


async def order(blobs: Blobs, base: Model, version: DatasetVersion, case: Mapping[str, Any], *, steps: int) -> RunSpec:
    """A run in its first attempt."""
    given = {"batch_size": 16, "learning_rate": 1e-4, "seed": 1, "resolution": _side(base), "steps": steps, **case}
    params = registry.method_params(given["method"], given.pop("method_params", {}), family=base.family)
    jobs = JobStore(blobs, PROJECT, "runs", SystemClock())

    def spec_of(job_id: str) -> RunSpec:
        return RunSpec(
            name=f"projects/{PROJECT}/runs/{job_id}",
            base=base.name,
            base_digest=base.digest,
            dataset_version=version.name,
            dataset_digest=version.digest,
            output_model_id=f"tuned-{job_id}",
            method_params=params,
            **given,
        )

    job_id, _ = await jobs.create(
        request=new_ulid().encode(), request_id="", spec_for=lambda job_id: dump(spec_of(job_id))
    )
    await jobs.append(job_id, await jobs.head(job_id), State.STARTING)
    return spec_of(job_id)


def _side(base: Model) -> int:
    return registry.read_base_folder(base.family, BASE).default_side


def train(url: str, spec: RunSpec, cache: Path) -> None:
    """One attempt. Raises CalledProcessError when it fails."""
    command = [
        sys.executable, "-m", "marsam_trainer.run", "train", "--store", url, "--run", spec.name, "--attempt", "1",
        "--cache", str(cache), "--device", "cpu", "--log-level", "WARNING",
    ]  # fmt: skip
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
