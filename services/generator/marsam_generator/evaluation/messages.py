"""Suites and evaluations on the wire."""

from collections.abc import Mapping
from typing import Any

from marsam.api.generator.v1 import evaluation_pb2
from marsam.catalog.evaluations import EvaluationSpec, SuiteVersion
from marsam.core import records
from marsam.jobs.progress import Event
from marsam.jobs.states import Transition
from marsam.rpc.wire.messages import timestamp
from marsam_generator.evaluation.suites import Suite, suite_digest


def suite_of(stored: SuiteVersion) -> Suite:
    """The suite inside its stored version."""
    return records.from_plain(Suite, dict(stored.content), what=stored.name)


def suite_message(stored: SuiteVersion) -> evaluation_pb2.Suite:
    """A registered suite on the wire."""
    suite = suite_of(stored)
    message = evaluation_pb2.Suite(
        name=stored.name,
        digest=suite_digest(suite),
        prompt_count=len(suite.prompts),
        groups=[group.name for group in suite.groups],
        languages=suite.languages,
    )
    message.create_time.FromDatetime(stored.create_time)
    return message


def evaluation_message(
    spec: EvaluationSpec, first: Transition, head: Transition, told: Mapping[str, Any]
) -> evaluation_pb2.Evaluation:
    """An evaluation on the wire. `told` is its last heartbeat."""
    message = evaluation_pb2.Evaluation(
        name=spec.name,
        spec=evaluation_pb2.EvaluationSpec(
            suite=spec.suite,
            models=spec.models,
            judge=spec.judge,
            display_name=spec.display_name,
            seed_offset=spec.seed_offset,
            languages=spec.params.get("languages", ()),
            notes=spec.notes,
        ),
        state=f"JOB_STATE_{head.state}",
        attempt=head.attempt,
        reason=head.reason,
        message=head.message,
        create_time=timestamp(first.at),
        update_time=timestamp(head.at),
        verdict=str(head.detail.get("verdict", "")),
    )
    if told:
        message.progress.CopyFrom(progress_message(told))
    return message


def progress_message(told: Mapping[str, Any]) -> evaluation_pb2.EvaluationProgress:
    """What an evaluation tells of itself; what it does not tell stays unset."""
    known = {field.name for field in evaluation_pb2.EvaluationProgress.DESCRIPTOR.fields}
    return evaluation_pb2.EvaluationProgress(**{name: value for name, value in told.items() if name in known})


def watch_message(event: Event, attempt: int) -> evaluation_pb2.WatchEvaluationResponse | None:
    """An event as a message of a watch; None for kinds that this API has no word for."""
    if event.get("kind") != "progress":
        return None
    return evaluation_pb2.WatchEvaluationResponse(progress=progress_message(event))
