"""`judge.json`: what is known about a judge's own errors. It lies beside the weights and travels into every report.

Two kinds of knowledge, both counts and never bare percentages, so that their uncertainty can be computed:

* confusion tables of each attribute, on pictures whose truth is known because they were drawn from it (`renders`), and
  on the same pictures through the base model's autoencoder (`reconstructions`);
* `agreement`: generated pictures that a person labelled without knowing which model drew them, beside what the judge
  answered.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from marsam.core import records
from marsam.core.errors import Invalid, Precondition

FILE_NAME = "judge.json"


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Counts of truth (rows) against the judge's answer (columns), both in the order of `values`."""

    values: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        size = len(self.values)
        if len(self.counts) != size or any(len(row) != size for row in self.counts):
            raise Invalid(f"a confusion table of {size} values needs {size} × {size} counts")
        if any(count < 0 for row in self.counts for count in row) or self.total == 0:
            raise Invalid("a confusion table needs counts of at least 0, and one picture")

    @property
    def total(self) -> int:
        return sum(map(sum, self.counts))

    @property
    def right(self) -> int:
        return sum(row[i] for i, row in enumerate(self.counts))

    @property
    def accuracy(self) -> float:
        return self.right / self.total

    @property
    def worst(self) -> tuple[str, str, int] | None:
        """The most frequent confusion as (truth, answer, count), or None when there is none."""
        wrong = [
            (count, truth, answer)
            for truth, row in zip(self.values, self.counts, strict=True)
            for answer, count in zip(self.values, row, strict=True)
            if truth != answer and count
        ]
        if not wrong:
            return None
        count, truth, answer = max(wrong)
        return truth, answer, count


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One attribute's confusion tables; None where nothing was measured."""

    renders: Confusion | None = None
    reconstructions: Confusion | None = None


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """One generated picture, read by a person and by the judge. `expect` and `forbid` are those of its prompt.

    A person who cannot tell writes `unsure`.
    """

    expect: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    forbid: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    human: Mapping[str, str]
    judge: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class JudgeRecord:
    """What is known about a judge.

    An attribute enters a verdict when its accuracy on reconstructions (or on renders where those are all there is)
    reaches `trust_from`. A reading whose best probability is below `abstain_below` counts as "cannot tell". `details`
    is whatever its maker wants to keep beside the numbers.
    """

    SCHEMA: ClassVar[str] = "marsam.judge/1"

    name: str
    attributes: Mapping[str, Measured]
    agreement: tuple[Labelled, ...] = ()
    trust_from: float = 0.97
    abstain_below: float = 0.5
    notes: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0.0 < self.trust_from <= 1.0 or not 0.0 <= self.abstain_below < 1.0:
            raise Invalid("trust_from lies in (0, 1] and abstain_below in [0, 1)")

    def accuracy(self, attribute: str) -> float | None:
        """The accuracy that decides whether `attribute` is trusted; None when it was never measured."""
        measured = self.attributes.get(attribute)
        table = (measured.reconstructions or measured.renders) if measured else None
        return table.accuracy if table else None

    def trusts(self, attribute: str) -> bool:
        """Whether `attribute` may enter a verdict."""
        accuracy = self.accuracy(attribute)
        return accuracy is not None and accuracy >= self.trust_from


def read_record(folder: Path) -> JudgeRecord:
    """Return the record beside a judge's weights; Precondition when it is missing, Corrupt when it is not one."""
    path = folder / FILE_NAME
    if not path.is_file():
        raise Precondition(
            f"the judge has no {FILE_NAME}: nothing is known about its errors",
            reason="JUDGE_UNMEASURED",
            remedy="measure it on pictures whose attributes are known, and keep the confusion tables beside it",
        )
    return records.load(JudgeRecord, path.read_bytes(), what=FILE_NAME)


def write_record(folder: Path, record: JudgeRecord) -> None:
    """Write a judge's record beside its weights."""
    (folder / FILE_NAME).write_bytes(records.dump(record))
