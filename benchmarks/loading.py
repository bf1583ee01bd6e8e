"""Peak memory of loading a transformer in 4 bits: quantised while it streams in, against loaded and then quantised.

    python -m benchmarks.loading [--gib 1.0] [--out benchmarks/results]

The transformer is of FLUX.1's shape with random weights, in bf16, written to disk first. Each way runs in a process of
its own; what counts is the growth of its resident memory (the kernel's own high-water mark) over what it was when all
libraries were imported. The peer is diffusers' `from_pretrained`, its Linear layers exchanged for bitsandbytes'
`Linear4bit` one by one, each weight let go as soon as it is quantised. Both must end with the same bytes in the same
layers; figures of two that do not are none.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel

from benchmarks.measures import machine
from benchmarks.quantised import quantise
from marsam.diffusion.families.flux.facts import FACTS
from marsam.diffusion.nf4 import net as nf4
from marsam.diffusion.precision import Precision, Quantisation
from marsam.diffusion.weights import net as weights

TARGET = 0.5
WIDTH, HEADS = 1536, 12
ROUNDS = 3


def write(folder: Path, gib: float) -> int:
    """A transformer of at least so many GiB in bf16; returns its parameters. Blocks are added until it is large
    enough."""
    blocks = 1
    while True:
        shape = {
            "in_channels": 64,
            "num_layers": blocks,
            "num_single_layers": 2 * blocks,
            "attention_head_dim": WIDTH // HEADS,
            "num_attention_heads": HEADS,
            "joint_attention_dim": 1024,
            "pooled_projection_dim": 768,
            "guidance_embeds": True,
            "axes_dims_rope": (16, 56, 56),
        }
        with torch.device("meta"):
            count = sum(value.numel() for value in FluxTransformer2DModel(**shape).parameters())
        if 2 * count >= gib * (1 << 30):
            break
        blocks += 1
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    FluxTransformer2DModel(**shape).save_pretrained(folder)
    return count


def ours(folder: Path) -> Any:
    """Every weight read, quantised and let go before the next."""
    with torch.device("meta"):
        module = FluxTransformer2DModel.from_config(json.loads((folder / "config.json").read_text()))
    nf4.replace(module, keep=FACTS.keep, quantisation=Quantisation(), precision=Precision.BF16)
    weights.stream(
        module,
        weights.weight_files(folder),
        precision=Precision.BF16,
        device="cpu",
        place=nf4.placer(device="cpu"),
    )
    return module


def theirs(folder: Path) -> Any:
    """Loaded whole, then quantised layer by layer."""
    module = FluxTransformer2DModel.from_pretrained(folder, torch_dtype=torch.bfloat16)
    return quantise(module, keep=FACTS.keep, compute=torch.bfloat16)


WAYS: dict[str, Callable[[Path], Any]] = {"ours": ours, "theirs": theirs}


def status(what: str) -> int:
    """A line of /proc/self/status in bytes."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{what}:")[1].split()[0]) << 10


def digest(module: Any) -> str:
    """Of every tensor by its name, how numbers in 4 bits are to be read included."""
    found = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def alone(way: str, folder: Path) -> dict[str, Any]:
    """What one way takes, in this process."""
    weights.quieten()
    # The kernel counts the peak anew from here on.
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    module = WAYS[way](folder)
    taken = {"peak": status("VmHWM") - before, "after": status("VmRSS") - before}
    return {**taken, "at_rest": weights.bytes_at_rest(module), "digest": digest(module)}


def in_process(way: str, folder: Path) -> dict[str, Any]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.loading", "--alone", way, str(folder)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]))


def measure(gib: float) -> dict[str, Any]:
    """All figures; the lowest peak of a few rounds each. Raises AssertionError when the ways do not end in equal
    bytes."""
    with tempfile.TemporaryDirectory(prefix="marsam-bench-") as folder:
        count = write(Path(folder), gib)
        rounds = [{way: in_process(way, Path(folder)) for way in WAYS} for _ in range(ROUNDS)]
    ends = {found["digest"] for each in rounds for found in each.values()}
    assert len(ends) == 1, f"the ways end in different bytes: {ends}"
    best = {way: min((found[way] for found in rounds), key=lambda one: one["peak"]) for way in WAYS}
    return {"machine": machine() | {"torch": torch.__version__}, "parameters": count, **best}


def markdown(figures: dict[str, Any]) -> str:
    """The figures as a page."""
    host, own, peer = figures["machine"], figures["ours"], figures["theirs"]

    def mib(size: int) -> str:
        return f"{size / (1 << 20):,.0f}"

    return "\n".join(
        [
            "# Loading a transformer in 4 bits",
            "",
            f"{host['processor']}, {host['cores']} cores; torch {host['torch']}. `python -m benchmarks.loading`",
            f"A transformer of FLUX.1's shape, {figures['parameters'] / 1e6:,.0f} M parameters,"
            f" {mib(2 * figures['parameters'])} MiB on disk in bf16; NF4, double quantisation."
            f" Resident memory over that after imports, in MiB, the lowest of {ROUNDS} processes each.",
            "",
            "| | peak | when loaded | weights at rest |",
            "|---|---|---|---|",
            f"| quantised while streaming (ours) | {mib(own['peak'])} | {mib(own['after'])} | {mib(own['at_rest'])} |",
            f"| loaded, then quantised | {mib(peer['peak'])} | {mib(peer['after'])} | {mib(peer['at_rest'])} |",
            "",
            f"Both end in the same bytes (sha256 {own['digest'][:12]}…)."
            f" Ours peaks at {own['peak'] / peer['peak']:.2f} of the peer's. Target: ≤ {TARGET:g}.",
            "",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and write `loading.md`; the exit status is 1 when the target was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loading")
    parser.add_argument("--gib", type=float, default=1.0, help="least size of the weights in bf16")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "results")
    parser.add_argument("--alone", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.alone:
        print(json.dumps(alone(options.alone[0], Path(options.alone[1]))))
        return 0
    figures = measure(options.gib)
    page = markdown(figures)
    print(page)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "loading.md").write_text(page)
    return 0 if figures["ours"]["peak"] <= TARGET * figures["theirs"]["peak"] else 1


if __name__ == "__main__":
    sys.exit(main())
