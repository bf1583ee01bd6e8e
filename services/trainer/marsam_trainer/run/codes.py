"""How the run program ends: the codes that the trainer reads, and which error leads to which."""

import asyncio

from marsam.core.errors import (
    Conflict,
    Corrupt,
    Deadline,
    Denied,
    Exhausted,
    Exists,
    Invalid,
    MarsamError,
    Missing,
    OutcomeUnknown,
    Precondition,
    Unauthenticated,
    Unavailable,
    Unsupported,
)
from marsam.launch.launcher import ECHO

DONE = 0
BAD_SPEC = 64
BAD_DATA = 65
INTERNAL = 70
OUT_OF_MEMORY = 71
STORE = 74
STOPPED = 75
RANK_LOST = ECHO  # of several processes another one is gone, or does not answer
NOT_FINITE = 78
NO_EFFECT = 79
PREVIEW_OUT_OF_MEMORY = 80  # inside of a model that ranks hold in parts, which no rank comes out of alone
PREVIEW_FAULT = 81  # the same for any other fault there

NOT_FINITE_REASON = "LOSS_NOT_FINITE"
RANK_LOST_REASON = "RANK_LOST"
TRAINED_NOTHING_REASON = "TRAINED_NOTHING"
PREVIEW_REASONS = {"PREVIEW_OUT_OF_MEMORY": PREVIEW_OUT_OF_MEMORY, "PREVIEW_FAULT": PREVIEW_FAULT}
"""Causes of attempts that ended in a preview: the next one draws none."""

_BY_REASON = {
    NOT_FINITE_REASON: NOT_FINITE,
    RANK_LOST_REASON: RANK_LOST,
    TRAINED_NOTHING_REASON: NO_EFFECT,
    **PREVIEW_REASONS,
}


def code_of(error: BaseException) -> int:
    """The exit code that says what `error` was."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return OUT_OF_MEMORY
    if isinstance(error, MarsamError) and error.reason in _BY_REASON:
        return _BY_REASON[error.reason]
    if isinstance(error, Corrupt):
        return BAD_DATA
    if isinstance(error, Invalid | Missing | Exists | Unsupported):
        return BAD_SPEC
    store = Unavailable | OutcomeUnknown | Exhausted | Denied | Unauthenticated | Deadline | Precondition | Conflict
    if isinstance(error, store | OSError | asyncio.TimeoutError):
        return STORE
    return INTERNAL
