"""What the end of an attempt means: done, try again, or over. Pure rules; the supervisor carries them out."""

from dataclasses import dataclass
from enum import Enum, auto

from marsam.launch.launcher import Cause, Exit
from marsam_trainer.run import codes


class Next(Enum):
    """What follows an attempt."""

    SUCCEED = auto()
    RETRY = auto()
    FAIL = auto()


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How an attempt ended: how its program did, whether it left a result, and what it said last.

    `silent` says that it was stopped because it gave no sign of life.
    """

    exit: Exit
    finished: bool = False
    silent: bool = False
    last_words: str = ""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What to do, and the words for the record. `counts`: whether the attempt is charged to the run's allowance."""

    next: Next
    cause: str
    message: str
    counts: bool = True


_MEMORY = "memory ran out: halve batch_size, lower resolution, use method qlora, or a machine with more"

_CODES = {
    codes.BAD_SPEC: Verdict(next=Next.FAIL, cause="BAD_SPEC", message="the run program refused the spec"),
    codes.BAD_DATA: Verdict(next=Next.FAIL, cause="BAD_DATA", message="the data cannot be trained on"),
    codes.OUT_OF_MEMORY: Verdict(next=Next.FAIL, cause="OUT_OF_MEMORY", message=_MEMORY),
    codes.NOT_FINITE: Verdict(
        next=Next.FAIL,
        cause="LOSS_NOT_FINITE",
        message="the loss was no finite number for too long: lower learning_rate, or use precision fp32",
    ),
    codes.STORE: Verdict(next=Next.RETRY, cause="STORE_FAILED", message="the store failed the run"),
    codes.INTERNAL: Verdict(next=Next.RETRY, cause="INTERNAL", message="the run program failed on a fault of its own"),
    # Stopped in good order (a preempted node, a machine shut down): nothing was wrong with the run.
    codes.STOPPED: Verdict(next=Next.RETRY, cause="STOPPED", message="stopped after a checkpoint", counts=False),
}


def judge(ending: Ending) -> Verdict:
    """The verdict on one attempt, whatever was asked of the run meanwhile."""
    exit_ = ending.exit
    if ending.finished and exit_.cause in (Cause.DONE, Cause.LOST):
        return Verdict(next=Next.SUCCEED, cause="DONE", message="")
    verdict = _verdict(ending)
    if not ending.last_words:
        return verdict
    # The program's own words are nearer to the fault than ours.
    message = f"{verdict.message}: {ending.last_words}"
    return Verdict(next=verdict.next, cause=verdict.cause, message=message, counts=verdict.counts)


def _verdict(ending: Ending) -> Verdict:
    exit_ = ending.exit
    match exit_.cause:
        case Cause.OUT_OF_MEMORY:
            return Verdict(next=Next.FAIL, cause="OUT_OF_MEMORY", message=f"the program was {exit_}; {_MEMORY}")
        case _ if ending.silent:
            return Verdict(next=Next.RETRY, cause="SILENT", message="it gave no sign of life and was stopped")
        case Cause.LOST:
            return Verdict(next=Next.RETRY, cause="LOST", message=f"the program {exit_}")
        case Cause.SIGNALLED:
            return Verdict(next=Next.RETRY, cause="KILLED", message=f"the program was {exit_}")
        case Cause.DONE:
            return Verdict(next=Next.RETRY, cause="RESULT_MISSING", message="it ended well and left no result")
        case Cause.FAILED:
            unknown = Verdict(next=Next.RETRY, cause="UNKNOWN_EXIT", message=f"the program {exit_}")
            return _CODES.get(exit_.code if exit_.code is not None else -1, unknown)
