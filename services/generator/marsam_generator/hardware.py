"""The device that draws: chosen, named and measured."""

import platform
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from marsam.core.cores import computing_cores
from marsam.core.errors import Precondition
from marsam.diffusion.precision import Precision, Quantisation
from marsam.telemetry import process_memory


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Where and how pictures are drawn. `lanes` is 1 on a GPU; `quantisation` is how denoisers are held, and
    `image_precision` how image coders are."""

    device: str
    precision: Precision
    lanes: int
    quantisation: Quantisation | None = None
    image_precision: Precision = Precision.FP32

    @cached_property
    def fingerprint(self) -> str:
        """Build, device, type and lanes: equal fingerprints draw pictures that are equal within the stated
        tolerance. Of a processor it names the instructions that torch's kernels use, on which bits depend.
        """
        if self.device.startswith("cuda"):
            kind = torch.cuda.get_device_name(self.device)
        else:
            kind = f"cpu {torch.backends.cpu.get_cpu_capability()}"
        held = f" on {self.quantisation.label()}" if self.quantisation else ""
        coder = "" if self.image_precision == Precision.FP32 else f", image coder {self.image_precision}"
        libraries = "; ".join(f"{name} {version(name)}" for name in ("diffusers", "transformers"))
        return (
            f"marsam {version('marsam')}; torch {torch.__version__}; {libraries}; "
            f"{kind}; {self.precision}{held}{coder}; lanes {self.lanes}"
        )

    @property
    def total_memory(self) -> int:
        """Bytes of the device's memory (for the processor: of the machine, or what the cgroup allows)."""
        if self.device.startswith("cuda"):
            return int(torch.cuda.get_device_properties(self.device).total_memory)
        return next(iter(process_memory())).total


def choose(
    device: str, precision: str, threads: int, quantisation: str = "", image_precision: str = Precision.FP32
) -> Hardware:
    """The hardware that the settings ask for. Raises `Precondition` for a GPU that is not there.

    On a processor every lane computes with one thread, so the whole process is told so.
    """
    held: dict[str, Any] = {
        "precision": Precision(precision),
        "quantisation": Quantisation.of(quantisation) if quantisation else None,
        "image_precision": Precision(image_precision),
    }
    if device == "auto":
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda"):
        index = int(device.partition(":")[2] or 0)
        if not torch.cuda.is_available() or index >= torch.cuda.device_count():
            raise Precondition(
                f"there is no GPU '{device}' here",
                reason="DEVICE_MISSING",
                field="device",
                remedy="set MARSAM_DEVICE=cpu",
            )
        return Hardware(device=f"cuda:{index}", lanes=1, **held)
    torch.set_num_threads(1)
    return Hardware(device="cpu", lanes=threads or computing_cores(), **held)


def processor() -> str:
    """What the machine calls its processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
