"""Exit codes: stable, so that scripts may rely on them.

0 done · 1 Marsam's own fault · 2 wrong usage · 3 refused as invalid · 4 not found · 5 exists, or changed meanwhile ·
6 not possible in this state · 7 service not reachable · 8 out of disk, memory or quota · 9 not allowed ·
10 not built · 11 too late · 12 corrupt data · 20 the job failed · 21 the job was cancelled · 130 interrupted
"""

from marsam.core import errors
from marsam.core.errors import MarsamError

OK = 0
BUG = 1
USAGE = 2
JOB_FAILED = 20
JOB_CANCELLED = 21
INTERRUPTED = 130

_CODES: dict[type[MarsamError], int] = {
    errors.Invalid: 3,
    errors.Missing: 4,
    errors.Exists: 5,
    errors.Conflict: 5,
    errors.Precondition: 6,
    errors.Unavailable: 7,
    errors.OutcomeUnknown: 7,
    errors.Exhausted: 8,
    errors.Denied: 9,
    errors.Unauthenticated: 9,
    errors.Unsupported: 10,
    errors.Deadline: 11,
    errors.Expired: 11,
    errors.Corrupt: 12,
    errors.Cancelled: JOB_CANCELLED,
}


def code_for(error: MarsamError) -> int:
    """The exit code of an error."""
    return _CODES.get(type(error), BUG)
