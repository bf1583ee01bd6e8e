"""The gRPC edge of EvaluationService: messages in, messages out."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import grpc.aio
from google.protobuf import json_format

from marsam.api.generator.v1 import evaluation_pb2, evaluation_pb2_grpc
from marsam.catalog.aliases import resolve
from marsam.catalog.evaluations import EvaluationSpec, SuiteVersion
from marsam.catalog.repository import list_suites, load_suite, save_suite
from marsam.core import records
from marsam.core.clock import Clock
from marsam.core.errors import Exists, Precondition, Unsupported
from marsam.core.names import format_name, parse
from marsam.jobs.cancel import ask_to_cancel
from marsam.jobs.index import Index
from marsam.jobs.progress import read_heartbeat
from marsam.jobs.states import State
from marsam.jobs.store import JobStore
from marsam.rpc.server import current_principal
from marsam.rpc.server.paging import page
from marsam.rpc.server.watching import Telling, told
from marsam.store.blobs import Blobs
from marsam.store.content import stream_blob
from marsam.telemetry import Meter
from marsam_generator.evaluation.messages import evaluation_message, suite_message, suite_of, watch_message
from marsam_generator.evaluation.sources import load_assignment
from marsam_generator.evaluation.suites import parse_suite, suite_digest

_REPORTS: Mapping[int, str] = {
    evaluation_pb2.REPORT_FORMAT_HTML: "report",
    evaluation_pb2.REPORT_FORMAT_JSON: "results",
}


class EvaluationServicer(evaluation_pb2_grpc.EvaluationServiceServicer):
    """See the .proto for what each method promises. `address()` is where an evaluation reaches the generator."""

    def __init__(
        self,
        blobs: Blobs,
        *,
        clock: Clock,
        meter: Meter,
        wake: Callable[[], None],
        address: Callable[[], str],
        draining: asyncio.Event,
    ) -> None:
        self._blobs = blobs
        self._clock = clock
        self._meter = meter
        self._wake = wake
        self._address = address
        self._draining = draining
        self._indexes: dict[str, Index] = {}

    async def RegisterSuite(
        self, request: evaluation_pb2.RegisterSuiteRequest, context: grpc.aio.ServicerContext
    ) -> evaluation_pb2.RegisterSuiteResponse:
        project = parse(request.parent, "project", field="parent").project
        suite = parse_suite(request.suite_json)
        stored = SuiteVersion(
            name=format_name("suite_version", project, suite.name, suite.version),
            create_time=self._clock.now(),
            content=records.to_plain(suite),
            display_name=suite.title.get("en", ""),
        )
        try:
            await save_suite(self._blobs, stored)
        except Exists:
            there = await load_suite(self._blobs, stored.name)
            if suite_digest(suite_of(there)) != suite_digest(suite):
                raise
            stored = there
        return evaluation_pb2.RegisterSuiteResponse(suite=suite_message(stored))

    async def ListSuites(
        self, request: evaluation_pb2.ListSuitesRequest, context: grpc.aio.ServicerContext
    ) -> evaluation_pb2.ListSuitesResponse:
        project = parse(request.parent, "project", field="parent").project
        found = await list_suites(self._blobs, project)
        asked = page(size=request.page_size, token=request.page_token, question=("ListSuites", request.parent))
        shown, token = asked.of(found, suite_message, ids=[suite.name for suite in found])
        return evaluation_pb2.ListSuitesResponse(suites=shown, next_page_token=token)

    async def CreateEvaluation(
        self, request: evaluation_pb2.CreateEvaluationRequest, context: grpc.aio.ServicerContext
    ) -> evaluation_pb2.CreateEvaluationResponse:
        project = parse(request.parent, "project", field="parent").project
        asked, jobs = request.spec, self._jobs(project)
        content = records.canonical(json_format.MessageToDict(asked))
        # Asked first: what it names may be gone when it comes again.
        if (known := await jobs.known(request=content, request_id=request.request_id)) is not None:
            self._wake()
            return evaluation_pb2.CreateEvaluationResponse(evaluation=await self._evaluation(project, known))
        models = [(await resolve(self._blobs, name)).name for name in asked.models]
        judge = (await resolve(self._blobs, asked.judge)).name

        def spec_for(job_id: str) -> EvaluationSpec:
            return EvaluationSpec(
                name=format_name("evaluation", project, job_id),
                suite=asked.suite,
                models=tuple(models),
                judge=judge,
                generator_target=self._address(),
                seed_offset=asked.seed_offset,
                display_name=asked.display_name,
                notes=tuple(asked.notes),
                params={"languages": list(asked.languages)},
            )

        # Whatever the program would refuse is refused now, while somebody is there to hear it.
        await load_assignment(self._blobs, spec_for("0" * 26))
        job_id, _ = await jobs.create(
            request=content,
            request_id=request.request_id,
            spec_for=lambda job_id: records.dump(spec_for(job_id)),
        )
        self._wake()
        return evaluation_pb2.CreateEvaluationResponse(evaluation=await self._evaluation(project, job_id))

    async def GetEvaluation(
        self, request: evaluation_pb2.GetEvaluationRequest, context: grpc.aio.ServicerContext
    ) -> evaluation_pb2.GetEvaluationResponse:
        name = parse(request.name, "evaluation")
        return evaluation_pb2.GetEvaluationResponse(evaluation=await self._evaluation(name.project, name.id))

    async def ListEvaluations(
        self, request: evaluation_pb2.ListEvaluationsRequest, context: grpc.aio.ServicerContext
    ) -> evaluation_pb2.ListEvaluationsResponse:
        project = parse(request.parent, "project", field="parent").project
        index = self._indexes.setdefault(project, Index(self._jobs(project)))
        await index.refresh()
        rows, _ = index.page()
        asked = page(size=request.page_size, token=request.page_token, question=("ListEvaluations", request.parent))
        ids, token = asked.cut([row.job_id for row in rows], descending=True)
        found = [await self._evaluation(project, job_id) for job_id in ids]
        fitting, token = asked.fit(found, ids, token)
        return evaluation_pb2.ListEvaluationsResponse(evaluations=fitting, next_page_token=token)

    async def WatchEvaluation(
        self, request: evaluation_pb2.WatchEvaluationRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[evaluation_pb2.WatchEvaluationResponse]:
        name = parse(request.name, "evaluation")
        telling = Telling(
            message=evaluation_pb2.WatchEvaluationResponse,
            snapshot=lambda: self._standing(name.project, name.id),
            event=watch_message,
        )
        jobs = self._jobs(name.project)
        async for message in told(jobs, name.id, telling, token=request.resume_token, stop=self._draining):
            yield message

    async def CancelEvaluation(
        self, request: evaluation_pb2.CancelEvaluationRequest, context: grpc.aio.ServicerContext
    ) -> evaluation_pb2.CancelEvaluationResponse:
        name = parse(request.name, "evaluation")
        await ask_to_cancel(self._jobs(name.project), name.id, message=f"asked by {current_principal().name}")
        self._wake()
        return evaluation_pb2.CancelEvaluationResponse(evaluation=await self._evaluation(name.project, name.id))

    async def ReadReport(
        self, request: evaluation_pb2.ReadReportRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[evaluation_pb2.ReadReportResponse]:
        name = parse(request.name, "evaluation")
        head = await self._jobs(name.project).head(name.id)
        blob = head.detail.get(_REPORTS[request.format])
        if head.state is not State.SUCCEEDED or not isinstance(blob, Mapping):
            raise Precondition(
                f"{request.name} has no report: it is {head.state}",
                reason="REPORT_NOT_READY",
                resource=request.name,
                remedy="wait until it has succeeded",
            )
        async for chunk in stream_blob(self._blobs, name.project, str(blob["digest"])):
            yield evaluation_pb2.ReadReportResponse(chunk=chunk)

    async def CastVote(
        self, request: evaluation_pb2.CastVoteRequest, context: grpc.aio.ServicerContext
    ) -> evaluation_pb2.CastVoteResponse:
        raise Unsupported(
            "votes of people are not built yet: the verdict rests on the judge alone",
            reason="VOTES_UNSUPPORTED",
            remedy="label generated pictures by hand and keep them in the judge's record as its agreement",
        )

    def _jobs(self, project: str) -> JobStore:
        return JobStore(self._blobs, project, "evaluations", self._clock, meter=self._meter)

    async def _evaluation(self, project: str, job_id: str) -> evaluation_pb2.Evaluation:
        return (await self._standing(project, job_id))[0]

    async def _standing(self, project: str, job_id: str) -> tuple[evaluation_pb2.Evaluation, int]:
        """An evaluation, and the number of the transition where it stands."""
        jobs = self._jobs(project)
        history = await jobs.history(job_id)
        spec = records.load(EvaluationSpec, await jobs.spec(job_id), what=job_id)
        beat = await read_heartbeat(jobs, job_id, history[-1].attempt) if history[-1].attempt else None
        return evaluation_message(spec, history[0], history[-1], beat.payload if beat else {}), history[-1].seq
