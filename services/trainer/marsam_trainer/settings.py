"""The trainer's settings: `MARSAM_*` variables or a TOML file; every one has a default but the store."""

import sys
from dataclasses import dataclass
from pathlib import Path

from marsam.core.errors import Invalid
from marsam.rpc.server import ServerSettings


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

    max_concurrent_runs: int = 1
    """Runs at once on this machine; the rest wait in order."""

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

    stop_runs_on_exit: bool = True
    """Whether runs end with the trainer (and go on with the next one) or live on and are adopted."""

    run_metrics: bool = True
    """Whether each run serves its own /metrics on a free loopback port."""

    poll_s: float = 1.0
    """Seconds between two looks at a run."""

    plan_timeout_s: float = 120.0
    """Seconds a memory plan may take."""

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
        for name in ("max_concurrent_runs", "max_attempts", "max_import_bytes", "cache_bytes"):
            if getattr(self, name) < 1:
                raise Invalid(f"{name} must be ≥ 1, got {getattr(self, name)}", field=name)
        for name in ("run_start_s", "run_silence_s", "poll_s", "plan_timeout_s", "hub_timeout_s"):
            if not getattr(self, name) > 0:
                raise Invalid(f"{name} must be > 0, got {getattr(self, name)}", field=name)
        for name in ("retry_delay_s", "stop_grace_s"):
            if not getattr(self, name) >= 0:
                raise Invalid(f"{name} must be ≥ 0, got {getattr(self, name)}", field=name)
