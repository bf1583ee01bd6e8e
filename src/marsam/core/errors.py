"""Every failure that Marsam states on purpose.

An error says what went wrong (`message`), why in one stable word (`reason`), where (`field`, `resource`) and what to do
(`remedy`). Services translate it to a google.rpc.Status in one place; nothing else in the code base knows status codes.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, kw_only=True)
class Violation:
    """One fault of one field: several of them travel together in `Invalid.violations`."""

    field: str
    message: str
    reason: str


class MarsamError(Exception):
    """Base of every stated failure. `code` is the canonical status name, `reason` a stable word for programs."""

    code: ClassVar[str] = "INTERNAL"
    default_reason: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        field: str | None = None,
        resource: str | None = None,
        remedy: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.field = field
        self.resource = resource
        self.remedy = remedy
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


class Invalid(MarsamError):
    """The caller's words are wrong; the same call will never succeed. `violations` lists every fault found at once."""

    code = "INVALID_ARGUMENT"
    default_reason = "INVALID_ARGUMENT"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        field: str | None = None,
        resource: str | None = None,
        remedy: str = "",
        retry_after_s: float | None = None,
        violations: Iterable[Violation | tuple[str, str, str]] = (),
    ) -> None:
        super().__init__(
            message, reason=reason, field=field, resource=resource, remedy=remedy, retry_after_s=retry_after_s
        )
        self.violations = tuple(
            v if isinstance(v, Violation) else Violation(field=v[0], message=v[1], reason=v[2]) for v in violations
        )
        if not self.violations and field is not None:
            self.violations = (Violation(field=field, message=message, reason=self.reason),)


class Missing(MarsamError):
    """The named thing is not there."""

    code = "NOT_FOUND"
    default_reason = "NOT_FOUND"


class Exists(MarsamError):
    """The name is taken by something else."""

    code = "ALREADY_EXISTS"
    default_reason = "ALREADY_EXISTS"


class Precondition(MarsamError):
    """The system is not in the state that the call needs; an operator or another call must change that first."""

    code = "FAILED_PRECONDITION"
    default_reason = "FAILED_PRECONDITION"


class Conflict(MarsamError):
    """Somebody else wrote first: read again, decide again."""

    code = "ABORTED"
    default_reason = "ABORTED"


class Exhausted(MarsamError):
    """A limited resource (disk, memory, quota, queue) is used up."""

    code = "RESOURCE_EXHAUSTED"
    default_reason = "RESOURCE_EXHAUSTED"


class Denied(MarsamError):
    """The caller is known but may not do this."""

    code = "PERMISSION_DENIED"
    default_reason = "PERMISSION_DENIED"


class Unauthenticated(MarsamError):
    """The caller did not say who they are, or could not prove it."""

    code = "UNAUTHENTICATED"
    default_reason = "UNAUTHENTICATED"


class Unavailable(MarsamError):
    """Something this depends on did not answer; the call had no effect and may be repeated."""

    code = "UNAVAILABLE"
    default_reason = "UNAVAILABLE"


class OutcomeUnknown(MarsamError):
    """A write may or may not have happened; read back before deciding anything."""

    code = "UNAVAILABLE"
    default_reason = "OUTCOME_UNKNOWN"


class Corrupt(MarsamError):
    """Stored or received bytes are not the bytes they claim to be."""

    code = "DATA_LOSS"
    default_reason = "DATA_LOSS"


class Unsupported(MarsamError):
    """Known, but not built (yet, or for this configuration)."""

    code = "UNIMPLEMENTED"
    default_reason = "UNIMPLEMENTED"


class Cancelled(MarsamError):
    """The caller asked to stop, and it stopped."""

    code = "CANCELLED"
    default_reason = "CANCELLED"


class Deadline(MarsamError):
    """The time allowed has passed."""

    code = "DEADLINE_EXCEEDED"
    default_reason = "DEADLINE_EXCEEDED"


class Expired(MarsamError):
    """A token or range points at something that is no longer, or not yet, there."""

    code = "OUT_OF_RANGE"
    default_reason = "OUT_OF_RANGE"


class Internal(MarsamError):
    """A fault of Marsam itself."""


def nearest(name: str, known: Iterable[str], *, limit: int = 3) -> list[str]:
    """Return up to `limit` known names that resemble `name`, best first; [] when none does."""
    return difflib.get_close_matches(name, list(known), n=limit, cutoff=0.5)


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return a remedy that names what resembles `name`, or else the known names (at most eight), or ''."""
    close = nearest(name, known)
    if close:
        return "did you mean " + " or ".join(f"'{n}'" for n in close) + "?"
    if not known:
        return ""
    shown = ", ".join(sorted(known)[:8])
    return f"known: {shown}" + (f" and {len(known) - 8} more" if len(known) > 8 else "")


def unknown_name(kind: str, name: str, known: Iterable[str], *, field: str | None = None) -> Invalid:
    """Build the error for a `kind` (say 'family') called `name` that is not among `known`."""
    reason = f"UNKNOWN_{kind.upper().replace(' ', '_').replace('-', '_')}"
    return Invalid(f"unknown {kind} '{name}'", reason=reason, field=field, remedy=did_you_mean(name, sorted(known)))
