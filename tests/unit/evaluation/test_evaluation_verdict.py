"""What a verdict may say, by the intervals it has."""

import dataclasses

import pytest
from marsam_generator.evaluation.phrases import sentence
from marsam_generator.evaluation.results import Results
from marsam_generator.evaluation.scoring import AS_ASKED
from marsam_generator.evaluation.statistics import Interval
from marsam_generator.evaluation.verdict import keeping_outcome, learning_outcome

from marsam.core import records
from tests.unit.evaluation.synthetic import BASE, FORGETFUL, TUNED, results, suite


@pytest.mark.parametrize(
    ("low", "high", "wanted", "outcome"),
    [
        (0.02, 0.3, True, "better"),
        (-0.3, -0.02, True, "worse"),
        (-0.3, -0.02, False, "better"),
        (-0.2, 0.1, True, "unclear"),
        (-0.05, 0.06, True, "same"),
    ],
)
def test_learning(low: float, high: float, wanted: bool, outcome: str) -> None:
    assert learning_outcome(Interval(low=low, high=high), wanted=wanted) == outcome


@pytest.mark.parametrize(
    ("low", "high", "wanted", "outcome"),
    [
        (-0.08, 0.05, True, "kept"),
        (-0.08, -0.01, True, "kept"),  # a small sure loss within the margin
        (-0.30, -0.04, True, "lost"),
        (-0.30, 0.04, True, "unclear"),
        (-0.04, 0.08, False, "kept"),
        (0.04, 0.30, False, "lost"),
    ],
)
def test_keeping(low: float, high: float, wanted: bool, outcome: str) -> None:
    assert keeping_outcome(Interval(low=low, high=high), wanted=wanted) == outcome


def test_a_model_that_learned_and_kept() -> None:
    found, _ = results(BASE, TUNED)
    assert found.verdict.status == "improved"
    english = found.verdict.sentence["en"]
    assert english.startswith("Tuning worked: on roles it was never tuned on, ")
    assert "pictures with a keffiyeh or a desert nobody asked for fell from" in english
    assert english.endswith("nothing that was to be kept was lost.")
    assert found.verdict.sentence["ar"].startswith("نجح الضبط: ")
    assert "ولم يُفقد شيء مما وجب حفظه" in found.verdict.sentence["ar"]


def test_a_model_that_learned_and_forgot_says_what_it_lost() -> None:
    found, _ = results(BASE, FORGETFUL)
    assert found.verdict.status == "improved_with_loss"
    english = found.verdict.sentence["en"]
    assert english.startswith("Tuning worked, at a price: ")
    assert "but “People of other places” (" in english
    assert "“Where a keffiyeh is asked for” (" in english
    assert english.endswith("as asked) got worse.")


@pytest.mark.parametrize(
    ("lost", "english", "arabic"),
    [
        (("en",), "” in English (98\u202f% to 81\u202f% as asked)", "» باللغة الإنجليزية (من 98٪ إلى 81٪"),
        (("ar",), "” in Arabic (98\u202f% to 81\u202f% as asked)", "» باللغة العربية (من 98٪ إلى 81٪"),
        (("en", ""), "” (98\u202f% to 81\u202f% as asked)", "» (من 98٪ إلى 81٪"),
    ],
)
def test_a_loss_in_one_language_names_it(lost: tuple[str, ...], english: str, arabic: str) -> None:
    found, _ = results(BASE, TUNED)
    findings = [
        dataclasses.replace(finding, outcome="lost", before=0.98, after=0.81)
        if (finding.group, finding.measure) == ("other_demonyms", AS_ASKED) and finding.language in lost
        else finding
        for finding in found.verdict.findings
    ]
    for language, said in (("en", english), ("ar", arabic)):
        text = sentence(suite(), (), findings, status="improved_with_loss", language=language, of=1, name="")
        assert said in text


def test_a_model_that_changed_nothing_did_not_work() -> None:
    found, _ = results(BASE, BASE, labelled=False)
    assert found.verdict.status in ("failed", "unclear")
    assert "worked:" not in found.verdict.sentence["en"].split("whether")[0]
    assert "0\u202f%" in found.verdict.sentence["en"]


def test_a_model_that_learned_only_what_it_was_shown_worked_in_part() -> None:
    found, _ = results(BASE, {**TUNED, "unseen_roles": 0.03})
    assert found.verdict.status == "partly"
    assert found.verdict.sentence["en"].startswith("Tuning worked in part: on roles it was tuned on, ")
    # What was named once is not named again.
    assert "on roles it was never tuned on, the former " in found.verdict.sentence["en"]
    assert found.verdict.sentence["en"].count("a keffiyeh or a desert") == 1
    assert "الأولى" in found.verdict.sentence["ar"] and "الثانية" in found.verdict.sentence["ar"]


def test_the_best_of_several_is_named() -> None:
    found, _ = results(BASE, FORGETFUL, TUNED)
    assert found.verdict.model == 2
    assert found.verdict.statuses == ("baseline", "improved_with_loss", "improved")
    assert found.verdict.sentence["en"].startswith("Of 2 tuned models, balanced-qlora did best: ")
    assert "balanced-qlora" in found.verdict.sentence["ar"]


def test_learning_more_by_forgetting_more_is_not_best() -> None:
    eraser = {**FORGETFUL, "unseen_roles": 0.75}
    gentle = {**TUNED, "unseen_roles": 0.5, "asked_keffiyeh": 0.6}
    found, _ = results(BASE, eraser, gentle)
    assert found.verdict.statuses[1:] == ("improved_with_loss", "improved_with_loss")
    assert found.verdict.model == 2


def test_a_baseline_alone_gets_numbers_and_no_verdict() -> None:
    found, _ = results(BASE)
    assert (found.verdict.status, found.changes) == ("baseline", ())
    assert len(found.cells) > 0


def test_results_survive_the_store() -> None:
    found, _ = results(BASE, TUNED)
    assert records.load(Results, records.dump(found)) == found
    again, _ = results(BASE, TUNED)
    assert records.dump(again) == records.dump(found)  # the bootstrap is seeded
