"""What the trainer makes of the ends that only a cluster has, and that its page says the same."""

import re
import sys
from pathlib import Path

import pytest
from marsam_trainer.ground import opened
from marsam_trainer.outcomes import CAUSES, Ending, Next, judge
from marsam_trainer.settings import TrainerSettings

from marsam.core.errors import Invalid
from marsam.launch.launcher import Cause, Exit

PAGE = Path(__file__).resolve().parents[3] / "docs" / "kubernetes.md"


@pytest.mark.parametrize(
    ("cause", "reason", "next_", "counts"),
    [
        (Cause.DISRUPTED, "PREEMPTED", Next.RETRY, False),
        (Cause.DISRUPTED, "DRAINED", Next.RETRY, False),
        (Cause.DISRUPTED, "NODE_TAINTED", Next.RETRY, False),
        (Cause.DISRUPTED, "EVICTED", Next.RETRY, False),
        (Cause.DISRUPTED, "SUSPENDED", Next.RETRY, False),
        (Cause.LOST, "NODE_LOST", Next.RETRY, False),
        (Cause.LOST, "POD_GONE", Next.RETRY, True),
        (Cause.LOST, "JOB_DELETED", Next.RETRY, True),
        (Cause.SIGNALLED, "OVER_LIMIT", Next.RETRY, True),
        (Cause.SIGNALLED, "STOPPED", Next.RETRY, False),
        (Cause.NOT_STARTED, "IMAGE_PULL", Next.RETRY, True),
        (Cause.NOT_STARTED, "CREATE_FAILED", Next.RETRY, True),
        (Cause.NOT_STARTED, "NODE_REFUSED", Next.RETRY, True),
        (Cause.NOT_STARTED, "STOPPED", Next.RETRY, False),
        (Cause.NOT_STARTED, "ADMISSION_REFUSED", Next.FAIL, True),
        (Cause.NOT_STARTED, "IMAGE_NAME_INVALID", Next.FAIL, True),
        (Cause.NOT_STARTED, "CONTAINER_CONFIG", Next.FAIL, True),
        (Cause.NOT_STARTED, "PROGRAM_NOT_FOUND", Next.FAIL, True),
        (Cause.NOT_STARTED, "UNSCHEDULABLE", Next.FAIL, True),
        (Cause.NOT_STARTED, "QUOTA_EXCEEDED", Next.FAIL, True),
        (Cause.OVERDUE, "DEADLINE", Next.FAIL, True),
    ],
)
def test_each_end_has_its_rule(cause: Cause, reason: str, next_: Next, counts: bool) -> None:
    verdict = judge(Ending(exit=Exit(cause=cause, reason=reason, message="so it says")))
    assert (verdict.next, verdict.cause, verdict.counts) == (next_, reason, counts)
    assert "so it says" in verdict.message
    assert reason in CAUSES
    assert reason in PAGE.read_text()


def test_a_node_that_went_silent_is_not_charged_as_silence() -> None:
    verdict = judge(Ending(exit=Exit(cause=Cause.LOST, reason="NODE_LOST", message="gone"), silent=True))
    assert (verdict.cause, verdict.counts) == ("NODE_LOST", False)


@pytest.mark.parametrize("cause", [Cause.DISRUPTED, Cause.OVERDUE, Cause.LOST])
def test_what_was_finished_before_it_was_taken_is_done(cause: Cause) -> None:
    assert judge(Ending(exit=Exit(cause=cause), finished=True)).next is Next.SUCCEED


def test_the_page_names_only_causes_that_there_are() -> None:
    section = PAGE.read_text().partition("How an attempt ended")[2].partition("## Rights")[0]
    named = {word for row in re.findall(r"^\| ([A-Z_, ]+) \|", section, re.M) for word in row.split(", ")}
    assert len(named) > 20
    assert named - {"KUBERNETES_DENIED", "JOB_INVALID", "UNKNOWN_PROFILE"} <= set(CAUSES)


def test_settings_of_a_cluster_need_its_file(tmp_path: Path) -> None:
    file = tmp_path / "kubernetes.yaml"
    for settings, reason in (
        ({"launcher": "kubernets"}, "UNKNOWN_LAUNCHER"),
        ({"launcher": "kubernetes"}, "SETTING_MISSING"),
        ({"launcher": "kubernetes", "kubernetes_file": file}, "KUBERNETES_FILE"),
    ):
        with pytest.raises(Invalid) as caught:
            TrainerSettings(store="/s", **settings)  # type: ignore[arg-type]
        assert caught.value.reason == reason
    file.write_text("{namespace: a, image: b, profiles: {cpu: {}}}")
    made = TrainerSettings(store="/s", launcher="kubernetes", kubernetes_file=file)
    assert made.cluster_file().default_name == "cpu"


async def test_a_trainer_without_the_client_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "kubernetes.yaml"
    file.write_text("{namespace: a, image: b, profiles: {cpu: {}}}")
    settings = TrainerSettings(store="/s", launcher="kubernetes", kubernetes_file=file)
    for name in [name for name in sys.modules if name.startswith(("kubernetes", "marsam.launch.kubernetes"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(Invalid) as caught:
        async with opened(settings, owner="me", folder=tmp_path):
            pass
    assert (caught.value.reason, caught.value.remedy) == ("CLIENT_MISSING", "pip install 'marsam[kubernetes]'")
