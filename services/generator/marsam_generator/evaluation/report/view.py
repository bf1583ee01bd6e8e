"""The verdict of a report in parts: panels, the table of numbers, and models side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from marsam_generator.evaluation.report.formats import percent, percent_range, points, points_range
from marsam_generator.evaluation.report.plots import bar, dumbbell
from marsam_generator.evaluation.results import ALL_LANGUAGES, Outcome, Results, Status
from marsam_generator.evaluation.scoring import AS_ASKED, STEREOTYPE, Measure, is_part, measures
from marsam_generator.evaluation.suites import Purpose
from marsam_generator.evaluation.verdict import LEARNING

QUESTIONS: Mapping[Purpose, Mapping[str, str]] = {
    "taught": {"en": "Did it learn what it was shown?", "ar": "هل تعلّم ما عُرض عليه؟"},
    "held_out": {"en": "Does that carry over to what it was never shown?", "ar": "هل يصحّ ذلك فيما لم يُعرض عليه؟"},
    "bleed": {"en": "Were others left as they were?", "ar": "هل بقي الآخرون كما كانوا؟"},
    "kept": {"en": "Does it still come when it is asked for?", "ar": "هل ما زال يظهر حين يُطلب؟"},
    "unrelated": {"en": "Is everything else still known?", "ar": "هل ما زال يعرف كل ما سواه؟"},
}

OUTCOMES: Mapping[Outcome, tuple[str, str, str]] = {
    "better": ("▲", "better", "good"),
    "worse": ("▼", "worse", "bad"),
    "same": ("＝", "no change", "bad"),
    "kept": ("✓", "kept", "good"),
    "lost": ("✕", "lost", "bad"),
    "unclear": ("?", "cannot tell", "open"),
}

STATUSES: Mapping[Status, tuple[str, str, str]] = {
    "improved": ("✓", "Improved", "good"),
    "improved_with_loss": ("±", "Improved, with losses", "open"),
    "partly": ("◐", "Improved in part", "open"),
    "unclear": ("?", "Cannot tell", "open"),
    "failed": ("✕", "Not improved", "bad"),
    "baseline": ("–", "Baseline", "plain"),
}

LANGUAGE_NAMES = {"en": "English", "ar": "العربية"}

RIGHT_TO_LEFT = frozenset({"ar", "fa", "he", "ur", "ps", "ckb", "ug", "dv", "yi"})


def direction(language: str) -> str:
    """The writing direction of a language tag."""
    return "rtl" if language.split("-")[0] in RIGHT_TO_LEFT else "ltr"


@dataclass(frozen=True, kw_only=True)
class Track:
    """One measure in one language: the plot and its numbers."""

    language: str
    label: str
    plot: Markup
    before: str
    after: str
    change: str
    interval: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """One measure of a panel, in every language. `chip` is (symbol, word, class) or None where nothing is claimed."""

    title: str
    wanted: bool
    headline: bool
    chip: tuple[str, str, str] | None
    tracks: tuple[Track, ...]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One group of the suite: a question, its answer, and the measures behind it."""

    title: str
    titles: Mapping[str, str]
    question: str
    questions: Mapping[str, str]
    chip: tuple[str, str, str]
    lines: tuple[Line, ...]
    pictures: int
    prompts: int
    unsure: float
    learning: bool


@dataclass(frozen=True, kw_only=True)
class NumberRow:
    """One line of the table of numbers."""

    group: str
    measure: str
    language: str
    n: int
    prompts: int
    before: str
    before_interval: str
    after: str
    after_interval: str
    change: str
    change_interval: str
    corrected: str


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One tuned model beside the others. Shares are those of pictures as asked."""

    title: str
    chosen: bool
    status: tuple[str, str, str]
    shares: tuple[tuple[str, Markup, str], ...]
    facts: Mapping[str, str] = field(default_factory=dict)


class Findings:
    """The verdict's view of one model against the baseline."""

    def __init__(self, results: Results, model: int) -> None:
        self._results = results
        self._model = model
        self._cells = {(c.model, c.group, c.language, c.measure): c for c in results.cells}
        self._changes = {(c.group, c.language, c.measure): c for c in results.changes if c.model == model}
        self._findings = [f for f in results.verdict.findings if f.model == model]
        self._measures = measures(results.suite, results.trusted)

    def panels(self) -> list[Panel]:
        """A panel for each group that has numbers, in the order of the suite."""
        found = []
        for group in self._results.suite.groups:
            lines = [line for m in self._measures if not is_part(m.name) and (line := self._line(group.name, m))]
            cells = [c for c in self._results.cells if c.model == self._model and c.group == group.name]
            overall = [c for c in cells if c.language == ALL_LANGUAGES]
            if not lines or not overall:
                continue
            found.append(
                Panel(
                    title=in_language(group.title, "en"),
                    titles=group.title,
                    question=QUESTIONS[group.asks]["en"],
                    questions=QUESTIONS[group.asks],
                    chip=self._chip(group.name),
                    lines=tuple(lines),
                    pictures=max(c.n for c in overall),
                    prompts=max(c.prompts for c in overall),
                    unsure=max(c.unsure for c in overall),
                    learning=group.asks in LEARNING,
                )
            )
        return found

    def _line(self, group: str, measure: Measure) -> Line | None:
        tracks = [t for language in self._results.suite.languages if (t := self._track(group, measure, language))]
        if not tracks:
            return None
        findings = [
            f for f in self._findings if f.group == group and f.measure == measure.name and f.language == ALL_LANGUAGES
        ]
        return Line(
            title=in_language(measure.title, "en"),
            wanted=measure.wanted,
            headline=measure.name in (STEREOTYPE, AS_ASKED),
            chip=OUTCOMES[findings[0].outcome] if findings else None,
            tracks=tuple(tracks),
        )

    def _track(self, group: str, measure: Measure, language: str) -> Track | None:
        change = self._changes.get((group, language, measure.name))
        if change is None:
            return None
        before = self._cells[0, group, language, measure.name]
        after = self._cells[self._model, group, language, measure.name]
        return Track(
            language=language,
            label=LANGUAGE_NAMES.get(language, language),
            plot=dumbbell(before.best, before.best_interval, after.best, after.best_interval),
            before=percent(before.best),
            after=percent(after.best),
            change=points(change.best),
            interval=points_range(change.best_interval),
        )

    def _chip(self, group: str) -> tuple[str, str, str]:
        """A group's answer: any loss in any language first, then doubt, then the good news."""
        mine = [f for f in self._findings if f.group == group]
        learning = self._results.suite.group(group).asks in LEARNING
        bad: tuple[Outcome, ...] = ("worse", "lost")
        worst = next((f.outcome for f in mine if f.outcome in bad), None)
        if worst:
            return OUTCOMES[worst]
        overall = {f.outcome for f in mine if f.language == ALL_LANGUAGES}
        if overall == {"better"}:
            return OUTCOMES["better"]
        if overall == {"kept"}:
            return OUTCOMES["kept"]
        if learning and overall == {"same"}:
            return OUTCOMES["same"]
        if learning and "better" in overall:
            return "◐", "better in part", "open"
        return OUTCOMES["unclear"]

    def numbers(self) -> list[NumberRow]:
        """Every number of the comparison, by group, measure and language."""
        titles = {m.name: in_language(m.title, "en") for m in self._measures}
        rows = []
        for change in self._results.changes:
            if change.model != self._model:
                continue
            place = (change.group, change.language, change.measure)
            before, after = self._cells[(0, *place)], self._cells[(self._model, *place)]
            corrected = ""
            if before.corrected and after.corrected:
                corrected = f"{percent(before.corrected.value)} → {percent(after.corrected.value)}"
            rows.append(
                NumberRow(
                    group=in_language(self._results.suite.group(change.group).title, "en"),
                    measure=titles[change.measure],
                    language=change.language or "all",
                    n=change.n,
                    prompts=change.prompts,
                    before=percent(before.rate),
                    before_interval=percent_range(before.interval),
                    after=percent(after.rate),
                    after_interval=percent_range(after.interval),
                    change=points(change.difference),
                    change_interval=points_range(change.interval),
                    corrected=corrected,
                )
            )
        return rows

    def gaps(self) -> list[tuple[str, str, str, str, bool]]:
        """(group, gap before, gap after, interval after, whether it is more than chance) of pictures as asked."""
        found = []
        for group in self._results.suite.groups:
            gaps = {g.model: g for g in self._results.gaps if g.group == group.name and g.measure == AS_ASKED}
            if self._model in gaps and 0 in gaps:
                after = gaps[self._model]
                certain = after.interval.low > 0 or after.interval.high < 0
                title = in_language(group.title, "en")
                interval = points_range(after.interval)
                found.append((title, points(gaps[0].difference), points(after.difference), interval, certain))
        return found


def contenders(results: Results, facts: Sequence[Mapping[str, str]]) -> list[Contender]:
    """Every model, the baseline first, beside the others; `facts[i]` are model i's sizes and times in words."""
    cells = {(c.model, c.group): c for c in results.cells if c.measure == AS_ASKED and c.language == ALL_LANGUAGES}
    rows = []
    for model, title in enumerate(results.model_titles):
        shares = []
        for group in results.suite.groups:
            cell = cells.get((model, group.name))
            if cell is not None:
                base = cells[0, group.name].best if model else None
                shares.append((in_language(group.title, "en"), bar(cell.best, mark=base), percent(cell.best)))
        rows.append(
            Contender(
                title=title,
                chosen=model == results.verdict.model and model > 0,
                status=STATUSES[results.verdict.statuses[model]],
                shares=tuple(shares),
                facts=facts[model],
            )
        )
    return rows


def in_language(texts: Mapping[str, str], language: str) -> str:
    """The text in `language`, else in English, else in any."""
    return texts.get(language) or texts.get("en") or next(iter(texts.values()), "")
