"""Memory by device. This module knows `/proc`; whoever owns a GPU hands in a `MemorySource` of its own."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")
_MEMINFO = Path("/proc/meminfo")
_CGROUP_MAX = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, kw_only=True)
class MemoryReading:
    """One device at one moment, in bytes. `device` is `cpu` or `cuda:N`."""

    device: str
    used: int
    peak: int
    total: int


MemorySource = Callable[[], Iterable[MemoryReading]]


def _kib_fields(path: Path) -> dict[str, int]:
    """Reads `Name:   123 kB` lines into bytes."""
    fields: dict[str, int] = {}
    for line in path.read_text().splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB":
            fields[name] = int(words[0]) * 1024
    return fields


def process_memory() -> Iterable[MemoryReading]:
    """Resident set of this process, its high-water mark, and what the machine or the cgroup allows."""
    status = _kib_fields(_STATUS)
    total = _kib_fields(_MEMINFO)["MemTotal"]
    try:
        limit = _CGROUP_MAX.read_text().strip()
    except OSError:
        limit = "max"  # cgroup v1, or the root group: the machine is the limit
    if limit != "max":
        total = min(total, int(limit))
    yield MemoryReading(device="cpu", used=status["VmRSS"], peak=status["VmHWM"], total=total)
