"""The verdict: what the intervals allow to be said, in one sentence, and nothing beyond.

For groups that a model was to learn (`taught`, `held_out`) a measure is *better* or *worse* when the whole interval of
its change lies on one side of zero, and *the same* when it excludes any change of `KEEP_MARGIN` or more. For groups
that it was to keep (`bleed`, `kept`, `unrelated`) a measure is *kept* when the interval excludes a loss of
`KEEP_MARGIN` or more, and *lost* when the whole interval is a loss and does not exclude that. Everything else is
*unclear*, and said to be.
"""

from collections.abc import Iterable, Sequence

from marsam_generator.evaluation.phrases import Wording, sentence
from marsam_generator.evaluation.results import ALL_LANGUAGES, Cell, Change, Finding, Outcome, Status, Verdict
from marsam_generator.evaluation.scoring import AS_ASKED, STEREOTYPE, Measure
from marsam_generator.evaluation.statistics import Interval
from marsam_generator.evaluation.suites import Purpose, Suite

KEEP_MARGIN = 0.10

LEARNING: frozenset[Purpose] = frozenset({"taught", "held_out"})


def learning_outcome(change: Interval, *, wanted: bool) -> Outcome:
    """Judge the change of a measure in a group that was to be learned."""
    if change.low > 0:
        return "better" if wanted else "worse"
    if change.high < 0:
        return "worse" if wanted else "better"
    return "same" if max(-change.low, change.high) < KEEP_MARGIN else "unclear"


def keeping_outcome(change: Interval, *, wanted: bool, margin: float = KEEP_MARGIN) -> Outcome:
    """Judge the change of a measure in a group that was to stay as it was."""
    gain = change if wanted else Interval(low=-change.high, high=-change.low)
    if gain.low > -margin:
        return "kept"
    return "lost" if gain.high < 0 else "unclear"


def findings_of(
    suite: Suite, measures: Sequence[Measure], cells: Iterable[Cell], changes: Iterable[Change]
) -> tuple[Finding, ...]:
    """Put every change of the two headline measures into a word, for all languages together and for each."""
    headline = {m.name: m for m in measures if m.name in (STEREOTYPE, AS_ASKED)}
    by_place = {(c.model, c.group, c.language, c.measure): c for c in cells}
    found = []
    for change in changes:
        measure = headline.get(change.measure)
        if measure is None:
            continue
        judge = learning_outcome if suite.group(change.group).asks in LEARNING else keeping_outcome
        before = by_place[0, change.group, change.language, change.measure]
        after = by_place[change.model, change.group, change.language, change.measure]
        found.append(
            Finding(
                model=change.model,
                group=change.group,
                language=change.language,
                measure=change.measure,
                outcome=judge(change.best_interval, wanted=measure.wanted),
                before=before.best,
                after=after.best,
                interval=change.best_interval,
            )
        )
    return tuple(found)


def status_of(suite: Suite, findings: Sequence[Finding]) -> Status:
    """Sum up one model's findings. Losses in a single language count; gains have to show over all languages."""
    learning, lost = [], False
    for finding in findings:
        if suite.group(finding.group).asks not in LEARNING:
            lost |= finding.outcome == "lost"
        elif finding.language == ALL_LANGUAGES:
            learning.append(finding.outcome)
        else:
            lost |= finding.outcome == "worse"
    if not learning:
        return "unclear"
    if all(outcome == "better" for outcome in learning):
        return "improved_with_loss" if lost else "improved"
    if "better" in learning:
        return "partly"
    if lost or "worse" in learning or all(outcome == "same" for outcome in learning):
        return "failed"
    return "unclear"


_RANK: tuple[Status, ...] = ("improved", "improved_with_loss", "partly", "unclear", "failed", "baseline")


def best_model(statuses: Sequence[Status], cells: Sequence[Cell]) -> int:
    """The model that the verdict speaks about: the best status, then most pictures as asked, each group alike.

    All groups count: a model that learns the most by forgetting what it knew is not the best one. `statuses[i]` is that
    of model i; the baseline's own is not considered.
    """

    def merit(model: int) -> float:
        rates = [
            cell.best
            for cell in cells
            if cell.model == model and cell.measure == AS_ASKED and cell.language == ALL_LANGUAGES
        ]
        return sum(rates) / len(rates) if rates else 0.0

    return min(range(1, len(statuses)), key=lambda m: (_RANK.index(statuses[m]), -merit(m)))


def reach_verdict(
    suite: Suite,
    measures: Sequence[Measure],
    cells: Sequence[Cell],
    changes: Sequence[Change],
    *,
    names: Sequence[str],
) -> Verdict:
    """Return the verdict over all models; `names[i]` is what a sentence calls model i."""
    findings = findings_of(suite, measures, cells, changes)
    by_model = [tuple(f for f in findings if f.model == model) for model in range(len(names))]
    statuses: tuple[Status, ...] = (
        "baseline",
        *(status_of(suite, by_model[model]) for model in range(1, len(names))),
    )
    if len(names) == 1:
        return Verdict(status="baseline", model=0, sentence=Wording.baseline_only(), findings=(), statuses=statuses)
    if not measures:
        return Verdict(status="unclear", model=1, sentence=Wording.nothing_readable(), findings=(), statuses=statuses)
    model = best_model(statuses, cells)
    text = {
        language: sentence(
            suite,
            measures,
            by_model[model],
            status=statuses[model],
            language=language,
            of=len(names) - 1,
            name=names[model],
        )
        for language in Wording.languages()
    }
    return Verdict(status=statuses[model], model=model, sentence=text, findings=findings, statuses=statuses)
