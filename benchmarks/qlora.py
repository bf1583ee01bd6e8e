"""What 4 bits cost and save: a QLoRA's step against a LoRA's, and the bytes of the weights at rest.

    python -m benchmarks.qlora [--rounds 7] [--steps 4] [--out benchmarks/results]

The same loop, base, data, noise and adapter; only how the base is held differs. In fp32 and in bf16, on one core, in
turn, by processor time. The bytes at rest are counted on the loaded layers and must be the formula's to the byte:
4 bits a number, an absmax of 8 bits for 64 of them, of those an absmax of 32 bits for 256, and the code books.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from marsam_trainer.run.shapes import nf4_bytes

from benchmarks.measures import machine
from benchmarks.training.__main__ import timed
from benchmarks.training.bases import HAYY, make_data, make_transformer
from benchmarks.training.bench import BATCH, Ours
from marsam.diffusion import registry
from marsam.diffusion.precision import Precision, Quantisation
from marsam.diffusion.spec import kept
from marsam.diffusion.weights.net import DTYPES, quieten

TARGETS = {Precision.FP32: 1.15, Precision.BF16: 1.25}


def formula(base: Path, family: str, precision: Precision) -> int:
    """Bytes of the denoiser at rest in NF4 with double quantisation, from its shapes alone."""
    net = registry.family(family)
    denoiser: Any = net.empty_denoiser(base)
    width = DTYPES[precision].itemsize
    quantised = [
        layer.weight.numel()
        for name, layer in denoiser.named_modules()
        if type(layer) is torch.nn.Linear and not kept(name, net.facts.keep)
    ]
    every = sum(value.numel() for value in (*denoiser.parameters(), *denoiser.buffers()))
    return (every - sum(quantised)) * width + sum(nf4_bytes(size, Quantisation()) for size in quantised)


def measure(*, rounds: int, steps: int) -> dict[str, Any]:
    """All figures."""
    quieten()
    before = machine() | {"torch": torch.__version__}
    rows = []
    with tempfile.TemporaryDirectory(prefix="marsam-bench-") as folder:
        data = make_data(Path(folder))
        bases = {"UNet": (HAYY, "sd1"), "transformer": (make_transformer(Path(folder) / "transformer"), "flux")}
        for name, (base, family) in bases.items():
            for precision in TARGETS:
                loops = {
                    method: Ours(base, family, method, data, cores=1, precision=precision)
                    for method in ("lora", "qlora")
                }
                seen: dict[str, list[float]] = {method: [] for method in loops}
                for number in range(rounds):
                    for method in list(loops)[:: 1 if number % 2 else -1]:
                        seen[method].append(timed(loops[method].step, steps)[1])
                ratios = [held / plain for held, plain in zip(seen["qlora"], seen["lora"], strict=True)]
                rows.append(
                    {
                        "base": name,
                        "precision": precision,
                        "ratio": (statistics.median(ratios), min(ratios), max(ratios)),
                        "images": {method: BATCH / statistics.median(found) for method, found in seen.items()},
                        "at_rest": {method: loop.weights_at_rest for method, loop in loops.items()},
                        "formula": formula(base, family, precision),
                    }
                )
    return {"machine": before, "rounds": rounds, "steps": steps, "rows": rows}


def met(row: dict[str, Any]) -> bool:
    """Whether a row keeps its bound, and its bytes are the formula's."""
    return bool(row["ratio"][0] <= TARGETS[row["precision"]] and row["at_rest"]["qlora"] == row["formula"])


def markdown(figures: dict[str, Any]) -> str:
    """The figures as a page."""
    host = figures["machine"]
    lines = [
        "# QLoRA against LoRA",
        "",
        f"{host['processor']}, {host['cores']} cores, load average {host['load_average']:.1f} when it began;"
        f" torch {host['torch']}. `python -m benchmarks.qlora`",
        f"Batch {BATCH}; {figures['rounds']} rounds of {figures['steps']} steps of each in turn, on one core, by"
        " processor time: median (lowest to highest round).",
        "",
        "| base | precision | LoRA img/s | QLoRA img/s | QLoRA's step over LoRA's | at most | weights at rest, LoRA |"
        " QLoRA | by the formula |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in figures["rows"]:
        middle, low, high = row["ratio"]
        cells = [
            row["base"],
            str(row["precision"]),
            *(f"{row['images'][method]:.1f}" for method in ("lora", "qlora")),
            f"{middle:.2f} ({low:.2f} to {high:.2f})",
            f"{TARGETS[row['precision']]:g}",
            *(f"{row['at_rest'][method]:,}" for method in ("lora", "qlora")),
            "equal to the byte" if row["at_rest"]["qlora"] == row["formula"] else f"{row['formula']:,}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and write `qlora.md`; the exit status is 1 when a bound was broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.qlora")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "results")
    options = parser.parse_args(argv)
    figures = measure(rounds=options.rounds, steps=options.steps)
    page = markdown(figures)
    print(page)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "qlora.md").write_text(page)
    return 0 if all(met(row) for row in figures["rows"]) else 1


if __name__ == "__main__":
    sys.exit(main())
