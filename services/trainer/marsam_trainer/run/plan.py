"""What a run would take, before it is paid for: memory by stage and term, time, what to change when it is too much,
and every fault at once."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from marsam.catalog.datasets import DatasetVersion
from marsam.catalog.models import Model
from marsam.catalog.runs import Precision, RunSpec
from marsam.core.cores import computing_cores
from marsam.core.errors import Invalid, MarsamError
from marsam.diffusion import registry, schedule
from marsam.diffusion.lanes.net import MOST
from marsam.diffusion.spec import BaseFacts
from marsam.store.blobs import Blobs
from marsam.store.cache import Cache
from marsam_trainer import times
from marsam_trainer.run import validation
from marsam_trainer.run.bridge import Bridge
from marsam_trainer.run.footprint import footprint
from marsam_trainer.run.remedies import ADMIT, Remedy, remedies
from marsam_trainer.run.reporter import device_memory
from marsam_trainer.run.samples import Sample, held_out_of, regularisation_of, samples_of
from marsam_trainer.run.stages import Amount, Footprint
from marsam_trainer.run.work import load_order

WORKSPACES = 112 << 20
"""What kernels and the allocator keep on a CPU beside the tensors there are: fitted to the seven runs of
benchmarks/results/plan.md, which took 90 to 130 MiB more."""

CONTEXT = 1200 << 20
"""Bytes of a GPU's context and workspaces, which torch does not count (estimated, not measured)."""

EFFICIENCY = 0.5
"""Share of a large matrix product's speed that a step reaches (measured on Hayy's base on a CPU: 75 of 150 GFLOP/s)."""


def plan(
    bridge: Bridge, blobs: Blobs, spec: RunSpec, *, cache: Path, device: str = "", together: int = 1
) -> dict[str, Any]:
    """The plan of a run as plain data: `stages`, the largest of them in `memory` and `total_bytes`, `seconds`, `fits`,
    `remedies` where it does not, and `faults`, empty when it can start. `together` processes of the run share a
    machine: what they need of its memory is of them all, what they need of their GPUs of one."""
    device = device or default_device()
    faults: list[dict[str, str]] = []
    base, version, apart = load_order(bridge, blobs, spec)
    for check in (
        lambda: shown(spec, version, apart),
        lambda: registry.method_params(spec.method, spec.method_params, family=base.family),
    ):
        try:
            check()
        except Invalid as error:
            faults += _faults(error)
    with tempfile.TemporaryDirectory(prefix="plan-") as folder:
        source = _configs(bridge, blobs, base, cache, Path(folder))
        facts = registry.read_base_folder(base.family, source).as_said(base.params)
        for ask in (
            lambda: facts.check_size(spec.resolution, spec.resolution),
            lambda: schedule.of(facts, spec.resolution, spec.resolution, times.of(spec)),
        ):
            try:
                ask()
            except Invalid as error:
                faults += _faults(error)
        if faults:
            return {"faults": faults}
        drafts = Drafts(
            source, facts, (version, apart), device=device, lanes=_lanes(device, together), together=together
        )
        available = device_memory(device).total
        found = drafts.of(spec)
        family = registry.family_facts(base.family)
        ways = remedies(spec, drafts, found.peak.total, family, facts, available=available)
    return {**told(found, spec, device=device, available=available), "remedies": [_remedy(way) for way in ways]}


def default_device() -> str:
    """The first GPU there is, or the CPU."""
    return "cuda:0" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Drafts:
    """Makes the footprint of one order after the other over one base."""

    source: Path
    facts: BaseFacts
    versions: tuple[DatasetVersion, DatasetVersion | None]
    device: str
    lanes: int
    together: int = 1

    def of(self, spec: RunSpec) -> Footprint:
        """What `spec` takes of a machine, or of each of its GPUs. Raises Invalid, Unsupported."""
        return self.on_one_host(spec, self.each(spec))

    def on_one_host(self, spec: RunSpec, each: Footprint) -> Footprint:
        """As `of`, where one process takes `each`."""
        # Of a model that each process holds whole the first alone writes checkpoints.
        once = ("checkpoint on its way",) if spec.sharding == "replicated" else ()
        return each.on_one_host(self._beside(spec), once=once)

    def _beside(self, spec: RunSpec) -> int:
        """How many processes share a machine, of an order with fewer of them too."""
        return min(self.together, spec.processes)

    def each(self, spec: RunSpec) -> Footprint:
        """What one process of `spec` takes. Raises Invalid, Unsupported."""
        apart = held_out_of(self.versions[0], spec.languages)[: validation.MOST]
        samples = [*shown(spec, *self.versions), *apart]
        captions = {caption for sample in samples for caption in sample.captions}
        beside = self._beside(spec)
        lanes = self.lanes if beside == self.together else _lanes(self.device, beside)
        found = footprint(
            registry.family(self.facts.family),
            registry.method(spec.method),
            registry.method_params(spec.method, spec.method_params, family=self.facts.family),
            self.source,
            self.facts,
            spec,
            Amount(pictures=len(samples), captions=len(captions) + 1, lanes=lanes, held_out=len(apart)),
            device=self.device,
        )
        if self.device != "cpu":
            found = found.beside_gpus("libraries", device_memory("cpu").used)
        return found.beside("libraries", _libraries(self.device))


def shown(spec: RunSpec, version: DatasetVersion, apart: DatasetVersion | None) -> list[Sample]:
    """Everything that a run learns from. Raises Invalid."""
    others = regularisation_of(apart, spec.languages) if apart is not None else []
    return [*samples_of(version, spec.languages), *others]


def told(found: Footprint, spec: RunSpec, *, device: str, available: int) -> dict[str, Any]:
    """A footprint as plain data, with the time that it takes on this machine, now."""
    speed = EFFICIENCY * _machine_flops(device, spec.precision)
    stages = [
        {
            "name": stage.name,
            "memory": [{"term": term, "bytes": size} for term, size in stage.terms.items() if size],
            "total_bytes": stage.total,
            "host_bytes": stage.host,
            "seconds": stage.flops / speed,
        }
        for stage in found.stages
    ]
    peak, fullest = found.peak, found.fullest
    host: dict[str, Any] = {
        "stage": fullest.name,
        "memory": [{"term": term, "bytes": size} for term, size in fullest.aside.items() if size],
        "total_bytes": fullest.host,
        "available_bytes": device_memory("cpu").total,
    }
    fits = peak.total <= ADMIT * available and fullest.host <= ADMIT * host["available_bytes"]
    return {
        **({"host": host} if device != "cpu" else {}),
        "stages": stages,
        "peak_stage": peak.name,
        "memory": [{"term": term, "bytes": size} for term, size in peak.terms.items() if size],
        "total_bytes": peak.total,
        "available_bytes": available,
        "trainable_parameters": found.trainable,
        "quantised_share": found.share,
        "seconds": sum(stage.flops for stage in found.stages) / speed,
        "fits": fits,
        "device": device,
        "faults": [],
    }


def expected(
    spec: RunSpec,
    source: Path,
    facts: BaseFacts,
    versions: tuple[DatasetVersion, DatasetVersion | None],
    *,
    device: str,
    lanes: int,
    together: int,
) -> dict[str, Any]:
    """As `plan`, made by the run itself before it loads anything, to be compared with what it takes in the end:
    `each_bytes` are what this process alone needs."""
    drafts = Drafts(source, facts, versions, device=device, lanes=lanes, together=together)
    each = drafts.each(spec)
    found = told(drafts.on_one_host(spec, each), spec, device=device, available=device_memory(device).total)
    return {**found, "each_bytes": each.peak.total}


def _libraries(device: str) -> int:
    """Bytes that are taken before any weight is there: on a CPU what this process holds now that it has imported all
    that a run needs."""
    return device_memory(device).used + WORKSPACES if device == "cpu" else CONTEXT


def _lanes(device: str, together: int) -> int:
    return max(1, min(computing_cores() // together, MOST)) if device == "cpu" else 1


def _machine_flops(device: str, precision: Precision) -> float:
    """Operations per second of large products here and now: a tenth of a second of measuring.

    On a CPU one core is measured, as busy as it is, and counted as often as there are cores: lanes do not share work.
    """
    side = 1024
    cores = computing_cores() if device == "cpu" else 1
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    left = torch.randn(side, side, device=device)
    if precision == "bf16":
        left = left.bfloat16()
    float((left @ left)[0, 0])
    began, rounds = time.monotonic(), 0
    while time.monotonic() - began < 0.1:
        float((left @ left)[0, 0])
        rounds += 1
    spent = time.monotonic() - began
    torch.set_num_threads(threads)
    return cores * rounds * 2 * side**3 / spent


def _configs(bridge: Bridge, blobs: Blobs, base: Model, cache: Path, into: Path) -> Path:
    """Only the base's JSON files, laid out: a plan does not fetch weights."""
    wanted = set(registry.family_facts(base.family).config_files) | {"model_index.json"}
    wanted |= {file.path for file in base.files if file.path.endswith("/config.json")}
    files = [file for file in base.files if file.path in wanted]
    return bridge.call(Cache(cache).lay_out(blobs, base.project, files, into))


def _remedy(way: Remedy) -> Mapping[str, Any]:
    return {"changes": dict(way.changes), "total_bytes": way.total, "fits": way.fits, "message": way.message}


def _faults(error: MarsamError) -> list[dict[str, str]]:
    violations = error.violations if isinstance(error, Invalid) else ()
    return [
        {"field": fault.field, "reason": fault.reason, "message": fault.message, "remedy": error.remedy}
        for fault in violations
    ] or [{"field": error.field or "", "reason": error.reason, "message": error.message, "remedy": error.remedy}]
