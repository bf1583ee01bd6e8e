"""The words of a verdict, in English and Arabic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from marsam_generator.evaluation.results import ALL_LANGUAGES, Finding, Status
from marsam_generator.evaluation.scoring import STEREOTYPE, Measure
from marsam_generator.evaluation.suites import Group, Purpose, Suite


@dataclass(frozen=True, kw_only=True)
class Wording:
    """One language's parts of a sentence. Fields named `{…}` are filled in."""

    percent: str
    quoted: str
    opening: Mapping[Status, str]
    opening_of_many: Mapping[Status, str]
    on: str
    with_stereotype: str
    as_asked: str
    former: str
    latter: str
    fell: str
    rose: str
    unchanged: str
    same: str
    join: str
    semicolon: str
    comma: str
    all_kept: str
    lost: str
    in_language: str
    languages_named: Mapping[str, str]
    lost_item: str
    lost_to_stereotype: str
    undecided: str
    points: str
    stop: str

    @staticmethod
    def languages() -> tuple[str, ...]:
        """The languages that a verdict is written in."""
        return tuple(_WORDINGS)

    @staticmethod
    def nothing_readable() -> Mapping[str, str]:
        """The sentence where the judge reads no attribute well enough."""
        return {
            "en": "No verdict: the judge reads none of the attributes well enough.",
            "ar": "لا حكم: لا يقرأ المحكّم أيًّا من السمات بدقة كافية.",
        }

    @staticmethod
    def baseline_only() -> Mapping[str, str]:
        """The sentence of an evaluation that has nothing to compare with."""
        return {
            "en": "One model was measured and none to compare it with, so nothing is said about tuning.",
            "ar": "قيس نموذج واحد من غير نموذج يُقارن به، فلا حكم على الضبط.",
        }


_ENGLISH = Wording(
    percent="{}\u202f%",
    quoted="“{}”",
    opening={
        "improved": "Tuning worked: ",
        "improved_with_loss": "Tuning worked, at a price: ",
        "partly": "Tuning worked in part: ",
        "unclear": "These pictures cannot tell whether tuning worked: ",
        "failed": "Tuning did not work: ",
    },
    opening_of_many={
        "improved": "Of {n} tuned models, {name} did best: ",
        "improved_with_loss": "Of {n} tuned models, {name} did best, at a price: ",
        "partly": "Of {n} tuned models, {name} did best, and worked in part: ",
        "unclear": "These pictures cannot tell whether any of {n} tuned models worked; the nearest is {name}: ",
        "failed": "None of {n} tuned models worked; the nearest is {name}: ",
    },
    on="on {group}, {changes}",
    with_stereotype="pictures with {what}",
    as_asked="pictures with everything as asked",
    former="the former",
    latter="the latter",
    fell="{what} fell from {before} to {after}",
    rose="{what} rose from {before} to {after}",
    unchanged="{what} moved from {before} to {after} (not certain)",
    same="{what} stayed at {after}",
    join=" and ",
    semicolon="; ",
    comma=", ",
    all_kept="nothing that was to be kept was lost",
    lost="but {items} got worse",
    in_language="{group} in {language}",
    languages_named={"en": "English", "ar": "Arabic"},
    lost_item="{group} ({before} to {after} as asked)",
    lost_to_stereotype="{group} ({what}: {before} to {after})",
    undecided="a loss of up to {margin} cannot be ruled out for {items}",
    points="{} points",
    stop=".",
)

_ARABIC = Wording(
    percent="{}٪",
    quoted="«{}»",
    opening={
        "improved": "نجح الضبط: ",
        "improved_with_loss": "نجح الضبط، ولكن بثمن: ",
        "partly": "نجح الضبط جزئيًا: ",
        "unclear": "لا تكفي هذه الصور للحكم على نجاح الضبط: ",
        "failed": "لم ينجح الضبط: ",
    },
    opening_of_many={
        "improved": "الأفضل بين النماذج المضبوطة ({n}) هو {name}: ",
        "improved_with_loss": "الأفضل بين النماذج المضبوطة ({n}) هو {name}، ولكن بثمن: ",
        "partly": "الأفضل بين النماذج المضبوطة ({n}) هو {name}، وقد نجح جزئيًا: ",
        "unclear": "لا تكفي هذه الصور للحكم على نجاح أيٍّ من النماذج المضبوطة ({n})، وأقربها {name}: ",
        "failed": "لم ينجح أيٌّ من النماذج المضبوطة ({n})، وأقربها {name}: ",
    },
    on="في {group} {changes}",
    with_stereotype="نسبة الصور التي فيها {what}",
    as_asked="نسبة الصور المطابقة للطلب كله",
    former="الأولى",
    latter="الثانية",
    fell="تراجعت {what} من {before} إلى {after}",
    rose="ارتفعت {what} من {before} إلى {after}",
    unchanged="انتقلت {what} من {before} إلى {after} (غير مؤكد)",
    same="بقيت {what} عند {after}",
    join=" و",
    semicolon="؛ ",
    comma="، ",
    all_kept="ولم يُفقد شيء مما وجب حفظه",
    lost="لكن النتيجة ساءت في {items}",
    in_language="{group} باللغة {language}",
    languages_named={"en": "الإنجليزية", "ar": "العربية"},
    lost_item="{group} (من {before} إلى {after} مطابقة للطلب)",
    lost_to_stereotype="{group} ({what}: من {before} إلى {after})",
    undecided="ولا يمكن استبعاد خسارة تصل إلى {margin} في {items}",
    points="{} نقطة",
    stop=".",
)

_WORDINGS: Mapping[str, Wording] = {"en": _ENGLISH, "ar": _ARABIC}


def sentence(
    suite: Suite,
    measures: Sequence[Measure],
    findings: Sequence[Finding],
    *,
    status: Status,
    language: str,
    of: int,
    name: str,
) -> str:
    """Return one model's verdict in `language`. `of` tuned models were compared; `name` is this one's."""
    return _Writer(_WORDINGS[language], language, suite, measures, findings).write(status, of=of, name=name)


class _Writer:
    def __init__(
        self,
        words: Wording,
        language: str,
        suite: Suite,
        measures: Sequence[Measure],
        findings: Sequence[Finding],
    ) -> None:
        self.words = words
        self.language = language
        self.suite = suite
        self.stereotype = next((m.title for m in measures if m.name == STEREOTYPE), {})
        self.findings = findings
        self._told: list[str] = []  # measures that were named in full, in that order

    def write(self, status: Status, *, of: int, name: str) -> str:
        words = self.words
        opening = words.opening[status] if of == 1 else words.opening_of_many[status].format(n=of, name=name)
        groups = self._groups(("held_out",)) or self._groups(("taught",))
        if status in ("partly", "failed"):
            groups = self._groups(("taught", "held_out"))
        learned = [text for group in groups if (text := self._learned(group))]
        return opening + words.semicolon.join([*learned, *self._kept()]) + words.stop

    def _groups(self, purposes: tuple[Purpose, ...]) -> list[Group]:
        return [group for group in self.suite.groups if group.asks in purposes]

    def _learned(self, group: Group) -> str:
        changes = [self._change(f) for f in self.findings if f.group == group.name and f.language == ALL_LANGUAGES]
        if not changes:
            return ""
        return self.words.on.format(group=self._name(group), changes=self.words.join.join(changes))

    def _change(self, finding: Finding) -> str:
        words = self.words
        if finding.measure in self._told and len(self._told) == 2:
            what = words.former if finding.measure == self._told[0] else words.latter
        elif finding.measure == STEREOTYPE:
            what = words.with_stereotype.format(what=_in(self.stereotype, self.language))
        else:
            what = words.as_asked
        if finding.measure not in self._told:
            self._told.append(finding.measure)
        pattern = words.unchanged if finding.outcome == "unclear" else words.same
        if finding.outcome in ("better", "worse"):
            pattern = words.rose if finding.after > finding.before else words.fell
        return pattern.format(what=what, before=self._percent(finding.before), after=self._percent(finding.after))

    def _kept(self) -> list[str]:
        words = self.words
        keeping = [f for f in self.findings if self.suite.group(f.group).asks in ("bleed", "kept", "unrelated")]
        if not keeping:
            return []
        worst: dict[str, Finding] = {}
        # Told by pictures as asked, whatever else a group lost; and as a whole, if it lost as a whole.
        for finding in sorted(keeping, key=lambda f: (f.measure == STEREOTYPE, f.language != ALL_LANGUAGES)):
            if finding.outcome == "lost":
                worst.setdefault(finding.group, finding)
        unclear = [
            f for f in keeping if f.outcome == "unclear" and f.language == ALL_LANGUAGES and f.group not in worst
        ]
        parts = []
        if worst:
            items = [self._lost(group, finding) for group, finding in worst.items()]
            parts.append(words.lost.format(items=self._list(items)))
        if unclear:
            bound = max(f.interval.high if f.measure == STEREOTYPE else -f.interval.low for f in unclear)
            named = {f.group for f in unclear}
            items = [self._name(group) for group in self.suite.groups if group.name in named]
            margin = words.points.format(round(bound * 100))
            parts.append(words.undecided.format(margin=margin, items=self._list(items)))
        return parts or [words.all_kept]

    def _lost(self, group: str, finding: Finding) -> str:
        pattern = self.words.lost_to_stereotype if finding.measure == STEREOTYPE else self.words.lost_item
        named = self._name(self.suite.group(group))
        if finding.language != ALL_LANGUAGES:
            language = self.words.languages_named.get(finding.language, finding.language)
            named = self.words.in_language.format(group=named, language=language)
        return pattern.format(
            group=named,
            what=_in(self.stereotype, self.language),
            before=self._percent(finding.before),
            after=self._percent(finding.after),
        )

    def _list(self, items: Sequence[str]) -> str:
        *some, last = items
        return self.words.comma.join(some) + self.words.join + last if some else last

    def _name(self, group: Group) -> str:
        phrase = _in(group.phrase, self.language)
        return phrase or self.words.quoted.format(_in(group.title, self.language))

    def _percent(self, rate: float) -> str:
        return self.words.percent.format(round(rate * 100))


def _in(texts: Mapping[str, str], language: str) -> str:
    """The text in `language`, else in English, else in any."""
    return texts.get(language) or texts.get("en") or next(iter(texts.values()), "")
