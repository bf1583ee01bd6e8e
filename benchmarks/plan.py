"""What runs were expected to need beside what they took: peak memory and seconds per step, by method.

    python -m benchmarks.plan [BASE] [--steps 6] [--out benchmarks/results]

Each run is the run program as a process of its own, over a store made for it: it plans itself before it loads anything,
and says in its model's metrics what it took. Its peak is that of the process, libraries included.
"""

import argparse
import asyncio
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measures import machine
from marsam.catalog.datasets import Caption, DatasetVersion, Item
from marsam.catalog.files import FileRef
from marsam.catalog.models import Model
from marsam.catalog.repository import load_model, save_model, save_version
from marsam.catalog.runs import RunSpec
from marsam.core.clock import SystemClock
from marsam.core.ids import digest_of, new_ulid
from marsam.core.records import dump
from marsam.diffusion import registry
from marsam.jobs.states import State
from marsam.jobs.store import JobStore
from marsam.store.blobs import Blobs
from marsam.store.content import put_blob
from marsam.store.open import open_store

BASE = Path(__file__).resolve().parent.parent / "examples" / "hayy" / "base"
PROJECT, PICTURES = "bench", 64
WITHIN = 0.25
"""How far from what was measured an expected peak may be."""

CASES: Mapping[str, Mapping[str, Any]] = {
    "lora": {"method": "lora", "method_params": {"rank": 16, "targets": "all"}},
    "qlora": {"method": "qlora", "method_params": {"rank": 16, "targets": "all"}},
    "full": {"method": "full"},
    "lora, bf16": {"method": "lora", "method_params": {"rank": 16, "targets": "all"}, "precision": "bf16"},
    "lora, recomputing": {
        "method": "lora",
        "method_params": {"rank": 16, "targets": "all"},
        "gradient_checkpointing": True,
    },
    "full, 8-bit moments": {"method": "full", "optimiser": "adamw_8bit"},
    "full, batch 64": {"method": "full", "batch_size": 64},
}


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


def measure(folder: Path, *, steps: int) -> dict[str, Mapping[str, float]]:
    """The metrics of every case."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="bench-plan-") as place:
        url = f"{place}/store"
        blobs = open_store(url)
        base, version = asyncio.run(fill(blobs, folder))
        for number, (name, case) in enumerate(CASES.items()):
            spec = asyncio.run(order(blobs, base, version, case, steps=steps))
            # A cache of its own: what another run has encoded would not be encoded again.
            train(url, spec, Path(place) / f"cache-{number}")
            found[name] = asyncio.run(load_model(blobs, f"projects/{PROJECT}/models/{spec.output_model_id}")).metrics
            print(f"{name}: {_error(found[name]):+.0%}", flush=True)
    return found


def _error(metrics: Mapping[str, float]) -> float:
    return metrics["estimated_peak_bytes"] / metrics["measured_peak_bytes"] - 1.0


def report(found: Mapping[str, Mapping[str, float]], *, steps: int) -> str:
    """The table."""
    here = machine()
    lines = [
        "# Plans beside what runs took",
        "",
        f"`python -m benchmarks.plan`, {datetime.now(UTC):%Y-%m-%d}: Hayy's base, {PICTURES} pictures, batch 16 unless "
        f"said, {steps} steps, on {here['cores']} cores of an {here['processor']}, load {here['load_average']:.0f}.",
        "",
        "Memory is the process's peak, torch and its friends included; what kernels and the allocator keep beside the "
        "tensors is a constant that was fitted to such runs (`WORKSPACES`), so this is no prediction. Seconds depend "
        "on what else the machine does.",
        "",
        "| run | peak, MiB: expected | measured | error | step, s: expected | measured |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, metrics in found.items():
        expected, measured = (metrics[f"{kind}_peak_bytes"] / 2**20 for kind in ("estimated", "measured"))
        lines.append(
            f"| {name} | {expected:.0f} | {measured:.0f} | {_error(metrics):+.0%} | "
            f"{metrics['estimated_step_seconds']:.2f} | {metrics['step_seconds']:.2f} |"
        )
    worst = max(abs(_error(metrics)) for metrics in found.values())
    lines += ["", f"Largest error of a peak: {worst:.0%}; the bar is {WITHIN:.0%}."]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write `plan.md`; 1 when a peak was missed by more than `WITHIN`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", nargs="?", type=Path, default=BASE)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(argv)
    found = measure(options.base, steps=options.steps)
    text = report(found, steps=options.steps)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "plan.md").write_text(text)
    print(text)
    return int(any(abs(_error(metrics)) > WITHIN for metrics in found.values()))


if __name__ == "__main__":
    sys.exit(main())
