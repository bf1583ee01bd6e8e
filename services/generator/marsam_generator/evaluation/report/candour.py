"""What a report says against itself: the judge's errors, and what the numbers do not show."""

from marsam_generator.evaluation.calibration import Calibration
from marsam_generator.evaluation.judges.record import Confusion
from marsam_generator.evaluation.report.formats import NARROW, percent, words
from marsam_generator.evaluation.report.provenance import JudgeRow, Limit
from marsam_generator.evaluation.results import ALL_LANGUAGES, Results
from marsam_generator.evaluation.statistics import wilson


def _accuracy(right: int, total: int) -> str:
    interval = wilson(right, total)
    return f"{right / total * 100:.1f}{NARROW}% of {total} ({interval.low * 100:.1f}–{interval.high * 100:.1f})"


def _table(table: Confusion | None) -> str:
    return _accuracy(table.right, table.total) if table else "not measured"


def judge_rows(results: Results) -> list[JudgeRow]:
    """The judge's own error for each attribute that the suite asks about or the judge was measured on."""
    record = results.judge_record
    calibration = Calibration(record, results.trusted)
    names = dict.fromkeys([*results.suite.judged, *record.attributes])
    rows = []
    for name in names:
        measured = record.attributes.get(name)
        table = (measured.reconstructions or measured.renders) if measured else None
        worst = table.worst if table else None
        people = calibration.attribute_agreement(name)
        rows.append(
            JudgeRow(
                attribute=words(name),
                values=len(table.values) if table else 0,
                renders=_table(measured.renders if measured else None),
                reconstructions=_table(measured.reconstructions if measured else None),
                people=_accuracy(*people) if people else "not labelled",
                confusion=f"{words(worst[0])} read as {words(worst[1])} ({worst[2]}×)" if worst else "none",
                used=name in results.trusted,
                why_not=_why_not(results, name),
            )
        )
    return rows


def _why_not(results: Results, attribute: str) -> str:
    if attribute in results.trusted:
        return ""
    if attribute not in results.suite.judged:
        return "the suite does not ask about it"
    accuracy = results.judge_record.accuracy(attribute)
    if accuracy is None:
        return "never measured"
    if accuracy < results.judge_record.trust_from:
        return f"below {percent(results.judge_record.trust_from)} on reconstructions"
    return "the judge cannot read it"


def limits(results: Results) -> list[Limit]:
    """What this evaluation does not show, most important first."""
    cells = [c for c in results.cells if c.language != ALL_LANGUAGES]
    found = [
        Limit(
            title="It speaks about this suite",
            text=f"{len(results.suite.prompts)} prompts, {len(results.suite.languages)} languages and these seeds."
            " Other prompts may tell another story, and no number here certifies a culture.",
        ),
        Limit(
            title="One training, one seed",
            text="Each model was trained once. A second training with another seed would differ by an amount that this"
            " report does not measure; the intervals cover the choice of prompts and pictures only.",
        ),
    ]
    if cells:
        n = min(c.n for c in cells)
        found.append(
            Limit(
                title="Small cells",
                text=f"The smallest cell has {n} pictures. Each interval holds with 95{NARROW}% probability on its own;"
                " among twenty of them, one is expected to miss.",
            )
        )
    if not results.judge_record.agreement:
        found.append(
            Limit(
                title="Nobody looked",
                text="The judge's answers on generated pictures were not compared with a person's. Its error on smeared"
                " pictures is larger than on clean ones, by an unknown amount.",
            )
        )
    found += _judge_limits(results)
    if results.left_out:
        found.append(
            Limit(
                title="Pictures missing",
                text=f"{results.left_out} scenes lack a picture of some model and were left out for all models.",
            )
        )
    return found


def _judge_limits(results: Results) -> list[Limit]:
    left_out = [words(a) for a in results.suite.judged if a not in results.trusted]
    corrected = {c.measure for c in results.cells if c.corrected}
    found = []
    if left_out:
        found.append(
            Limit(
                title="Attributes left out",
                text=f"The judge does not read these well enough for the verdict: {', '.join(left_out)}.",
            )
        )
    unsure = max((c.unsure for c in results.cells), default=0.0)
    if unsure >= 0.05:
        found.append(
            Limit(
                title="The judge could not tell",
                text=f"In one cell it was unsure about {percent(unsure)} of the pictures. Those count as neither right"
                " nor unasked-for, for every model alike.",
            )
        )
    found.append(
        Limit(
            title="A judge that errs",
            text="The judge is a network, too. Rates are corrected by its measured error"
            + (" where enough is known about it." if corrected else " only where enough is known; here, nowhere.")
            + " What it was never taught to see, it cannot report.",
        )
    )
    return found
