"""The states of a job and the moves between them: pure rules, no store."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from marsam.core.errors import Invalid, Precondition


class State(StrEnum):
    """Where a job stands. The last three are terminal; FAILED and CANCELLED may be resumed, which leads to PENDING."""

    PENDING = "PENDING"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def terminal(self) -> bool:
        """Whether nothing happens any more unless somebody resumes the job."""
        return self in (State.SUCCEEDED, State.FAILED, State.CANCELLED)


_MOVES: Mapping[State, frozenset[State]] = {
    State.PENDING: frozenset({State.STARTING, State.FAILED, State.CANCELLED}),
    State.STARTING: frozenset(
        {State.RUNNING, State.PENDING, State.CANCELLING, State.SUCCEEDED, State.FAILED, State.CANCELLED}
    ),
    State.RUNNING: frozenset({State.PENDING, State.CANCELLING, State.SUCCEEDED, State.FAILED, State.CANCELLED}),
    State.CANCELLING: frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset({State.PENDING}),
    State.CANCELLED: frozenset({State.PENDING}),
}


@dataclass(frozen=True, kw_only=True)
class Transition:
    """One entry of a job's log, self-sufficient: the last one alone says where the job stands.

    `attempt` counts starts (0 before the first) and is the fencing epoch; `owner` is who drives the job; `writer_id` is
    random, so that a writer recognises its own entry; `reason` is a stable word, `message` a sentence. An entry that
    repeats the state and attempt of the one before moves nothing: it says what a launched program waits for.
    """

    SCHEMA: ClassVar[str] = "marsam.transition/1"

    seq: int
    state: State
    attempt: int
    writer_id: str
    at: datetime
    owner: str = ""
    reason: str = ""
    message: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.seq < 1 or self.attempt < 0:
            raise Invalid(f"a transition has seq ≥ 1 and attempt ≥ 0, got {self.seq} and {self.attempt}")


def check_move(previous: Transition | None, state: State, attempt: int) -> None:
    """Accept the move from `previous` (None for a new job) to `state` in `attempt`, or say why not.

    A job begins PENDING in attempt 0. Only STARTING opens a new attempt, the next one; nothing goes back to an older.

    Raises Precondition: JOB_STATE for a move that there is not, JOB_FENCED for an attempt that is over.
    """
    if previous is None:
        if (state, attempt) != (State.PENDING, 0):
            raise Precondition(f"a job begins as PENDING in attempt 0, not as {state} in {attempt}", reason="JOB_STATE")
        return
    if attempt < previous.attempt:
        raise Precondition(
            f"attempt {attempt} is over, attempt {previous.attempt} has taken its place", reason="JOB_FENCED"
        )
    if state not in _MOVES[previous.state]:
        raise Precondition(f"a job that is {previous.state} cannot become {state}", reason="JOB_STATE")
    expected = previous.attempt + (1 if state is State.STARTING else 0)
    if attempt != expected:
        raise Precondition(f"{state} belongs to attempt {expected}, not to {attempt}", reason="JOB_STATE")
