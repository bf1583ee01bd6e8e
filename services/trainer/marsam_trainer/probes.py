"""How a base reads a version's captions, asked of the run program, which has the base's own tokenizers."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from marsam.catalog.runs import RunSpec
from marsam.core.errors import Deadline
from marsam.diffusion.reading import Reading
from marsam_trainer.ground import Ground
from marsam_trainer.orders import Fault
from marsam_trainer.questions import Questions, fault_of
from marsam_trainer.settings import TrainerSettings

# What the answer depends on: the base's files, the captions, and which of them are used.
_MATTERS = ("base_digest", "dataset_digest", "regularisation_digest", "languages")

_PATIENCE_S = 20.0
"""How long somebody in a hurry waits where the answer comes from another machine, which may not even be there yet."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A reading for each language and tokenizer; what forbids training on them, and what is worth knowing."""

    readings: tuple[Reading, ...] = ()
    faults: tuple[Fault, ...] = ()
    warnings: tuple[Fault, ...] = ()


class Prober:
    """Asks the run program how captions are read, and remembers the answers."""

    def __init__(self, settings: TrainerSettings, ground: Ground) -> None:
        self._questions = Questions("probe", _MATTERS, _probe, settings=settings, ground=ground)
        self._patience_s = _PATIENCE_S if ground.elsewhere else None

    async def close(self) -> None:
        """Break off what is being asked."""
        await self._questions.close()

    async def probe(self, spec: RunSpec, *, hurry: bool = False) -> Probe:
        """How the base of `spec` reads its captions; in a `hurry`, if that can be known soon.

        Raises Unavailable (PROBE_FAILED), Deadline (PROBE_SLOW).
        """
        try:
            async with asyncio.timeout(self._patience_s if hurry else None):
                return await self._questions.ask(spec)
        except TimeoutError as error:
            raise Deadline(f"no probe within {self._patience_s} s", reason="PROBE_SLOW", field="spec") from error


_NAMES = frozenset(field.name for field in fields(Reading))


def _probe(told: Mapping[str, Any], spec: RunSpec) -> Probe:
    return Probe(
        readings=tuple(
            Reading(**{name: value for name, value in entry.items() if name in _NAMES})
            for entry in told.get("readings", ())
        ),
        faults=tuple(fault_of(fault, otherwise="base") for fault in told["faults"]),
        warnings=tuple(fault_of(fault, otherwise="languages") for fault in told.get("warnings", ())),
    )
