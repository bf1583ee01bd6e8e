"""What a caller sees when a call fails, through a real server."""

import io
import json

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

from marsam.api.dataset.v1 import dataset_pb2, dataset_pb2_grpc
from marsam.core import errors
from marsam.core.errors import Invalid, MarsamError
from marsam.rpc.wire import channel, error_of
from marsam.telemetry import configure
from tests.integration.rpc.support import Served

NAME = "projects/default/datasets/hayy"
EVERY = [
    errors.Invalid("steps must be ≥ 1, got 0", field="spec.steps", reason="STEPS_OUT_OF_RANGE", remedy="ask for 1"),
    errors.Missing("no dataset", resource=NAME, remedy="did you mean 'hayy'?"),
    errors.Exists("taken", resource=NAME),
    errors.Precondition("disk is full", reason="STORE_FULL"),
    errors.Conflict("somebody was faster"),
    errors.Exhausted("queue is full", resource="projects/default", retry_after_s=2.5),
    errors.Denied("no"),
    errors.Unauthenticated("who?"),
    errors.Unavailable("store is away", retry_after_s=1.0),
    errors.OutcomeUnknown("the write may have happened"),
    errors.Corrupt("digest differs"),
    errors.Unsupported("not yet", reason="S3_LATER"),
    errors.Cancelled("stopped"),
    errors.Deadline("too late"),
    errors.Expired("token is old", reason="RESUME_TOKEN_EXPIRED"),
    errors.Internal("a fault", reason="MADE_UP"),
]


async def fail_with(served: Served, error: Exception, target: str | None = None) -> grpc.aio.AioRpcError:
    async def get(request: object, context: object) -> object:
        raise error

    served.datasets.get = get
    # Without our channel's retries, so that UNAVAILABLE comes back at once.
    async with grpc.aio.insecure_channel(served.target) as plain:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await dataset_pb2_grpc.DatasetServiceStub(plain).GetDataset(
                dataset_pb2.GetDatasetRequest(name=NAME), timeout=5, metadata=(("x-request-id", "abc-1"),)
            )
    return caught.value


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
async def test_every_error_comes_back_as_itself(served: Served, error: MarsamError) -> None:
    failure = await fail_with(served, error)
    assert failure.code() is grpc.StatusCode[error.code]
    back = error_of(failure)
    assert type(back) is type(error)
    assert vars(back) == vars(error)


async def test_standard_details_for_foreign_clients(served: Served) -> None:
    failure = await fail_with(served, EVERY[5])
    raw = dict(failure.trailing_metadata() or ())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(raw)
    kinds = {packed.TypeName(): packed for packed in status.details}
    assert set(kinds) == {
        "google.rpc.ErrorInfo",
        "google.rpc.ResourceInfo",
        "google.rpc.QuotaFailure",
        "google.rpc.RetryInfo",
    }
    info = error_details_pb2.ErrorInfo()
    kinds["google.rpc.ErrorInfo"].Unpack(info)
    assert (info.domain, info.reason) == ("marsam", "RESOURCE_EXHAUSTED")
    quota = error_details_pb2.QuotaFailure()
    kinds["google.rpc.QuotaFailure"].Unpack(quota)
    assert quota.violations[0].subject == "projects/default"


async def test_a_bug_is_internal_and_keeps_its_text(served: Served) -> None:
    log = io.StringIO()
    configure(service="test", stream=log)
    failure = await fail_with(served, RuntimeError("password is 1234"))
    assert failure.code() is grpc.StatusCode.INTERNAL
    assert "1234" not in (failure.details() or "")
    assert "abc-1" in (failure.details() or "")
    assert dict(failure.trailing_metadata() or ())["x-request-id"] == "abc-1"
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    bug = next(line for line in lines if line["event"] == "rpc.bug")
    assert "password is 1234" in bug["exception"]
    assert bug["request_id"] == "abc-1"
    access = next(line for line in lines if line["event"] == "rpc")
    assert (access["code"], access["level"], access["request_id"]) == ("INTERNAL", "warning", "abc-1")


async def test_many_long_violations_fit_in_the_metadata(served: Served) -> None:
    violations = [(f"spec.field_{i}", "قيمة غير صالحة " * 40, "BAD") for i in range(200)]
    failure = await fail_with(served, Invalid("ارفض " * 400, violations=violations, remedy="صحّح " * 400))
    back = error_of(failure)
    assert isinstance(back, Invalid)
    assert 5 <= len(back.violations) <= 25
    assert back.violations[0].field == "spec.field_0"
    assert back.message.startswith("ارفض")
    assert back.message.endswith("…")


async def test_validation_names_every_field_at_once(served: Served) -> None:
    async with channel(served.target) as open_channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await dataset_pb2_grpc.DatasetServiceStub(open_channel).CreateDataset(
                dataset_pb2.CreateDatasetRequest(parent="nowhere", dataset_id="Not A Slug"), timeout=5
            )
    back = error_of(caught.value)
    assert isinstance(back, Invalid)
    assert back.reason == "REQUEST_INVALID"
    assert [(v.field, v.reason) for v in back.violations] == [
        ("parent", "STRING_PATTERN"),
        ("dataset_id", "STRING_PATTERN"),
    ]


async def test_validation_reaches_every_message_of_a_client_stream(served: Served) -> None:
    parts = [
        dataset_pb2.ImportItemsRequest(header=dataset_pb2.ImportHeader(parent=NAME)),
        dataset_pb2.ImportItemsRequest(chunk=b"x" * 1000),
        dataset_pb2.ImportItemsRequest(chunk=b"x" * 262145),
    ]
    async with channel(served.target) as open_channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await dataset_pb2_grpc.DatasetServiceStub(open_channel).ImportItems(iter(parts), timeout=5)
    back = error_of(caught.value)
    assert isinstance(back, Invalid)
    assert (back.violations[0].field, back.violations[0].reason) == ("chunk", "BYTES_MAX_LEN")
    assert served.datasets.chunks == 1000


async def test_a_dead_server_is_unavailable() -> None:
    async with channel("127.0.0.1:1") as open_channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await dataset_pb2_grpc.DatasetServiceStub(open_channel).DeleteDataset(
                dataset_pb2.DeleteDatasetRequest(name=NAME), timeout=5
            )
    assert type(error_of(caught.value)) is errors.Unavailable


async def test_an_unknown_method_and_an_unregistered_service_are_unimplemented(served: Served) -> None:
    async with channel(served.target) as open_channel:
        call = open_channel.unary_unary("/marsam.api.dataset.v1.DatasetService/Nope")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"", timeout=5)
    assert type(error_of(caught.value)) is errors.Unsupported
