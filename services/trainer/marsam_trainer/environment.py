"""What a launched program inherits from this one, a port for it to be scraped at, and whether there is room for it."""

import socket
from collections.abc import Mapping
from pathlib import Path

from marsam.core.cores import available_cores
from marsam.core.errors import Invalid
from marsam.store.settings import s3_variables


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Everything but the service's own settings, of which the run program knows only how the store is reached."""
    own = {name: value for name, value in environment.items() if not name.startswith("MARSAM_")}
    return own | s3_variables(environment)


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def check_room_here(processes: int, environment: Mapping[str, str], *, devices: Path = Path("/dev")) -> int:
    """How many of so many processes share this machine: all. Raises Invalid (PROCESSES_UNSUPPORTED) when a run of them
    gets no GPU for each of them, or on a machine without GPUs no core.
    """
    gpus = visible_gpus(environment, devices=devices)
    room, what = (gpus, "GPU") if gpus else (available_cores(), "core")
    if processes > room:
        raise Invalid(
            f"{processes} processes need a {what} each, and this machine has {room}",
            field="processes",
            reason="PROCESSES_UNSUPPORTED",
            remedy=f"at most {room} processes, or a trainer whose runs are Jobs of a cluster",
        )
    return processes


def visible_gpus(environment: Mapping[str, str], *, devices: Path = Path("/dev")) -> int:
    """How many NVIDIA GPUs a program of this machine sees, without asking a library for them."""
    present = sum(entry.name.removeprefix("nvidia").isdigit() for entry in devices.glob("nvidia*"))
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return present
    return min(present, sum(bool(name.strip()) for name in chosen.split(",")))
