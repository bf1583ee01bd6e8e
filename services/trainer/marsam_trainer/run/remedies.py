"""What to change in an order that needs too much memory: changes in their order, each planned with those before it.

Recomputing, fewer processes on a machine whose memory they share, and a model in parts, cost time alone; 4 bits cost
a little of the base's exactness, 8-bit moments and half precision next to nothing; a smaller batch that is
accumulated costs time again. An adapter in the place of all weights and a lower resolution change what is learnt:
they come last.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from marsam.catalog.runs import RunSpec
from marsam.core.errors import MarsamError
from marsam.diffusion import registry
from marsam.diffusion.method import Kind
from marsam.diffusion.spec import BaseFacts, FamilyFacts
from marsam_trainer.run.stages import Footprint

ADMIT = 0.9
"""Share of the memory there is that an estimate may claim without a word."""

WORTH = 0.98
"""A change that leaves more than this share of what was needed is not worth making."""

_Changes = Iterator[tuple[Mapping[str, Any], str]]


class Drafts(Protocol):
    """Whoever makes footprints of orders."""

    def of(self, spec: RunSpec) -> Footprint: ...


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """Fields to change beside those of the remedies before it, the bytes that the order then needs, and whether that
    fits."""

    changes: Mapping[str, Any]
    total: int
    fits: bool
    message: str


def remedies(
    spec: RunSpec, drafts: Drafts, needs: int, family: FamilyFacts, facts: BaseFacts, *, available: int
) -> tuple[Remedy, ...]:
    """Changes that bring `spec`, which `needs` so many bytes, below what is `available`; none when it fits as it is."""
    limit, found = ADMIT * available, []
    for ladder in (
        _recompute,
        _fewer_processes,
        _parts,
        _four_bits,
        _eight_bit_moments,
        _half_precision,
        _smaller_batch,
        _adapter,
        _lower,
    ):
        if needs <= limit:
            break
        chosen: Remedy | None = None
        # The first rung that fits, or the last that is worth it.
        for changes, message in ladder(spec, family, facts):
            try:
                total = drafts.of(replace(spec, **changes)).peak.total
            except MarsamError:
                continue
            if total < WORTH * needs:
                chosen = Remedy(changes=changes, total=total, fits=total <= limit, message=message)
            if total <= limit:
                break
        if chosen is not None:
            found.append(chosen)
            spec, needs = replace(spec, **chosen.changes), chosen.total
    return tuple(found)


def _recompute(spec: RunSpec, family: FamilyFacts, facts: BaseFacts) -> _Changes:
    if not spec.gradient_checkpointing:
        yield (
            {"gradient_checkpointing": True},
            "compute activations again, not keep them: about a third slower",
        )


def _fewer_processes(spec: RunSpec, family: FamilyFacts, facts: BaseFacts) -> _Changes:
    """Where each has a GPU of its own it needs more with fewer, so that this is not worth it there."""
    count = spec.processes
    while count > 1:
        count //= 2
        changes = {"processes": count, **({"sharding": "replicated"} if count == 1 else {})}
        yield changes, f"{count} process{'es' if count > 1 else ''} in the memory of one machine"


def _parts(spec: RunSpec, family: FamilyFacts, facts: BaseFacts) -> _Changes:
    if spec.processes > 1 and spec.sharding == "replicated":
        yield {"sharding": "sharded"}, f"hold a part of the model in each of {spec.processes} processes: more traffic"


def _four_bits(spec: RunSpec, family: FamilyFacts, facts: BaseFacts) -> _Changes:
    now = registry.method(spec.method)
    if now.quantisation(registry.method_params(spec.method, spec.method_params, family=family.name)) is None:
        for name in _in_four_bits(now.facts.kind):
            yield {"method": name}, "hold the frozen base in 4 bits"


def _eight_bit_moments(spec: RunSpec, family: FamilyFacts, facts: BaseFacts) -> _Changes:
    if spec.optimiser in ("adamw", "adamw_unfused"):
        yield {"optimiser": "adamw_8bit"}, "hold the optimiser's moments in 8 bits"


def _half_precision(spec: RunSpec, family: FamilyFacts, facts: BaseFacts) -> _Changes:
    if spec.precision == "fp32":
        yield {"precision": "bf16"}, "hold frozen weights and activations in half precision; what trains stays fp32"


def _smaller_batch(spec: RunSpec, family: FamilyFacts, facts: BaseFacts) -> _Changes:
    """The same pictures a step, fewer at once."""
    batch = spec.batch_size
    while batch > 1:
        batch = batch // 2 if batch % 2 == 0 else 1
        if batch >= spec.processes:
            accumulate = spec.step_size // batch
            changes = {"batch_size": batch, "accumulate": accumulate}
            yield changes, f"{batch} at once, {accumulate} times a step: the same gradient, more time"


def _adapter(spec: RunSpec, family: FamilyFacts, facts: BaseFacts) -> _Changes:
    if registry.method(spec.method).facts.kind is not Kind.ADAPTER:
        for name in _in_four_bits(Kind.ADAPTER):
            params = registry.method_params(name, {}, family=family.name)
            yield {"method": name, "method_params": params}, "train an adapter beside the base instead of all of it"


def _lower(spec: RunSpec, family: FamilyFacts, facts: BaseFacts) -> _Changes:
    for share in (0.75, 0.5):
        side = int(spec.resolution * share) // facts.side_multiple * facts.side_multiple
        if side >= family.min_side:
            yield {"resolution": side}, "fewer pixels: finer things are not learnt"


def _in_four_bits(kind: Kind) -> list[str]:
    """The methods of a kind that hold the base in 4 bits."""
    found = []
    for name in registry.methods():
        method = registry.method(name)
        usual = {setting.name: setting.default for setting in method.facts.settings}
        if method.facts.kind is kind and method.quantisation(usual) is not None:
            found.append(name)
    return found
