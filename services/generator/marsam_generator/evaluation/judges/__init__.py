"""Judges: what reads a picture and says which attributes it shows. One kind a file, found by its module name."""

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from PIL import Image

from marsam.core.errors import unknown_name
from marsam_generator.evaluation.judges.record import JudgeRecord

UNSURE = "unsure"
"""The value of a reading that the judge itself would not stand behind."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a judge saw of one attribute: a known value or `UNSURE`, and the probability of its best value."""

    value: str
    probability: float


Readings = Mapping[str, Reading]


class Judge(Protocol):
    """Reads pictures. It is never told which model made them."""

    @property
    def record(self) -> JudgeRecord:
        """How well the judge reads, as measured by whoever made it."""
        ...

    @property
    def vocabulary(self) -> Mapping[str, tuple[str, ...]]:
        """The values that it can tell apart, for each attribute."""
        ...

    def read(self, pictures: Sequence[Image.Image]) -> list[Readings]:
        """Return the readings of each picture (RGB, any size), in order. Blocks; call it off the event loop."""
        ...


class JudgeModule(Protocol):
    """What every file of this folder that is a judge offers."""

    def load(self, folder: Path) -> Judge:
        """Return the judge whose files lie in `folder`; Invalid or Corrupt when they are not one."""
        ...


_NOT_JUDGES = frozenset({"record"})


def kinds() -> list[str]:
    """The kinds of judge that exist, by module name."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in _NOT_JUDGES)


def load_judge(kind: str, folder: Path) -> Judge:
    """Return the judge of `kind` from its folder; Invalid with the known kinds when there is no such kind."""
    if kind not in kinds():
        raise unknown_name("judge", kind, kinds(), field="judge")
    return cast(JudgeModule, importlib.import_module(f"{__name__}.{kind}")).load(folder)
