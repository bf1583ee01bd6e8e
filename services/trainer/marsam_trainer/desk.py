"""Where orders become runs: checked, created once per request id, cancelled, resumed."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from marsam.catalog.runs import RunSpec, model_ids
from marsam.core.errors import Exists, MarsamError, Precondition
from marsam.core.ids import new_ulid
from marsam.core.names import format_name
from marsam.core.records import dump
from marsam.jobs.cancel import ask_to_cancel
from marsam.jobs.states import State
from marsam.telemetry import Log
from marsam_trainer.admission import OUTPUT, Admission, Admitted
from marsam_trainer.explain import Explained
from marsam_trainer.orders import Fault, Order, as_error, content_of, faults_of
from marsam_trainer.past_runs import PastRuns
from marsam_trainer.plans import Plan, Planner
from marsam_trainer.probes import Probe, Prober
from marsam_trainer.reservations import Reservations
from marsam_trainer.runs import Runs

_LOG = Log(__name__)


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What is known of an order before it is placed. `plan` is None when there are faults, or nobody could tell;
    `probe` when there are others, or nobody could tell."""

    faults: list[Fault]
    spec: RunSpec | None
    plan: Plan | None
    probe: Probe | None = None
    warnings: tuple[Fault, ...] = ()
    settings: tuple[Explained, ...] = ()


class Desk:
    """Places orders. `wake` tells whoever starts runs that there is news."""

    def __init__(
        self,
        runs: Runs,
        admission: Admission,
        planner: Planner,
        prober: Prober,
        reservations: Reservations,
        past: PastRuns,
        *,
        wake: Callable[[], None],
    ) -> None:
        self._runs = runs
        self._reservations = reservations
        self._admission = admission
        self._planner = planner
        self._prober = prober
        self._wake = wake
        self._past = past

    async def examine(self, order: Order, *, project: str, by: str) -> Examined:
        """Every fault of an order at once, those of its memory included, and what it would cost. Records nothing."""
        admitted = await self._admission.check(order, project=project, run=self._new_name(project), by=by)
        if admitted.spec is None:
            return Examined(faults=admitted.faults, spec=None, plan=None, warnings=admitted.warnings)
        unknown: list[Fault] = []
        probe, plan = await asyncio.gather(
            self._probe(admitted.spec, unknown=unknown), self._plan(admitted, unknown=unknown)
        )
        shown = None if plan is None or plan.faults else plan
        warnings = (
            *admitted.warnings,
            *(probe.warnings if probe is not None else ()),
            *(plan.tightness() if plan is not None else ()),
            *unknown,
        )
        return Examined(
            faults=_faults(probe, plan),
            spec=admitted.spec,
            plan=shown,
            probe=probe,
            warnings=warnings,
            settings=admitted.settings,
        )

    async def create(self, order: Order, *, project: str, request_id: str, by: str) -> str:
        """Record a run and return its id. The same `request_id` again returns the same run, whatever has become of it.

        The id of the model to be is the run's from here on. Raises Invalid with every fault, Exists
        (REQUEST_ID_REUSED).
        """
        store = self._runs.store(project)
        request = content_of(order)
        # Asked first: its model's id is taken by now.
        known = await store.known(request=request, request_id=request_id)
        if known is not None:
            return known
        admitted = await self._admission.check(order, project=project, run=self._new_name(project), by=by)
        if admitted.spec is None:
            raise as_error(admitted.faults)
        spec = admitted.spec
        probe, plan = await asyncio.gather(self._probe(spec, hurry=True), self._plan(admitted, hurry=True))
        if faults := _faults(probe, plan):
            raise as_error(faults)

        def spec_for(run_id: str) -> bytes:
            name = format_name("run", project, run_id)
            return dump(replace(spec, name=name, output_model_id=order.output_model_id or run_id))

        async def reserve(run_id: str) -> None:
            try:
                for model_id in model_ids(order.output_model_id or run_id, spec.publish):
                    await self._reservations.take(project, model_id, holder=format_name("run", project, run_id))
            except (Exists, Precondition) as error:  # somebody came first since the order was checked
                raise as_error(faults_of(error, field=OUTPUT)) from error

        run_id, new = await store.create(request=request, request_id=request_id, spec_for=spec_for, reserve=reserve)
        if new:
            _LOG.info("run.created", run=run_id, project=project, training_method=spec.method, steps=spec.steps)
        self._wake()
        return run_id

    async def cancel(self, project: str, run_id: str, *, by: str) -> None:
        """Ask a run to stop; asking twice is asking once. Raises Missing, Precondition (RUN_OVER)."""
        try:
            await ask_to_cancel(self._runs.store(project), run_id, message=f"by {by}")
        except Precondition as error:
            raise Precondition(
                error.message, reason="RUN_OVER", resource=format_name("run", project, run_id)
            ) from error
        self._wake()

    async def resume(self, project: str, run_id: str, changes: Mapping[str, Any], *, by: str) -> None:
        """Let a failed or cancelled run go on from its newest checkpoint, with a fresh allowance of attempts, and with
        `changes` to its order by field.

        Raises Invalid with every change that may not be (CHANGE_REFUSED) or is out of range, Missing, Precondition
        (RUN_NOT_RESUMABLE) when it has succeeded or has not ended, Exists (MODEL_ID_RESERVED, MODEL_EXISTS) when the
        id of its model is another's since it ended.
        """
        store = self._runs.store(project)
        head = await store.head(run_id)
        if head.state not in (State.FAILED, State.CANCELLED):
            raise Precondition(
                f"only a failed or cancelled run can be resumed; this one is {head.state}",
                reason="RUN_NOT_RESUMABLE",
                resource=format_name("run", project, run_id),
            )
        spec = await self._runs.current(project, run_id)
        detail = {"changes": self._admission.changes(spec, changes)} if changes else {}
        for model_id in spec.model_ids:
            await self._reservations.take(project, model_id, holder=spec.name, attempt=head.attempt)
        await store.append(run_id, head, State.PENDING, reason="RESUMED", message=f"by {by}", detail=detail)
        self._wake()

    async def _plan(
        self, admitted: Admitted, *, hurry: bool = False, unknown: list[Fault] | None = None
    ) -> Plan | None:
        """What the run would need; None when nobody could tell, which is added to `unknown`: it asks itself before it
        trains."""
        assert admitted.spec is not None
        assert admitted.model is not None
        spec, family = admitted.spec, admitted.model.family
        try:
            plan = await self._planner.plan(spec, hurry=hurry)
            if plan is None:
                return None
            past = await self._past.correction(spec.project, spec, family=family, device=plan.device)
            return plan if plan.faults else plan.corrected(past)
        except MarsamError as error:
            _LOG.warning("plan.failed", reason=error.reason, message=error.message)
            if unknown is not None:
                unknown.append(_untold("what the run needs", error))
            return None

    async def _probe(self, spec: RunSpec, *, hurry: bool = False, unknown: list[Fault] | None = None) -> Probe | None:
        """How the captions are read; None when nobody could tell, which is added to `unknown`: the run asks again
        before it trains."""
        try:
            return await self._prober.probe(spec, hurry=hurry)
        except MarsamError as error:
            _LOG.warning("probe.failed", reason=error.reason, message=error.message)
            if unknown is not None:
                unknown.append(_untold("how the base reads the captions", error))
        return None

    def _new_name(self, project: str) -> str:
        return format_name("run", project, new_ulid(self._runs.clock))


def _untold(what: str, error: MarsamError) -> Fault:
    """That a question found no answer, which forbids nothing."""
    return Fault(
        field="base",
        reason=error.reason,
        message=f"{what} is not known: {error.message}",
        remedy="the run asks again before it trains",
    )


def _faults(probe: Probe | None, plan: Plan | None) -> list[Fault]:
    """What the run program said of an order, each thing once."""
    read = probe.faults if probe is not None else ()
    needed = (*plan.faults, *plan.shortage()) if plan is not None else ()
    return list(dict.fromkeys([*read, *needed]))
