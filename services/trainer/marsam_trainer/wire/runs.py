"""Runs, and what they tell."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from marsam.api.common.v1 import common_pb2
from marsam.api.trainer.v1 import trainer_pb2
from marsam.core.clock import parse_time
from marsam.jobs.states import Transition
from marsam.rpc.wire.messages import timestamp
from marsam_trainer.runs import RunView
from marsam_trainer.wire.models import acceptance_message
from marsam_trainer.wire.orders import spec_message


def run_message(view: RunView, *, queue_position: int) -> trainer_pb2.Run:
    """A run."""
    head = view.head
    message = trainer_pb2.Run(
        name=view.spec.name,
        spec=spec_message(view.spec),
        state=f"JOB_STATE_{head.state}",
        attempt=head.attempt,
        reason=head.reason,
        message=head.message,
        create_time=timestamp(view.history[0].at),
        update_time=timestamp(head.at),
        model=view.model,
        history=[transition_message(entry) for entry in view.history],
        queue_position=queue_position,
    )
    if view.spec.accepted is not None:
        message.licence_acceptance.CopyFrom(acceptance_message(view.spec.accepted))
    if view.progress:
        message.progress.CopyFrom(progress_message(view.progress))
    return message


def transition_message(entry: Transition) -> common_pb2.Transition:
    """One line of a run's log."""
    return common_pb2.Transition(
        sequence=entry.seq,
        state=f"JOB_STATE_{entry.state}",
        attempt=entry.attempt,
        reason=entry.reason,
        message=entry.message,
        time=timestamp(entry.at),
    )


def progress_message(told: Mapping[str, Any]) -> trainer_pb2.Progress:
    """What a run tells of itself; what it does not tell stays unset."""
    known = {field.name for field in trainer_pb2.Progress.DESCRIPTOR.fields} - {"time"}
    message = trainer_pb2.Progress(**{name: value for name, value in told.items() if name in known})
    if isinstance(told.get("at"), str):
        message.time.CopyFrom(timestamp(parse_time(told["at"])))
    return message


def file_messages(told: object) -> list[common_pb2.FileRef]:
    """Files as an event names them: mappings with the fields of `FileRef`; anything else is left out."""
    found: Iterable[Any] = told if isinstance(told, Sequence) else ()
    return [
        common_pb2.FileRef(path=f["path"], digest=f["digest"], size_bytes=f["size"], media_type=f.get("media_type", ""))
        for f in found
        if isinstance(f, Mapping) and {"path", "digest", "size"} <= set(f)
    ]
