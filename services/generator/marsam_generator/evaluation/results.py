"""`marsam.evaluation-results/1`: everything an evaluation found, as numbers. The report is a view of this."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, Literal

from marsam_generator.evaluation.judges.record import JudgeRecord
from marsam_generator.evaluation.statistics import Interval
from marsam_generator.evaluation.suites import Suite

ALL_LANGUAGES = ""
"""The `language` of a cell or change over all languages of the suite."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the judge saw of one attribute of one picture."""

    value: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One generated picture. `model` is its index in `Results.models`; `digest` names its PNG bytes."""

    model: int
    prompt: str
    language: str
    seed: int
    digest: str
    size: int
    answers: Mapping[str, Answer]


@dataclass(frozen=True, kw_only=True)
class Corrected:
    """A rate or difference after the judge's known error was taken out; `source` says by which measurement."""

    value: float
    interval: Interval
    source: Literal["agreement", "reconstructions"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measure of one model in one group and language: `yes` of `n` pictures over `prompts` prompts.

    `effective_n` is how many independent pictures they are worth. `unsure` is the share the judge could not tell.
    """

    model: int
    group: str
    language: str
    measure: str
    yes: int
    n: int
    prompts: int
    effective_n: float
    interval: Interval
    unsure: float
    corrected: Corrected | None = None

    @property
    def rate(self) -> float:
        """The rate as the judge reads it."""
        return self.yes / self.n

    @property
    def best(self) -> float:
        """The corrected rate where there is one."""
        return self.corrected.value if self.corrected else self.rate

    @property
    def best_interval(self) -> Interval:
        return self.corrected.interval if self.corrected else self.interval


@dataclass(frozen=True, kw_only=True)
class Change:
    """How a measure of `model` differs from the baseline's (model 0), on the same prompts and seeds."""

    model: int
    group: str
    language: str
    measure: str
    difference: float
    interval: Interval
    n: int
    prompts: int
    corrected: Corrected | None = None

    @property
    def best(self) -> float:
        return self.corrected.value if self.corrected else self.difference

    @property
    def best_interval(self) -> Interval:
        """The wider of what the raw and the corrected readings allow."""
        return self.interval.union(self.corrected.interval) if self.corrected else self.interval


@dataclass(frozen=True, kw_only=True)
class LanguageGap:
    """How a measure of one model differs between two languages, on the same prompts and seeds."""

    model: int
    group: str
    measure: str
    first: str
    second: str
    difference: float
    interval: Interval


Outcome = Literal["better", "worse", "same", "kept", "lost", "unclear"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a verdict says about one model in one group: the change of one measure, put into one word."""

    model: int
    group: str
    language: str
    measure: str
    outcome: Outcome
    before: float
    after: float
    interval: Interval


Status = Literal["improved", "improved_with_loss", "partly", "unclear", "failed", "baseline"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One sentence in each language, the model it speaks about, and the findings it rests on."""

    status: Status
    model: int
    sentence: Mapping[str, str]
    findings: tuple[Finding, ...]
    statuses: tuple[Status, ...]


@dataclass(frozen=True, kw_only=True)
class Method:
    """How the numbers were computed, so that anybody can compute them again."""

    bootstrap_draws: int
    bootstrap_seed: int
    confidence: float
    keep_margin: float


@dataclass(frozen=True, kw_only=True)
class Results:
    """A finished evaluation. `models[0]` is the baseline; names are resource names, digests name their content."""

    SCHEMA: ClassVar[str] = "marsam.evaluation-results/1"

    evaluation: str
    create_time: datetime
    suite_name: str
    suite_digest: str
    suite: Suite
    models: tuple[str, ...]
    model_titles: tuple[str, ...]
    model_digests: tuple[str, ...]
    judge: str
    judge_digest: str
    judge_record: JudgeRecord
    trusted: tuple[str, ...]
    pictures: tuple[Picture, ...]
    cells: tuple[Cell, ...]
    changes: tuple[Change, ...]
    gaps: tuple[LanguageGap, ...]
    verdict: Verdict
    method: Method
    seed_offset: int = 0
    notes: tuple[str, ...] = ()
    left_out: int = 0
    fingerprint: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)

    def cell(self, model: int, group: str, language: str, measure: str) -> Cell | None:
        """Return one cell, or None where the measure does not apply."""
        wanted = (model, group, language, measure)
        return next((c for c in self.cells if (c.model, c.group, c.language, c.measure) == wanted), None)

    def change(self, model: int, group: str, language: str, measure: str) -> Change | None:
        """Return one change against the baseline, or None where the measure does not apply."""
        wanted = (model, group, language, measure)
        return next((c for c in self.changes if (c.model, c.group, c.language, c.measure) == wanted), None)
