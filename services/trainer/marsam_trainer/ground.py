"""Where runs run: processes of this machine, or Jobs of a cluster; and what their program must be told there."""

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from marsam.core.errors import Invalid
from marsam.launch.launcher import Launcher
from marsam.launch.process import ProcessLauncher
from marsam_trainer.environment import check_room_here, child_environment, free_port
from marsam_trainer.settings import TrainerSettings

Room = Callable[[int, str], int]
_SLOTS_HERE = 1
_SLOTS_CLUSTER = 64


def anywhere(processes: int, profile: str) -> int:
    """Room for however many, on one machine."""
    return processes


@dataclass(frozen=True, kw_only=True)
class Ground:
    """A launcher and its surroundings.

    `owner` is who drives the runs: the same after a restart, so that they are found again. `stops` says whether runs
    end with the trainer. `command` and `cache` hold where a run is; `metrics` gives it host and port to be scraped at
    (port 0: none); `beat_path` is the file that it touches. `profiles` are names and descriptions, `default` is one.
    `elsewhere` says that runs get other machines than this one. `room` says how many of so many processes of
    a run share a machine with a profile, and raises Invalid (PROCESSES_UNSUPPORTED) when they have no place.
    """

    launcher: Launcher
    owner: str
    slots: int
    stops: bool
    command: tuple[str, ...]
    cache: str
    metrics: Callable[[], tuple[str, int]]
    beat_path: Path | None = None
    profiles: Mapping[str, str] = field(default_factory=dict)
    default: str = ""
    elsewhere: bool = False
    room: Room = anywhere


@asynccontextmanager
async def opened(settings: TrainerSettings, *, owner: str, folder: Path) -> AsyncIterator[Ground]:
    """The ground that the settings ask for; processes are remembered in `folder`, and driven by `owner`."""
    if settings.launcher == "kubernetes":
        async with _cluster(settings) as ground:
            yield ground
        return
    yield Ground(
        launcher=ProcessLauncher(folder, base_env=child_environment(os.environ)),
        owner=owner,
        slots=settings.max_concurrent_runs or _SLOTS_HERE,
        stops=settings.stop_runs_on_exit is not False,
        command=settings.run_command,
        cache=str(settings.cache),
        metrics=lambda: (settings.run_metrics_host, free_port() if settings.run_metrics else 0),
        room=lambda processes, profile: check_room_here(processes, os.environ),
    )


@asynccontextmanager
async def _cluster(settings: TrainerSettings) -> AsyncIterator[Ground]:
    try:  # not at the top: the client is heavy, and only a trainer of a cluster has it
        from marsam.launch.kubernetes.cluster import connect
        from marsam.launch.kubernetes.launcher import KubernetesLauncher
    except ImportError as error:
        raise Invalid(f"the launcher 'kubernetes' lacks a library: {error}", field="launcher", reason="CLIENT_MISSING",
                      remedy="pip install 'marsam[kubernetes]'") from error  # fmt: skip
    file = settings.cluster_file()
    async with KubernetesLauncher(connect(file.namespace), file) as launcher:
        yield Ground(
            launcher=launcher,
            owner=f"kubernetes:{file.namespace}/{file.instance}",
            slots=settings.max_concurrent_runs or _SLOTS_CLUSTER,
            stops=bool(settings.stop_runs_on_exit),
            command=file.command or ("python3", "-m", "marsam_trainer.run"),
            cache=file.cache,
            metrics=lambda: ("0.0.0.0", file.metricsPort if settings.run_metrics else 0),
            beat_path=Path("/tmp/marsam-beat"),
            profiles={name: profile.description for name, profile in file.profiles.items()},
            default=file.default_name,
            elsewhere=True,
            room=lambda processes, profile: file.spread(processes, profile)[1],
        )
