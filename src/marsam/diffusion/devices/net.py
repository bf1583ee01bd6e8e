"""What GPUs hold, for the metrics of whoever computes on them."""

from collections.abc import Iterable

import torch

from marsam.telemetry.memory import MemoryReading


def gpu_memory() -> Iterable[MemoryReading]:
    """Memory of every GPU that this process has touched."""
    for index in range(torch.cuda.device_count()):
        if torch.cuda.max_memory_reserved(index):
            yield gpu_reading(index)


def gpu_reading(index: int) -> MemoryReading:
    """Memory of GPU `index`: what torch has reserved of it, and what is free of all that it has.

    What is neither is the CUDA context, and other processes' share.
    """
    free, total = torch.cuda.mem_get_info(index)
    return MemoryReading(
        device=f"cuda:{index}",
        used=torch.cuda.memory_reserved(index),
        peak=torch.cuda.max_memory_reserved(index),
        total=total,
        free=free,
    )
