"""The trainer's settings: `MARSAM_*` variables or a TOML file; every one has a default but the store."""

import sys
from dataclasses import dataclass
from pathlib import Path

from marsam.core.errors import Invalid, unknown_name
from marsam.launch.kubernetes.profiles import ClusterFile, read_cluster_file
from marsam.rpc.server import ServerSettings

_LAUNCHERS = ("process", "kubernetes")


@dataclass(frozen=True, kw_only=True)
class TrainerSettings(ServerSettings):
    """Where the trainer keeps things, what it launches, and how patient it is."""

    store: str
    """The object store: an absolute folder or file:///…"""

    cache: Path = Path("~/.cache/marsam")
    """Local copies of blobs, logs of runs, uploads on their way."""

    cache_bytes: int = 100 * 10**9
    """Most bytes of blobs that are kept in the cache; those that were not used for longest go. What is in use stays."""

    run_command: tuple[str, ...] = ()
    """The run program and its first arguments; this Python's `-m marsam_trainer.run` when empty."""

    launcher: str = "process"
    """What runs are: processes of this machine (`process`) or Jobs of a cluster (`kubernetes`)."""

    kubernetes_file: Path | None = None
    """With the launcher `kubernetes`: the YAML file with namespace, image and profiles; see docs/kubernetes.md."""

    max_concurrent_runs: int | None = None
    """Runs at once, the rest wait in order: 1 on this machine; on a cluster 64, where they may wait for a node too."""

    max_attempts: int = 3
    """Failed attempts after which a run is given up; orderly stops are not counted."""

    retry_delay_s: float = 5.0
    """Pause after the first attempt, doubled after each one that follows, at most a minute."""

    run_start_s: float = 600.0
    """Seconds a launched program may take until its first sign of life."""

    run_silence_s: float = 90.0
    """Seconds without a sign of life after which an attempt counts as hung or gone."""

    stop_grace_s: float = 60.0
    """Seconds that a run gets to write its last checkpoint when it is cancelled or the trainer stops."""

    stop_runs_on_exit: bool | None = None
    """Whether runs end with the trainer (and go on with the next one) or live on and are adopted.

    When empty: processes end with it, Jobs live on.
    """

    run_metrics: bool = True
    """Whether each run serves its own /metrics on a free port, listed at /sd/runs."""

    run_metrics_host: str = "127.0.0.1"
    """The address that runs serve /metrics at: 0.0.0.0 where Prometheus is on another machine or in another container.
    """

    poll_s: float = 1.0
    """Seconds between two looks at a run."""

    plan_timeout_s: float = 120.0
    """Seconds a memory plan, and a look at how captions are read, may take."""

    convert_timeout_s: float = 2 * 3600.0
    """Seconds that turning a checkpoint in one file into a base may take, and as many that it may wait for others."""

    max_concurrent_conversions: int = 1
    """Checkpoints in one file that are turned into bases at once; the rest waits."""

    memory_limit: float = 1.05
    """Share of its machine's memory that a run may be expected to need; above it the run is refused. Higher to insist.
    """

    max_import_bytes: int = 200 * 10**9
    """Largest model that is taken in."""

    hub_offline: bool = False
    """Never ask a model hub; use its local cache only."""

    hub_cache: Path | None = None
    """The hub's local cache; that of HF_HOME when empty."""

    hub_timeout_s: float = 6 * 3600.0
    """Seconds a fetch from a hub may take."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "cache", self.cache.expanduser().absolute())
        if not self.run_command:
            object.__setattr__(self, "run_command", (sys.executable, "-m", "marsam_trainer.run"))
        if self.launcher not in _LAUNCHERS:
            raise unknown_name("launcher", self.launcher, _LAUNCHERS, field="launcher")
        if self.launcher == "kubernetes":
            self.cluster_file()
        at_least_one = ("max_concurrent_runs", "max_attempts", "max_concurrent_conversions", "max_import_bytes")
        for name in (*at_least_one, "cache_bytes"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise Invalid(f"{name} must be ≥ 1, got {getattr(self, name)}", field=name)
        above_zero = ("run_start_s", "run_silence_s", "poll_s", "plan_timeout_s", "convert_timeout_s", "hub_timeout_s")
        for name in (*above_zero, "memory_limit"):
            if not getattr(self, name) > 0:
                raise Invalid(f"{name} must be > 0, got {getattr(self, name)}", field=name)
        for name in ("retry_delay_s", "stop_grace_s"):
            if not getattr(self, name) >= 0:
                raise Invalid(f"{name} must be ≥ 0, got {getattr(self, name)}", field=name)

    def cluster_file(self) -> ClusterFile:
        """What `kubernetes_file` says. Raises Invalid when there is none or it is wrong."""
        if self.kubernetes_file is None:
            raise Invalid("the launcher 'kubernetes' needs to know the cluster", field="kubernetes_file",
                          reason="SETTING_MISSING", remedy="set MARSAM_KUBERNETES_FILE")  # fmt: skip
        return read_cluster_file(self.kubernetes_file)
