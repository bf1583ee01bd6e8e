"""What a run would need, asked of the run program itself: the trainer knows neither torch nor any network's shapes."""

import asyncio
import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from marsam.catalog.runs import RunSpec
from marsam.core.errors import Deadline, Unavailable
from marsam.core.records import canonical, dump, to_plain
from marsam_trainer.environment import child_environment
from marsam_trainer.ground import Ground
from marsam_trainer.orders import Fault
from marsam_trainer.plan_jobs import plan_elsewhere
from marsam_trainer.settings import TrainerSettings

_KEPT = 256
_AT_ONCE = 4
"""Plans that are made side by side where the machines are not this one."""
_MIB = 1 << 20

# What a plan depends on; everything else of a spec may differ without another one being made.
_MATTERS = ("base_digest", "dataset_digest", "method", "method_params", "batch_size", "resolution", "precision",
            "languages", "ema_decay", "profile", "optimiser", "accumulate", "gradient_checkpointing")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Memory in bytes by term; estimated wall time in `seconds`, 0 when unknown.

    `faults` are those that only the run program can see; a plan with faults has no numbers.
    """

    memory: Mapping[str, int]
    total_bytes: int
    available_bytes: int
    trainable_parameters: int
    quantised_share: float
    seconds: float
    fits: bool
    faults: tuple[Fault, ...] = ()

    def shortage(self) -> list[Fault]:
        """The fault of a run that does not fit, naming what takes most; empty when it fits."""
        if self.fits:
            return []
        largest = max(self.memory, key=lambda term: self.memory[term])
        return [
            Fault(
                field="batch_size",
                reason="MEMORY_SHORT",
                message=f"the run needs about {self.total_bytes // _MIB} MiB and its machine has "
                f"{self.available_bytes // _MIB}; {largest} take {self.memory[largest] // _MIB}",
                remedy="lower batch_size or resolution, or use method qlora",
            )
        ]


class Planner:
    """Asks the run program, one question at a time, and remembers the answers by what they depend on.

    A question that was begun is answered even when its caller has gone: the next one finds the answer.
    """

    def __init__(self, settings: TrainerSettings, ground: Ground) -> None:
        self._settings = settings
        self._ground = ground
        self._turn = asyncio.Semaphore(_AT_ONCE if ground.elsewhere else 1)
        self._known: dict[bytes, tuple[int, Plan]] = {}
        self._asking: dict[bytes, asyncio.Task[Plan]] = {}

    async def close(self) -> None:
        """Break off what is being asked."""
        tasks = set(self._asking.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def known(self, spec: RunSpec) -> Plan | None:
        """The plan of such a run, if one was made before."""
        found = self._known.get(_key(spec))
        if found is None:
            return None
        steps, plan = found
        return replace(plan, seconds=plan.seconds * spec.steps / steps)

    async def plan(self, spec: RunSpec) -> Plan:
        """The plan of `spec`. Raises Unavailable (PLAN_FAILED), Deadline (PLAN_SLOW)."""
        key = _key(spec)
        if (known := self.known(spec)) is not None:
            return known
        if key not in self._asking:
            task = self._asking[key] = asyncio.create_task(self._learn(key, spec), name="plan")
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        plan = await asyncio.shield(self._asking[key])
        return self.known(spec) or plan

    async def _learn(self, key: bytes, spec: RunSpec) -> Plan:
        async with self._turn:
            try:
                plan = await self._ask(spec)
            except OSError as error:
                why = error.strerror or str(error)
                raise Unavailable(f"the run program cannot be asked: {why}", reason="PLAN_FAILED") from error
        while len(self._known) >= _KEPT:
            del self._known[next(iter(self._known))]
        self._known[key] = (spec.steps, plan)
        return plan

    async def _ask(self, spec: RunSpec) -> Plan:
        if self._ground.elsewhere:
            return _plan(await plan_elsewhere(self._ground, self._settings, spec))
        with tempfile.TemporaryDirectory(prefix="marsam-plan-") as folder:
            file = Path(folder) / "spec.json"
            await asyncio.to_thread(file.write_bytes, dump(spec))
            process = await asyncio.create_subprocess_exec(
                *self._settings.run_command,
                "plan", "--store", self._settings.store, "--cache", str(self._settings.cache), "--spec", str(file),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=child_environment(os.environ),
            )  # fmt: skip
            try:
                async with asyncio.timeout(self._settings.plan_timeout_s):
                    out, err = await process.communicate()
            except TimeoutError as error:
                raise Deadline(
                    f"no plan within {self._settings.plan_timeout_s:g} s", reason="PLAN_SLOW", field="spec"
                ) from error
            finally:
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()
        try:
            return _plan(json.loads(out))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            tail = err.decode(errors="replace").strip().splitlines()[-1:]
            raise Unavailable(
                f"the run program made no plan (exit {process.returncode}): {''.join(tail)[:300]}", reason="PLAN_FAILED"
            ) from error


def _key(spec: RunSpec) -> bytes:
    plain = to_plain(spec)
    return canonical({name: plain[name] for name in _MATTERS})


def _plan(told: Mapping[str, Any]) -> Plan:
    faults = tuple(
        Fault(
            field=str(fault.get("field") or "method").removeprefix("spec."),
            reason=str(fault.get("reason", "PLAN_REFUSED")),
            message=str(fault["message"]),
            remedy=str(fault.get("remedy") or ""),
        )
        for fault in told["faults"]
    )
    if faults:
        return Plan(
            memory={}, total_bytes=0, available_bytes=0, trainable_parameters=0, quantised_share=0.0, seconds=0.0,
            fits=True, faults=faults,
        )  # fmt: skip
    return Plan(
        memory={str(entry["term"]): int(entry["bytes"]) for entry in told["memory"]},
        total_bytes=int(told["total_bytes"]),
        available_bytes=int(told["available_bytes"]),
        trainable_parameters=int(told["trainable_parameters"]),
        quantised_share=float(told["quantised_share"]),
        seconds=float(told["seconds"]),
        fits=bool(told["fits"]),
    )
