"""What every part of an attempt needs, and how it learns that it should stop."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from marsam.catalog.datasets import DatasetVersion
from marsam.catalog.models import Model
from marsam.catalog.repository import load_model, load_version
from marsam.catalog.runs import RunSpec
from marsam.core.errors import Invalid
from marsam.jobs.store import JobStore
from marsam.store.blobs import Blobs
from marsam.telemetry.meter import Meter
from marsam_trainer.run import checkpoint
from marsam_trainer.run.bridge import Bridge
from marsam_trainer.run.ranks import ALONE, World
from marsam_trainer.run.reporter import Reporter, Silent


class Stopped(Exception):
    """The run was asked to stop, and is at a point where it can."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every part of an attempt needs."""

    bridge: Bridge
    jobs: JobStore
    spec: RunSpec
    base: Model
    version: DatasetVersion
    regularisation: DatasetVersion | None
    attempt: int
    cache: Path
    cache_bytes: int | None
    device: str
    cores: int
    lanes: int | None
    meter: Meter
    reporter: Reporter | Silent
    stopping: Callable[[], bool]
    undrawn: str = ""
    """Why this attempt draws no pictures: the cause of one before it that ended in a preview."""
    memory_limit: float = 1.05
    """Share of its device's memory that a run may be expected to need; above it the run does not start."""
    memory_correction: float = 1.0
    """What past runs of its kind took of what was expected of them."""
    world: World = ALONE

    @property
    def device_kind(self) -> str:
        """`cpu` or `cuda`."""
        return self.device.partition(":")[0]

    @property
    def place(self) -> checkpoint.Place:
        """Where checkpoints are."""
        return checkpoint.Place(blobs=self.jobs.blobs, project=self.spec.project, run=self.spec.id)

    def stop_if_asked(self) -> None:
        """Raise `Stopped` when the run was asked to stop, or what makes it pointless to go on."""
        if self.stopping():
            raise Stopped
        self.reporter.check()

    def caching(self, done: int, of: int) -> None:
        """Report that `done` of `of` are prepared, and stop if asked."""
        self.stop_if_asked()
        self.reporter.phase("caching", done, of)


def load_order(bridge: Bridge, blobs: Blobs, run_spec: RunSpec) -> tuple[Model, DatasetVersion, DatasetVersion | None]:
    """The base, the dataset version and the regularisation version of a run. Raises `Invalid` (DIGEST_MISMATCH) when
    one is not what was ordered."""
    base = bridge.call(load_model(blobs, run_spec.base))
    version = bridge.call(load_version(blobs, run_spec.dataset_version))
    apart = bridge.call(load_version(blobs, run_spec.regularisation)) if run_spec.regularisation else None
    for field, wanted, found in (
        ("base_digest", run_spec.base_digest, base.digest),
        ("dataset_digest", run_spec.dataset_digest, version.digest),
        ("regularisation_digest", run_spec.regularisation_digest, apart.digest if apart is not None else ""),
    ):
        if wanted != found:
            raise Invalid(f"{field} is {found}, {wanted} was ordered", field=field, reason="DIGEST_MISMATCH")
    return base, version, apart
