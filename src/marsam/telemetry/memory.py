"""Memory by device. This module knows `/proc`; whoever owns a GPU hands in a `MemorySource` of its own."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True)
class MemoryReading:
    """One device at one moment, in bytes. `device` is `cpu` or `cuda:N`.

    `used` and `peak` are this process's; `total` is all there is of it, and `free` what nobody has taken.
    """

    device: str
    used: int
    peak: int
    total: int
    free: int


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
    status, machine = _kib_fields(_STATUS), _kib_fields(_MEMINFO)
    total, free = machine["MemTotal"], machine["MemAvailable"]
    limit, taken = _cgroup("memory.max"), _cgroup("memory.current")
    if limit is not None and taken is not None:
        total, free = min(total, limit), min(free, max(0, limit - taken + _reclaimable()))
    yield MemoryReading(device="cpu", used=status["VmRSS"], peak=status["VmHWM"], total=total, free=free)


def _cgroup(name: str) -> int | None:
    """A number of this process's control group; None where the machine is the limit (cgroup v1, the root group)."""
    try:
        text = (_CGROUP / name).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _reclaimable() -> int:
    """Bytes of files that the group has in memory and would give up at once."""
    lines = (_CGROUP / "memory.stat").read_text().splitlines()
    return int(dict(line.split() for line in lines)["inactive_file"])
