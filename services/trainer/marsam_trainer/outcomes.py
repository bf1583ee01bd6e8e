"""What the end of an attempt means: done, try again, or over. Pure rules; the supervisor carries them out."""

from dataclasses import dataclass, replace
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
    codes.NO_EFFECT: Verdict(
        next=Next.FAIL,
        cause="TRAINED_NOTHING",
        message="training had no effect: raise learning_rate, or take more steps",
    ),
    # Not charged: the next attempt draws nothing, so it happens once.
    codes.PREVIEW_OUT_OF_MEMORY: Verdict(
        next=Next.RETRY,
        cause="PREVIEW_OUT_OF_MEMORY",
        message="memory ran out while a preview was drawn; the next attempt draws none",
        counts=False,
    ),
    codes.PREVIEW_FAULT: Verdict(
        next=Next.RETRY,
        cause="PREVIEW_FAULT",
        message="a fault while a preview was drawn; the next attempt draws none",
        counts=False,
    ),
    codes.STORE: Verdict(next=Next.RETRY, cause="STORE_FAILED", message="the store failed the run"),
    codes.INTERNAL: Verdict(next=Next.RETRY, cause="INTERNAL", message="the run program failed on a fault of its own"),
    codes.RANK_LOST: Verdict(next=Next.RETRY, cause="RANK_LOST", message="a process of the run was gone or hung"),
    # Stopped in good order (a preempted node, a machine shut down): nothing was wrong with the run.
    codes.STOPPED: Verdict(next=Next.RETRY, cause="STOPPED", message="stopped after a checkpoint", counts=False),
}


# Why a program never ran: what would be as wrong the next time, and what to do about it.
_HOPELESS = {
    "ADMISSION_REFUSED": "the namespace's policies must allow the pod that the profile describes",
    "IMAGE_NAME_INVALID": "correct `image` in MARSAM_KUBERNETES_FILE",
    "CONTAINER_CONFIG": "make the Secret or ConfigMap that it names",
    "PROGRAM_NOT_FOUND": "the image must hold the run program",
    "UNSCHEDULABLE": "choose another profile, or add nodes, then resume the run",
    "QUOTA_EXCEEDED": "raise the namespace's quota, or wait until others have ended, then resume the run",
}


CAUSES = (
    "DONE", "BAD_SPEC", "BAD_DATA", "OUT_OF_MEMORY", "LOSS_NOT_FINITE", "TRAINED_NOTHING", "STORE_FAILED", "INTERNAL",
    "STOPPED", "SILENT", "RANK_LOST", "LOST", "KILLED", "RESULT_MISSING", "UNKNOWN_EXIT", "DEADLINE",
    *codes.PREVIEW_REASONS,
    # what a cluster does
    "PREEMPTED", "DRAINED", "NODE_TAINTED", "NODE_LOST", "EVICTED", "OVER_LIMIT", "SUSPENDED", "DISRUPTED", "POD_GONE",
    "JOB_DELETED", "IMAGE_PULL", "CREATE_FAILED", "NODE_REFUSED", *_HOPELESS,
)  # fmt: skip
"""Every cause that a verdict may have."""


def judge(ending: Ending) -> Verdict:
    """The verdict on one attempt, whatever was asked of the run meanwhile."""
    exit_ = ending.exit
    if ending.finished and exit_.cause in (Cause.DONE, Cause.LOST, Cause.DISRUPTED, Cause.OVERDUE):
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
            message = exit_.message or f"the program was {exit_}"
            return Verdict(next=Next.FAIL, cause="OUT_OF_MEMORY", message=f"{message}; {_MEMORY}")
        case Cause.DISRUPTED:
            message = f"taken away by the cluster: {exit_}"
            return Verdict(next=Next.RETRY, cause=exit_.reason or "DISRUPTED", message=message, counts=False)
        case Cause.NOT_STARTED:
            return _not_started(exit_)
        case Cause.OVERDUE:
            return Verdict(next=Next.FAIL, cause=exit_.reason or "DEADLINE", message=f"{exit_}; choose fewer steps")
        case Cause.LOST if exit_.reason == "NODE_LOST":
            return Verdict(next=Next.RETRY, cause="NODE_LOST", message=str(exit_), counts=False)
        case _ if ending.silent:
            return Verdict(next=Next.RETRY, cause="SILENT", message="it gave no sign of life and was stopped")
        case Cause.LOST:
            message = exit_.message or f"the program {exit_}"
            return Verdict(next=Next.RETRY, cause=exit_.reason or "LOST", message=message)
        case Cause.SIGNALLED:
            message = exit_.message or f"the program was {exit_}"
            counts = exit_.reason != "STOPPED"  # by us, and nobody saw how it took it
            return Verdict(next=Next.RETRY, cause=exit_.reason or "KILLED", message=message, counts=counts)
        case Cause.DONE:
            return Verdict(next=Next.RETRY, cause="RESULT_MISSING", message="it ended well and left no result")
        case Cause.FAILED:
            known = _CODES.get(exit_.code if exit_.code is not None else -1)
            if known is None:
                message = exit_.message or f"the program {exit_}"
                return Verdict(next=Next.RETRY, cause="UNKNOWN_EXIT", message=message)
            return replace(known, message=f"{known.message} ({exit_.message})") if exit_.message else known


def _not_started(exit_: Exit) -> Verdict:
    if exit_.reason == "STOPPED":
        return Verdict(next=Next.RETRY, cause="STOPPED", message=str(exit_), counts=False)
    remedy = _HOPELESS.get(exit_.reason)
    if remedy is not None:
        return Verdict(next=Next.FAIL, cause=exit_.reason, message=f"it never ran: {exit_} ({remedy})")
    return Verdict(next=Next.RETRY, cause=exit_.reason or "NOT_STARTED", message=f"it never ran: {exit_}")
