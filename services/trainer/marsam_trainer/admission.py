"""From an order to a run that can be trained, or to everything that is wrong with it, said at once."""

import asyncio
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from marsam.catalog.aliases import resolve
from marsam.catalog.datasets import DatasetVersion
from marsam.catalog.models import Model
from marsam.catalog.runs import Optimiser, RunSpec, model_ids
from marsam.core.errors import Exists, Invalid, Missing, Precondition, did_you_mean
from marsam.core.memory import make_room
from marsam.core.names import parse
from marsam.diffusion import registry
from marsam.diffusion.spec import BaseFacts
from marsam.store.content import read_blob
from marsam_trainer import base_terms, defaults, pictures, resuming, spread, times, versions
from marsam_trainer.explain import Explained, explained
from marsam_trainer.ground import Room, anywhere
from marsam_trainer.orders import Fault, Order, as_error, average_warnings, faults_of, range_faults
from marsam_trainer.reservations import Reservations
from marsam_trainer.runs import Runs
from marsam_trainer.versions import digest_fault, within

_PRECISIONS = ("fp32", "bf16")
_OPTIMISERS: tuple[str, ...] = get_args(Optimiser)
_FACTS_KEPT = 64
OUTPUT = "output_model_id"


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """What became of an order: the complete spec when it has no faults, else the faults."""

    spec: RunSpec | None
    faults: list[Fault]
    model: Model | None = None
    warnings: tuple[Fault, ...] = ()
    settings: tuple[Explained, ...] = ()


class Admission:
    """Checks orders against the catalog, the declared facts of families and methods, and the launcher's profiles.

    Holds the facts of bases.
    """

    def __init__(
        self, runs: Runs, reservations: Reservations, *, profiles: Collection[str] = (), room: Room = anywhere
    ) -> None:
        self._reservations = reservations
        self._profiles = profiles
        self._room = room
        self._blobs = runs.blobs
        self._clock = runs.clock
        self._facts: dict[str, BaseFacts] = {}

    async def check(self, order: Order, *, project: str, run: str, by: str) -> Admitted:
        """Check everything about `order`, which `by` gives, for the run called `run`; a store that does not answer
        raises."""
        faults = range_faults(order)
        (model, facts, base_faults), (version, data_faults), (apart, apart_faults) = await asyncio.gather(
            self._base(order, project),
            versions.learnt(self._blobs, order, project),
            versions.regularisation(self._blobs, order, project),
        )
        data_faults = data_faults + apart_faults
        if version is not None and apart is not None and version.digest == apart.digest:
            data_faults.append(versions.same(apart))
        output = order.output_model_id or parse(run, "run").id
        publish, publish_faults = versions.publish(order, version)
        faults += base_faults + data_faults + publish_faults
        for model_id in model_ids(output, publish):
            faults += await self._output(model_id, project)
        params, method_faults = _method(order, family=model.family if model and facts else None)
        faults += method_faults
        if facts is not None and model is not None:
            faults += _resolution(order, facts)
            if facts.distilled and not order.allow_distilled:
                faults.append(base_terms.distilled(order))
        if order.precision is not None and order.precision not in _PRECISIONS:
            faults.append(_choice("precision", order.precision, _PRECISIONS))
        if order.optimiser and order.optimiser not in _OPTIMISERS:
            faults.append(_choice("optimiser", order.optimiser, _OPTIMISERS))
        faults += spread.faults(order)
        faults += pictures.faults(order, version)
        faults += times.faults(order, facts)
        if order.profile and order.profile not in self._profiles:
            faults.append(_unknown_profile(order.profile, self._profiles))
        else:
            faults += spread.room_faults(order, self._room)
        accepted, licence_faults = (
            base_terms.licence(order, model, by=by, at=self._clock.now) if model is not None else (None, [])
        )
        faults += licence_faults
        warnings = base_terms.warnings(model) if model is not None else ()
        if faults or model is None or facts is None or version is None:
            return Admitted(spec=None, faults=_in_order(faults), model=model, warnings=warnings)
        spec = _complete(order, run=run, output=output, model=model, facts=facts, version=version, params=params)
        spec = replace(spec, publish=publish)
        if apart is not None:
            spec = versions.regularised(spec, order, apart)
            if idle := versions.idle(spec):
                return Admitted(spec=None, faults=idle, model=model, warnings=warnings)
        warnings += (*average_warnings(spec), *pictures.warnings(spec, facts, version, apart))
        spec = replace(spec, accepted=accepted)
        told = explained(order, spec, defaults.defaults(order, facts, version))
        return Admitted(spec=spec, faults=[], model=model, warnings=warnings, settings=told)

    def changes(self, spec: RunSpec, changes: Mapping[str, Any]) -> dict[str, Any]:
        """`changes` to the order of a run that goes on, checked, as plain data. Raises `Invalid` with all that is wrong
        with them."""
        faults = [resuming.refused(name) for name in changes if name not in RunSpec.FREE]
        profile = changes.get("profile")
        if profile and profile not in self._profiles:
            faults.append(_unknown_profile(profile, self._profiles))
        if faults:
            raise as_error(faults)
        return resuming.checked(spec, changes)

    async def base_facts(self, model: Model) -> BaseFacts:
        """What the base `model` says of itself. Raises `Invalid` when its files are not its family's."""
        known = self._facts.get(model.digest)
        if known is None:
            wanted = set(registry.family_facts(model.family).config_files)
            files = [file for file in model.files if file.path in wanted]
            bodies = await asyncio.gather(*(read_blob(self._blobs, model.project, file.digest) for file in files))
            configs = {file.path: json.loads(body) for file, body in zip(files, bodies, strict=True)}
            known = registry.read_base(model.family, configs)
            make_room(self._facts, _FACTS_KEPT)
            self._facts[model.digest] = known
        return known.as_said(model.params)

    async def _base(self, order: Order, project: str) -> tuple[Model | None, BaseFacts | None, list[Fault]]:
        try:
            model = await resolve(self._blobs, within(order.base, project, field="base"))
        except (Missing, Invalid) as error:
            return None, None, faults_of(error, field="base")
        if model.kind not in ("base", "full"):
            fault = Fault(
                field="base",
                reason="BASE_KIND",
                message=f"{model.name} is of kind {model.kind}; a run starts from a base or a fully tuned model",
                remedy=f"use {model.base}" if model.base else "",
            )
            return model, None, [fault]
        faults = []
        if order.base_digest and order.base_digest != model.digest:
            faults.append(digest_fault("base_digest", model.name, order.base_digest, model.digest))
        try:
            return model, await self.base_facts(model), faults
        except Invalid as error:
            return model, None, faults + faults_of(error, field="base")

    async def _output(self, output: str, project: str) -> list[Fault]:
        """Faults of the id of the model to be: it must be free, and no other run may be about to publish it."""
        try:
            await self._reservations.check(project, output)
        except (Exists, Precondition, Invalid) as error:
            return faults_of(error, field=OUTPUT)
        return []


def _method(order: Order, *, family: str | None) -> tuple[Mapping[str, Any], list[Fault]]:
    """The method's parameters, complete. Where the base is unknown, what its family decides is left unchecked."""
    try:
        return registry.method_params(order.method, order.method_params, family=family), []
    except Invalid as error:
        return {}, faults_of(error, field=error.field or "method")


def _resolution(order: Order, facts: BaseFacts) -> list[Fault]:
    if order.resolution is None:
        return []
    family = registry.family_facts(facts.family)
    try:
        facts.check_size(order.resolution, order.resolution)
    except Invalid as error:
        return faults_of(error, field="resolution")
    if not family.min_side <= order.resolution <= family.max_side:
        fault = Fault(
            field="resolution",
            reason="RESOLUTION_UNSUPPORTED",
            message=f"{facts.family} is trained at {family.min_side} to {family.max_side} px, got {order.resolution}",
            remedy=f"this base was made for {facts.default_side}",
        )
        return [fault]
    return []


def _complete(
    order: Order,
    *,
    run: str,
    output: str,
    model: Model,
    facts: BaseFacts,
    version: DatasetVersion,
    params: Mapping[str, Any],
) -> RunSpec:
    """The spec with every default filled in."""
    chosen = defaults.taken(order, defaults.defaults(order, facts, version))
    return RunSpec(
        name=run,
        base=model.name,
        base_digest=model.digest,
        dataset_version=version.name,
        dataset_digest=version.digest,
        method=order.method,
        method_params=params,
        output_model_id=output,
        display_name=order.display_name,
        languages=order.languages,
        preview=order.preview,
        labels=order.labels,
        profile=order.profile,
        allow_distilled=order.allow_distilled,
        **chosen,
    )


def _unknown_profile(given: str, known: Collection[str]) -> Fault:
    remedy = did_you_mean(given, sorted(known)) or "leave it empty: this trainer runs everything on its own machine"
    return Fault(field="profile", reason="UNKNOWN_PROFILE", message=f"unknown profile '{given}'", remedy=remedy)


def _choice(field: str, given: str, known: tuple[str, ...]) -> Fault:
    return Fault(
        field=field,
        reason=f"UNKNOWN_{field.upper()}",
        message=f"unknown {field} '{given}'",
        remedy=did_you_mean(given, known),
    )


_ORDER = tuple(Order.__dataclass_fields__)


def _in_order(faults: list[Fault]) -> list[Fault]:
    """Faults in the order of the spec's fields, so that the same order always gives the same answer."""
    return sorted(faults, key=lambda fault: _ORDER.index(fault.field.split(".")[0].split("[")[0]))
