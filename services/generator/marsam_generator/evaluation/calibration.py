"""What is known about a judge's errors, turned into the sensitivity and specificity of each question it answers."""

from collections.abc import Collection
from typing import Literal

from marsam_generator.evaluation.judges import UNSURE
from marsam_generator.evaluation.judges.record import Confusion, JudgeRecord, Labelled
from marsam_generator.evaluation.scoring import attributes_of, right, score
from marsam_generator.evaluation.statistics import Agreement
from marsam_generator.evaluation.suites import Prompt

Source = Literal["agreement", "reconstructions"]

_SAMPLE = {"id": "labelled", "group": "labelled", "text": {}, "seeds": (0,)}


class Calibration:
    """The judge's agreement with the truth, by measure.

    A person's labels of generated pictures come first, since those are the pictures that are judged. Without enough of
    them a measure of one attribute falls back to the confusion table on reconstructions, which is kinder to the judge
    than smeared pictures are; a measure of several attributes is then left uncorrected.
    """

    def __init__(self, record: JudgeRecord, trusted: Collection[str]) -> None:
        self._record = record
        self._trusted = frozenset(trusted)

    def of(self, measure: str) -> tuple[Agreement | None, Source]:
        """Return the agreement that corrects `measure`, or None when nothing good enough is known, and its source."""
        table = self.agreement(measure)
        if table is not None and table.usable():
            return table, "agreement"
        for attribute in self._trusted:
            measured = self._record.attributes.get(attribute)
            if measure == right(attribute) and measured and measured.reconstructions:
                table = one_against_rest(measured.reconstructions)
                return (table if table.usable() else None), "reconstructions"
        return None, "reconstructions"

    def agreement(self, measure: str) -> Agreement | None:
        """Return the judge's answers to `measure` beside a person's, over the labelled pictures; None without any."""
        pairs = [pair for row in self._record.agreement if (pair := self._pair(measure, row)) is not None]
        if not pairs:
            return None
        return Agreement(
            hit=sum(human and judge for human, judge in pairs),
            miss=sum(human and not judge for human, judge in pairs),
            false_alarm=sum(judge and not human for human, judge in pairs),
            correct_rejection=sum(not human and not judge for human, judge in pairs),
        )

    def _pair(self, measure: str, row: Labelled) -> tuple[bool, bool] | None:
        prompt = Prompt(expect=row.expect, forbid=row.forbid, **_SAMPLE)  # type: ignore[arg-type]
        needed = attributes_of(measure, prompt, self._trusted)
        if any(row.human.get(name, UNSURE) == UNSURE for name in needed):
            return None
        human, judge = (score(prompt, seen, self._trusted) for seen in (row.human, row.judge))
        if measure not in human or measure not in judge:
            return None
        return human[measure], judge[measure]

    def attribute_agreement(self, attribute: str) -> tuple[int, int] | None:
        """Return (labelled pictures on which judge and person agree, labelled pictures) for one attribute, or None."""
        rows = [
            (row.human[attribute], row.judge[attribute])
            for row in self._record.agreement
            if row.human.get(attribute, UNSURE) != UNSURE and attribute in row.judge
        ]
        return (sum(human == judge for human, judge in rows), len(rows)) if rows else None


def one_against_rest(table: Confusion) -> Agreement:
    """Return the agreement of "is it the value asked for?" averaged over the values, each against all others.

    An error on one picture is a miss of its true value and a false alarm for one of the others.
    """
    others = max(1, len(table.values) - 1)
    wrong = table.total - table.right
    return Agreement(
        hit=table.right,
        miss=wrong,
        false_alarm=wrong / others,
        correct_rejection=table.total - wrong / others,
    )
