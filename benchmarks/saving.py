"""How long steps stand still for a checkpoint, beside a step.

    python -m benchmarks.saving [--steps 24] [--out benchmarks/results]

The run program trains Hayy's base as a process of its own over a store in a folder, saves every fourth step, and says
in its model's metrics how long a step took and how long steps stood still at most.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measures import machine
from benchmarks.runs import BASE, PROJECT, fill, order, train
from marsam.catalog.repository import load_model
from marsam.store.open import open_store

EVERY = 4
CASES: Mapping[str, Mapping[str, Any]] = {
    "lora": {"method": "lora", "method_params": {"rank": 16, "targets": "all"}},
    "full": {"method": "full"},
    "full with a moving average": {"method": "full", "ema_decay": 0.99},
}


def measure(steps: int) -> dict[str, Mapping[str, float]]:
    """The metrics of every case."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="bench-saving-") as place:
        url = f"{place}/store"
        blobs = open_store(url)
        base, version = asyncio.run(fill(blobs, BASE))
        for name, case in CASES.items():
            spec = asyncio.run(order(blobs, base, version, {**case, "checkpoint_every": EVERY}, steps=steps))
            train(url, spec, Path(place) / "cache")
            found[name] = asyncio.run(load_model(blobs, f"projects/{PROJECT}/models/{spec.output_model_id}")).metrics
    return found


def markdown(found: Mapping[str, Mapping[str, float]], steps: int) -> str:
    """The figures as a page."""
    host = machine()
    lines = [
        "# Saving beside the steps",
        "",
        f"{host['processor']}, {host['cores']} cores, load average {host['load_average']:.1f} at the end."
        f" `python -m benchmarks.saving`: Hayy's base, batch 16, {steps} steps, a checkpoint every {EVERY}.",
        "",
        "| run | checkpoint, MB | a step, s | steps stood still, s at most | of a step |",
        "|---|---|---|---|---|",
    ]
    for name, metrics in found.items():
        step, pause = metrics["step_seconds"], metrics["checkpoint_pause_seconds"]
        size = metrics["checkpoint_bytes"] / 1e6
        lines.append(f"| {name} | {size:.1f} | {step:.3f} | {pause:.3f} | {pause / step:.2f} |")
    lines += ["", "Target: at most one step.", ""]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and write `saving.md`; the exit status is 1 when a pause was longer than a step."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.saving")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "results")
    options = parser.parse_args(argv)
    found = measure(options.steps)
    page = markdown(found, options.steps)
    print(page)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "saving.md").write_text(page)
    return int(any(one["checkpoint_pause_seconds"] > one["step_seconds"] for one in found.values()))


if __name__ == "__main__":
    sys.exit(main())
