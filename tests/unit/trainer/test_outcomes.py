"""The rules for the end of an attempt."""

import pytest
from marsam_trainer.outcomes import Ending, Next, judge

from marsam.launch.launcher import Cause, Exit


@pytest.mark.parametrize(
    ("ending", "follows", "cause", "counts"),
    [
        (Ending(exit=Exit(cause=Cause.DONE, code=0), finished=True), Next.SUCCEED, "DONE", True),
        # Its keeper is gone, but it had published: nothing is left to do.
        (Ending(exit=Exit(cause=Cause.LOST), finished=True), Next.SUCCEED, "DONE", True),
        (Ending(exit=Exit(cause=Cause.LOST)), Next.RETRY, "LOST", True),
        (Ending(exit=Exit(cause=Cause.DONE, code=0)), Next.RETRY, "RESULT_MISSING", True),
        (Ending(exit=Exit(cause=Cause.SIGNALLED, signal=9)), Next.RETRY, "KILLED", True),
        (Ending(exit=Exit(cause=Cause.SIGNALLED, signal=9), silent=True), Next.RETRY, "SILENT", True),
        (Ending(exit=Exit(cause=Cause.OUT_OF_MEMORY, signal=9)), Next.FAIL, "OUT_OF_MEMORY", True),
        (Ending(exit=Exit(cause=Cause.FAILED, code=64)), Next.FAIL, "BAD_SPEC", True),
        (Ending(exit=Exit(cause=Cause.FAILED, code=65)), Next.FAIL, "BAD_DATA", True),
        (Ending(exit=Exit(cause=Cause.FAILED, code=70)), Next.RETRY, "INTERNAL", True),
        (Ending(exit=Exit(cause=Cause.FAILED, code=71)), Next.FAIL, "OUT_OF_MEMORY", True),
        (Ending(exit=Exit(cause=Cause.FAILED, code=74)), Next.RETRY, "STORE_FAILED", True),
        (Ending(exit=Exit(cause=Cause.FAILED, code=75)), Next.RETRY, "STOPPED", False),
        (Ending(exit=Exit(cause=Cause.FAILED, code=76)), Next.RETRY, "RANK_LOST", True),
        (Ending(exit=Exit(cause=Cause.FAILED, code=78)), Next.FAIL, "LOSS_NOT_FINITE", True),
        (Ending(exit=Exit(cause=Cause.FAILED, code=79)), Next.FAIL, "TRAINED_NOTHING", True),
        (Ending(exit=Exit(cause=Cause.FAILED, code=80)), Next.RETRY, "PREVIEW_OUT_OF_MEMORY", False),
        (Ending(exit=Exit(cause=Cause.FAILED, code=81)), Next.RETRY, "PREVIEW_FAULT", False),
        (Ending(exit=Exit(cause=Cause.FAILED, code=3)), Next.RETRY, "UNKNOWN_EXIT", True),
    ],
)
def test_every_end_has_one_meaning(ending: Ending, follows: Next, cause: str, counts: bool) -> None:
    verdict = judge(ending)
    assert (verdict.next, verdict.cause, verdict.counts) == (follows, cause, counts)


def test_the_programs_own_words_follow_ours() -> None:
    ending = Ending(exit=Exit(cause=Cause.FAILED, code=65), last_words="cat.png cannot be decoded (leave it out)")
    assert judge(ending).message == "the data cannot be trained on: cat.png cannot be decoded (leave it out)"


RANK = "rank 1 of 2"


@pytest.mark.parametrize(
    ("exit_", "said"),
    [
        (Exit(cause=Cause.SIGNALLED, signal=9, message=f"{RANK} was ended by SIGKILL"), f"{RANK} was ended by SIGKILL"),
        (
            Exit(cause=Cause.OUT_OF_MEMORY, signal=9, message=f"{RANK} was ended by SIGKILL"),
            f"{RANK} was ended by SIGKILL; memory ran out: halve batch_size, lower resolution, use method qlora, or a "
            "machine with more",
        ),
        (
            Exit(cause=Cause.FAILED, code=65, message=f"{RANK} ended with exit code 65"),
            f"the data cannot be trained on ({RANK} ended with exit code 65)",
        ),
        (Exit(cause=Cause.FAILED, code=3, message=f"{RANK} ended with exit code 3"), f"{RANK} ended with exit code 3"),
        (
            Exit(cause=Cause.FAILED, code=76, message=f"{RANK} hung and was ended"),
            f"a process of the run was gone or hung ({RANK} hung and was ended)",
        ),
    ],
)
def test_the_rank_that_failed_is_named(exit_: Exit, said: str) -> None:
    assert judge(Ending(exit=exit_)).message == said
