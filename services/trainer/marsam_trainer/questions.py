"""Questions to the run program: one process or Job each, and the answers remembered by what they depend on."""

import asyncio
import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from marsam.catalog.runs import RunSpec
from marsam.core.errors import Deadline, Unavailable
from marsam.core.memory import make_room
from marsam.core.records import canonical, dump, to_plain
from marsam_trainer.environment import child_environment
from marsam_trainer.ground import Ground
from marsam_trainer.orders import Fault
from marsam_trainer.plan_jobs import Asked, ask_elsewhere
from marsam_trainer.settings import TrainerSettings

T = TypeVar("T")

_KEPT = 256
_AT_ONCE = 4
"""Questions that are answered side by side where the machines are not this one."""

_ABOUT_THE_ORDER = frozenset({64, 65})
"""Exit codes of the run program (`run.codes`) that say that the order or its data is at fault, not the moment."""


class Questions(Generic[T]):
    """One kind of question (`plan`, `probe`), of which the answer depends on what of the spec is named in `matters`
    only.

    A question that was begun is answered even when its caller has gone: the next one finds the answer.
    """

    def __init__(
        self,
        command: str,
        matters: Sequence[str],
        read: Callable[[Mapping[str, Any], RunSpec], T],
        *,
        settings: TrainerSettings,
        ground: Ground,
        more: Callable[[RunSpec], Sequence[str]] = lambda spec: (),
    ) -> None:
        """`more` are arguments that the run program is given beside the spec."""
        self._command = command
        self._more = more
        self._matters = matters
        self._read = read
        self._settings = settings
        self._ground = ground
        self._turn = asyncio.Semaphore(_AT_ONCE if ground.elsewhere else 1)
        self._known: dict[bytes, T] = {}
        self._asking: dict[bytes, asyncio.Task[T]] = {}

    async def close(self) -> None:
        """Break off what is being asked."""
        tasks = set(self._asking.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def known(self, spec: RunSpec) -> T | None:
        """The answer, if it was given before."""
        return self._known.get(self._key(spec))

    async def ask(self, spec: RunSpec) -> T:
        """The answer for `spec`. Raises Unavailable (…_FAILED), Deadline (…_SLOW)."""
        key = self._key(spec)
        if (known := self._known.get(key)) is not None:
            return known
        if key not in self._asking:
            task = self._asking[key] = asyncio.create_task(self._learn(key, spec), name=self._command)
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(self._asking[key])

    def _key(self, spec: RunSpec) -> bytes:
        return canonical({name: to_plain(getattr(spec, name)) for name in self._matters})

    async def _learn(self, key: bytes, spec: RunSpec) -> T:
        async with self._turn:
            try:
                limit_s = self._settings.plan_timeout_s
                if self._ground.elsewhere:
                    told = await ask_elsewhere(
                        self._ground,
                        self._settings,
                        spec,
                        command=self._command,
                        limit_s=limit_s,
                        more=self._more(spec),
                    )
                    error = f"it said {str(told)[:300]}"
                else:
                    told, error = await ask_here(
                        self._settings, spec, command=self._command, limit_s=limit_s, more=self._more(spec)
                    )
            except OSError as broken:
                why = broken.strerror or str(broken)
                raise self._failed(f"the run program cannot be asked: {why}") from broken
        try:
            if any(fault.get("exit_code") not in (None, *_ABOUT_THE_ORDER) for fault in told["faults"]):
                raise self._failed(f"the run program made no {self._command}: {told['faults'][0]['message']}")
            answer = self._read(told, spec)
        except (KeyError, TypeError, ValueError, AttributeError) as broken:
            raise self._failed(f"the run program made no {self._command} ({error})") from broken
        make_room(self._known, _KEPT)
        self._known[key] = answer
        return answer

    def _failed(self, message: str) -> Unavailable:
        return Unavailable(message, reason=f"{self._command.upper()}_FAILED")


async def ask_here(
    settings: TrainerSettings, spec: Asked, *, command: str, limit_s: float, more: Sequence[str] = ()
) -> tuple[Any, str]:
    """What a process of this machine answers, and how it ended in words. Raises Deadline (…_SLOW)."""
    with tempfile.TemporaryDirectory(prefix=f"marsam-{command}-") as folder:
        file = Path(folder) / "spec.json"
        await asyncio.to_thread(file.write_bytes, dump(spec))
        process = await asyncio.create_subprocess_exec(
            *settings.run_command, command,
            "--store", settings.store, "--cache", str(settings.cache), "--spec", str(file), *more,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=child_environment(os.environ),
        )  # fmt: skip
        try:
            async with asyncio.timeout(limit_s):
                out, err = await process.communicate()
        except TimeoutError as error:
            raise Deadline(
                f"no {command} within {limit_s:g} s",
                reason=f"{command.upper()}_SLOW",
                field="spec",
            ) from error
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
    tail = "".join(err.decode(errors="replace").strip().splitlines()[-1:])[:300]
    try:
        return json.loads(out), f"exit {process.returncode}: {tail}"
    except ValueError:
        return None, f"exit {process.returncode}: {tail}"


def fault_of(told: Mapping[str, Any], *, otherwise: str) -> Fault:
    """A fault as the run program tells it; one without a place is at `otherwise`."""
    return Fault(
        field=str(told.get("field") or otherwise).removeprefix("spec."),
        reason=str(told.get("reason", "REFUSED")),
        message=str(told["message"]),
        remedy=str(told.get("remedy") or ""),
    )
