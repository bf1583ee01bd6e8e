"""From the pictures of an evaluation to its results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from marsam_generator.evaluation.analysis import Analyst
from marsam_generator.evaluation.calibration import Calibration
from marsam_generator.evaluation.judges.record import JudgeRecord
from marsam_generator.evaluation.results import Method, Picture, Results
from marsam_generator.evaluation.scoring import measures
from marsam_generator.evaluation.statistics import CONFIDENCE, PromptBootstrap
from marsam_generator.evaluation.suites import Suite, suite_digest
from marsam_generator.evaluation.verdict import KEEP_MARGIN, reach_verdict


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One model under evaluation: resource name, content digest, and what a sentence calls it."""

    name: str
    digest: str
    title: str


@dataclass(frozen=True, kw_only=True)
class JudgeInUse:
    """The judge of an evaluation."""

    name: str
    digest: str
    record: JudgeRecord
    vocabulary: Mapping[str, tuple[str, ...]]


def trusted_attributes(suite: Suite, judge: JudgeInUse) -> tuple[str, ...]:
    """The attributes of the suite that the judge reads well enough for a verdict, in the suite's order."""
    return tuple(a for a in suite.judged if a in judge.vocabulary and judge.record.trusts(a))


def conclude(
    suite: Suite,
    pictures: Sequence[Picture],
    *,
    evaluation: str,
    create_time: datetime,
    suite_name: str,
    models: Sequence[Subject],
    judge: JudgeInUse,
    bootstrap: PromptBootstrap | None = None,
    seed_offset: int = 0,
    notes: Sequence[str] = (),
    fingerprint: str = "",
    seconds: Mapping[str, float] | None = None,
) -> Results:
    """Score, analyse and judge the pictures of `models` (the baseline first). Blocks for seconds; use a thread."""
    bootstrap = bootstrap or PromptBootstrap(seed=0)
    trusted = trusted_attributes(suite, judge)
    analysis = Analyst(
        suite,
        pictures,
        models=len(models),
        trusted=trusted,
        calibration=Calibration(judge.record, trusted),
        bootstrap=bootstrap,
    ).run()
    verdict = reach_verdict(
        suite,
        measures(suite, trusted),
        analysis.cells,
        analysis.changes,
        names=[model.title for model in models],
    )
    return Results(
        evaluation=evaluation,
        create_time=create_time,
        suite_name=suite_name,
        suite_digest=suite_digest(suite),
        suite=suite,
        models=tuple(model.name for model in models),
        model_titles=tuple(model.title for model in models),
        model_digests=tuple(model.digest for model in models),
        judge=judge.name,
        judge_digest=judge.digest,
        judge_record=judge.record,
        trusted=trusted,
        pictures=tuple(sorted(pictures, key=lambda p: (p.prompt, p.language, p.seed, p.model))),
        cells=analysis.cells,
        changes=analysis.changes,
        gaps=analysis.gaps,
        verdict=verdict,
        method=Method(
            bootstrap_draws=bootstrap.draws,
            bootstrap_seed=bootstrap.seed,
            confidence=CONFIDENCE,
            keep_margin=KEEP_MARGIN,
        ),
        seed_offset=seed_offset,
        notes=tuple(notes),
        left_out=analysis.left_out,
        fingerprint=fingerprint,
        seconds=dict(seconds or {}),
    )
