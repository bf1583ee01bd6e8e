"""How the evaluation program ends: its exit codes, and which error leads to which."""

from marsam.core.errors import Corrupt, Exists, Invalid, MarsamError, Missing, Precondition, Unsupported

DONE = 0
BAD_SPEC = 64
BAD_DATA = 65
INTERNAL = 70
UNAVAILABLE = 74
STOPPED = 75


def code_of(error: BaseException) -> int:
    """The exit code that says what `error` was: BAD_* will fail again, the others may not."""
    if isinstance(error, Corrupt):
        return BAD_DATA
    if isinstance(error, Invalid | Missing | Exists | Unsupported | Precondition):
        return BAD_SPEC
    if isinstance(error, MarsamError | OSError | TimeoutError):
        return UNAVAILABLE
    return INTERNAL
