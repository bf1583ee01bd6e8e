"""What runs were expected to need beside what they took: peak memory and seconds per step, by method.

    python -m benchmarks.plan [BASE] [--steps 6] [--out benchmarks/results]

Each run is the run program as a process of its own, over a store made for it: it plans itself before it loads anything,
and says in its model's metrics what it took. Its peak is that of the process, libraries included.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.measures import machine
from benchmarks.runs import BASE, PICTURES, PROJECT, fill, order, train
from marsam.catalog.repository import load_model
from marsam.store.open import open_store

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
        "Memory is the process's peak, torch and its friends included; what kernels and the allocator keep beside the"
        " tensors is a constant that was fitted to such runs (`WORKSPACES`), so this is no prediction. Seconds depend"
        " on what else the machine does.",
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
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "results")
    options = parser.parse_args(argv)
    found = measure(options.base, steps=options.steps)
    text = report(found, steps=options.steps)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "plan.md").write_text(text)
    print(text)
    return int(any(abs(_error(metrics)) > WITHIN for metrics in found.values()))


if __name__ == "__main__":
    sys.exit(main())
