"""Evaluations: a suite through several models, read by a judge, told in a report."""

from collections.abc import AsyncIterator, Sequence

import grpc.aio

from marsam.api.generator.v1 import evaluation_pb2, evaluation_pb2_grpc
from marsam.client.connection import SLOW_SECONDS, resumed, stream, unary
from marsam.client.naming import qualify
from marsam.client.paging import PAGE, every
from marsam.client.states import is_final
from marsam.core.errors import unknown_name
from marsam.core.ids import new_ulid

_FORMATS = {"html": evaluation_pb2.REPORT_FORMAT_HTML, "json": evaluation_pb2.REPORT_FORMAT_JSON}


class Evaluations:
    """Names may be short (`hayy/v1` for a suite, `hayy-base` for a model) or full."""

    def __init__(self, channel: grpc.aio.Channel, *, project: str) -> None:
        self._stub = evaluation_pb2_grpc.EvaluationServiceStub(channel)
        self._project = project

    async def register_suite(self, suite_json: bytes) -> evaluation_pb2.Suite:
        """Records a suite (schema `marsam.suite/1`); the same bytes again give the same suite."""
        request = evaluation_pb2.RegisterSuiteRequest(parent=f"projects/{self._project}", suite_json=suite_json)
        return (await unary(self._stub.RegisterSuite, request)).suite

    async def suites(self) -> Sequence[evaluation_pb2.Suite]:
        """Every suite of the project."""
        request = evaluation_pb2.ListSuitesRequest(parent=f"projects/{self._project}", page_size=PAGE)
        return await every(self._stub.ListSuites, request, lambda answer: answer.suites)

    async def create(
        self,
        *,
        suite: str,
        models: Sequence[str],
        judge: str,
        languages: Sequence[str] = (),
        seed_offset: int = 0,
        display_name: str = "",
        notes: Sequence[str] = (),
        request_id: str | None = None,
    ) -> evaluation_pb2.Evaluation:
        """Records an evaluation of `models`, the baseline first; it starts when its turn comes.

        `notes` are paragraphs for the reader of the report.
        """
        spec = evaluation_pb2.EvaluationSpec(
            suite=qualify("suite_version", suite, project=self._project, field="suite"),
            models=[qualify("model", model, project=self._project, field="models") for model in models],
            judge=qualify("model", judge, project=self._project, field="judge"),
            display_name=display_name,
            seed_offset=seed_offset,
            languages=languages,
            notes=notes,
        )
        request = evaluation_pb2.CreateEvaluationRequest(
            parent=f"projects/{self._project}", spec=spec, request_id=request_id or new_ulid()
        )
        return (await unary(self._stub.CreateEvaluation, request, seconds=SLOW_SECONDS)).evaluation

    async def get(self, evaluation: str) -> evaluation_pb2.Evaluation:
        """One evaluation. Raises Missing."""
        request = evaluation_pb2.GetEvaluationRequest(name=self._name(evaluation))
        return (await unary(self._stub.GetEvaluation, request)).evaluation

    async def list(self) -> Sequence[evaluation_pb2.Evaluation]:
        """The project's evaluations."""
        request = evaluation_pb2.ListEvaluationsRequest(parent=f"projects/{self._project}", page_size=PAGE)
        return await every(self._stub.ListEvaluations, request, lambda answer: answer.evaluations)

    async def watch(self, evaluation: str) -> AsyncIterator[evaluation_pb2.WatchEvaluationResponse]:
        """A snapshot, then all that happened and each change, until it has ended. Survives a restart of the service."""
        name = self._name(evaluation)
        messages = resumed(
            self._stub.WatchEvaluation,
            lambda token: evaluation_pb2.WatchEvaluationRequest(name=name, resume_token=token),
            final=lambda message: message.HasField("snapshot") and is_final(message.snapshot.state),
        )
        async for message in messages:
            if not message.HasField("bookmark"):
                yield message

    async def cancel(self, evaluation: str) -> evaluation_pb2.Evaluation:
        """Asks an evaluation to stop."""
        request = evaluation_pb2.CancelEvaluationRequest(name=self._name(evaluation))
        return (await unary(self._stub.CancelEvaluation, request)).evaluation

    async def read_report(self, evaluation: str, *, format: str = "html") -> bytes:
        """The report of a finished evaluation: one self-contained HTML page, or the numbers as JSON."""
        if format not in _FORMATS:
            raise unknown_name("report format", format, _FORMATS, field="format")
        request = evaluation_pb2.ReadReportRequest(name=self._name(evaluation), format=_FORMATS[format])
        return b"".join([message.chunk async for message in stream(self._stub.ReadReport, request)])

    async def vote(
        self, evaluation: str, *, prompt_id: str, preference: str, voter: str = "", reason: str = ""
    ) -> None:
        """Records a person's preference between two pictures: first, second, tie or neither."""
        known = {
            value.name.removeprefix("PREFERENCE_").lower(): value.number
            for value in evaluation_pb2.Preference.DESCRIPTOR.values
            if value.number
        }
        if preference not in known:
            raise unknown_name("preference", preference, known, field="preference")
        request = evaluation_pb2.CastVoteRequest(
            evaluation=self._name(evaluation),
            prompt_id=prompt_id,
            preference=known[preference],  # type: ignore[arg-type]  # the stub wants the enum's own int type
            voter=voter,
            reason=reason,
        )
        await unary(self._stub.CastVote, request)

    def _name(self, evaluation: str) -> str:
        return qualify("evaluation", evaluation, project=self._project, field="evaluation")
