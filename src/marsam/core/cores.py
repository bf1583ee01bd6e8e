"""How many cores this process may really use: what it was given, not what the host has."""

import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def available_cores() -> int:
    """Cores of the scheduler's mask, bounded by the control group's quota; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text().split()
    except (OSError, ValueError):
        return cores  # cgroup v1, or the root group: the mask is the limit
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def computing_cores() -> int:
    """Cores for arithmetic: what `OMP_NUM_THREADS` wishes, else those that are available."""
    wish = os.environ.get("OMP_NUM_THREADS", "")
    return int(wish) if wish.isdigit() and int(wish) > 0 else available_cores()
