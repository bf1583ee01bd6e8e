"""Health, reflection, auth, metrics, HTTP, cancellation and the drained exit, on a real server."""

import asyncio
import hashlib
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from marsam.api.dataset.v1 import dataset_pb2, dataset_pb2_grpc
from marsam.api.trainer.v1 import trainer_pb2, trainer_pb2_grpc
from marsam.core.errors import Deadline, Denied, Invalid, MarsamError, Missing, Precondition, Unauthenticated
from marsam.rpc.server import ServerSettings, current_principal
from marsam.rpc.wire import channel, error_of
from tests.integration.rpc.support import DATASETS, Served, serving

NAME = "projects/default/datasets/hayy"
GET = f"/{DATASETS}/GetDataset"
WATCH = "/marsam.api.trainer.v1.TrainerService/WatchRun"
RUN = trainer_pb2.WatchRunRequest(name="projects/default/runs/01kb0000000000000000000000")


async def get(stub: Any, name: str = NAME) -> Any:
    return await stub.GetDataset(dataset_pb2.GetDatasetRequest(name=name), timeout=5)


async def eventually(holds: Any) -> None:
    for _ in range(200):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("did not come true in two seconds")


async def test_the_ready_line_has_the_real_addresses(served: Served) -> None:
    line = json.loads(served.lines[0])
    assert len(served.lines) == 1
    assert (line["event"], line["service"]) == ("ready", "test")
    assert int(line["grpc"].rpartition(":")[2]) > 0
    assert line["http"].startswith("http://127.0.0.1:")


async def test_health_knows_each_service(served: Served) -> None:
    async with channel(served.target) as open_channel:
        stub = health_pb2_grpc.HealthStub(open_channel)
        for service in ("", DATASETS):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_lists_the_services_when_auth_is_off(served: Served) -> None:
    async def ask() -> Any:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    async with channel(served.target) as open_channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(open_channel)
        async for answer in stub.ServerReflectionInfo(ask(), timeout=5):
            names = {service.name for service in answer.list_services_response.service}
    assert {DATASETS, "grpc.health.v1.Health"} <= names


async def test_calls_are_counted_and_timed(served: Served, datasets: Any) -> None:
    await get(datasets)
    with pytest.raises(grpc.aio.AioRpcError):
        await datasets.CreateDataset(dataset_pb2.CreateDatasetRequest(), timeout=5)
    assert served.meter.value("marsam_rpc_handled_total", method=GET, code="OK") == 1
    refused = {"method": f"/{DATASETS}/CreateDataset", "code": "INVALID_ARGUMENT"}
    # A refusal is on its way before its call has ended, and what has ended is counted.
    await eventually(lambda: served.meter.value("marsam_rpc_handled_total", **refused) == 1)
    assert served.meter.value("marsam_rpc_duration_seconds_count", method=GET) == 1
    assert served.meter.value("marsam_rpc_in_flight", method=GET) == 0


async def test_metrics_and_health_over_http(served: Served, datasets: Any) -> None:
    await get(datasets)
    async with httpx.AsyncClient(base_url=served.http) as client:
        metrics = (await client.get("/metrics")).text
        assert f'marsam_rpc_handled_total{{code="OK",method="{GET}"}} 1.0' in metrics
        assert 'marsam_device_memory_bytes{device="cpu",kind="peak"}' in metrics
        assert (await client.get("/healthz")).json() == {"service": "test", "status": "alive"}
        assert (await client.get("/readyz")).status_code == 200


async def test_a_request_id_reaches_the_answer_of_a_failed_call(datasets: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await datasets.CreateDataset(
            dataset_pb2.CreateDatasetRequest(), timeout=5, metadata=(("x-request-id", "any <thing>"),)
        )
    returned = dict(caught.value.trailing_metadata() or ())["x-request-id"]
    assert len(returned) == 26  # not repeated: it might have been anything


async def test_a_caller_that_goes_away_unwinds_the_handler(served: Served) -> None:
    async with channel(served.target) as open_channel:
        call = trainer_pb2_grpc.TrainerServiceStub(open_channel).WatchRun(RUN)
        first: Any = await call.read()
        assert first.resume_token == "0"
        call.cancel()
        await asyncio.wait_for(served.runs.unwound.wait(), timeout=2)
    counted = {"method": WATCH, "code": "CANCELLED"}
    await eventually(lambda: served.meter.value("marsam_rpc_handled_total", **counted) == 1)
    assert served.meter.value("marsam_rpc_in_flight", method=WATCH) == 0


async def test_a_call_that_runs_out_of_time_is_counted_as_such(served: Served, datasets: Any) -> None:
    ended = asyncio.Event()

    async def slow(request: Any, context: Any) -> Any:
        try:
            await asyncio.sleep(30)
        finally:
            ended.set()

    served.datasets.get = slow
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await datasets.GetDataset(dataset_pb2.GetDatasetRequest(name=NAME), timeout=0.3)
    assert type(error_of(caught.value)) is Deadline
    await asyncio.wait_for(ended.wait(), timeout=2)
    counted = {"method": GET, "code": "DEADLINE_EXCEEDED"}
    await eventually(lambda: served.meter.value("marsam_rpc_handled_total", **counted) == 1)


async def test_an_error_in_the_middle_of_a_stream_is_typed(served: Served) -> None:
    served.runs.fail_after = (2, Missing("gone", resource="projects/default/runs/x"))
    got: list[str] = []
    async with channel(served.target) as open_channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for message in trainer_pb2_grpc.TrainerServiceStub(open_channel).WatchRun(RUN, timeout=5):
                got.append(message.resume_token)
    assert got == ["0", "1"]
    back = error_of(caught.value)
    assert isinstance(back, Missing)
    assert back.resource == "projects/default/runs/x"


async def test_deadlines_reach_the_handler(served: Served, datasets: Any) -> None:
    seen: list[float | None] = []

    async def get_dataset(request: Any, context: Any) -> Any:
        seen.append(context.time_remaining())
        return dataset_pb2.GetDatasetResponse()

    served.datasets.get = get_dataset
    await datasets.GetDataset(dataset_pb2.GetDatasetRequest(name=NAME), timeout=5)
    await datasets.GetDataset(dataset_pb2.GetDatasetRequest(name=NAME))
    assert seen[0] is not None
    assert 4.0 < seen[0] < 6.0  # on the wire it is a rounded duration, not a point in time
    assert seen[1] is None


async def test_reads_are_repeated_while_the_server_is_away(served: Served, datasets: Any) -> None:
    calls: list[int] = []

    async def flaky(request: Any, context: Any) -> Any:
        calls.append(1)
        if len(calls) < 3:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        return dataset_pb2.GetDatasetResponse()

    served.datasets.get = flaky
    await get(datasets)
    assert len(calls) == 3


async def test_a_proxy_of_the_environment_never_sees_loopback_calls(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    async with channel(served.target) as open_channel:
        assert (await get(dataset_pb2_grpc.DatasetServiceStub(open_channel))).dataset.name == NAME
    async with grpc.aio.insecure_channel(served.target) as naive:
        with pytest.raises(grpc.aio.AioRpcError):
            await dataset_pb2_grpc.DatasetServiceStub(naive).GetDataset(
                dataset_pb2.GetDatasetRequest(name=NAME), timeout=5
            )


async def test_drain_ends_streams_that_listen_and_cuts_those_that_do_not() -> None:
    async with serving(ServerSettings(grace_seconds=0.5)) as served, channel(served.target) as open_channel:
        call = trainer_pb2_grpc.TrainerServiceStub(open_channel).WatchRun(RUN)
        await call.read()
        served.lifecycle.stop()
        async for _ in call:
            pass
        assert await call.code() is grpc.StatusCode.OK
        await asyncio.wait_for(served.task, timeout=5)

    async with serving(ServerSettings(grace_seconds=0.3)) as served:
        served.runs.obeys_drain = False
        async with channel(served.target) as open_channel:
            call = trainer_pb2_grpc.TrainerServiceStub(open_channel).WatchRun(RUN)
            await call.read()
            began = asyncio.get_running_loop().time()
            served.lifecycle.stop()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in call:
                    pass
            assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
            await asyncio.wait_for(served.task, timeout=5)
            assert 0.25 < asyncio.get_running_loop().time() - began < 3
            assert served.runs.unwound.is_set()


async def test_while_draining_health_says_so_and_calls_are_still_taken() -> None:
    settings = ServerSettings(drain_seconds=5, grace_seconds=0.2)
    async with serving(settings) as served, channel(served.target) as open_channel:
        health = health_pb2_grpc.HealthStub(open_channel)
        served.lifecycle.stop()
        await asyncio.wait_for(served.lifecycle.draining.wait(), timeout=2)
        await asyncio.sleep(0.05)
        answer = await health.Check(health_pb2.HealthCheckRequest(service=DATASETS), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert (await get(dataset_pb2_grpc.DatasetServiceStub(open_channel))).dataset.name == NAME
        async with httpx.AsyncClient(base_url=served.http) as client:
            assert (await client.get("/readyz")).status_code == 503
        served.lifecycle.stop()  # a second time: do not wait for load balancers
        await asyncio.wait_for(served.task, timeout=3)


@pytest.mark.slow
def test_a_server_that_is_hurried_ends_and_does_not_crash() -> None:
    """In a process of its own: gRPC's server once took the whole of it along."""
    command = [sys.executable, "-m", "tests.integration.rpc.hurried", "250"]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("setting", ["listen", "http_listen"])
async def test_a_port_in_use_is_named(setting: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(Precondition) as caught:
            async with serving(ServerSettings(**{setting: f"127.0.0.1:{port}"})):
                pass
    error = caught.value
    assert error.reason == "PORT_IN_USE"
    assert str(port) in error.message
    assert f"MARSAM_{setting.upper()}" in error.remedy


async def test_two_servers_never_share_a_port(served: Served) -> None:
    with pytest.raises(Precondition) as caught:
        async with serving(ServerSettings(listen=served.target)):
            pass
    assert caught.value.reason == "PORT_IN_USE"


def token_file(folder: Path) -> Path:
    def entry(token: str, scopes: list[str], projects: list[str]) -> dict[str, Any]:
        digest = hashlib.sha256(token.encode()).hexdigest()
        return {"principal": token.split("-")[0], "sha256": digest, "scopes": scopes, "projects": projects}

    path = folder / "tokens.json"
    path.write_text(
        json.dumps(
            {
                "tokens": [
                    entry("reader-1", ["datasets.read"], ["default"]),
                    entry("maker-2", ["datasets.*"], ["default"]),
                    entry("admin-3", ["*"], ["*"]),
                ]
            }
        )
    )
    return path


async def test_tokens_open_their_scopes_and_projects_and_nothing_else(tmp_path: Path) -> None:
    create = dataset_pb2.CreateDatasetRequest(parent="projects/default", dataset_id="x")

    async def outcome(token: str | None, request: Any = None, name: str = NAME) -> type[MarsamError] | None:
        async with channel(served.target, token=token) as open_channel:
            stub = dataset_pb2_grpc.DatasetServiceStub(open_channel)
            try:
                await (stub.CreateDataset(request, timeout=5) if request is not None else get(stub, name))
            except grpc.aio.AioRpcError as failure:
                return type(error_of(failure))
        return None

    async with serving(ServerSettings(token_file=token_file(tmp_path), grace_seconds=0.2)) as served:
        assert await outcome(None) is Unauthenticated
        assert await outcome("guess") is Unauthenticated
        assert await outcome("reader-1") is None
        assert await outcome("reader-1", create) is Denied
        assert await outcome("maker-2", create) is None
        assert await outcome("reader-1", name="projects/other/datasets/hayy") is Missing
        assert await outcome("admin-3", name="projects/other/datasets/hayy") is None

        async def whoami(request: Any, context: Any) -> Any:
            return dataset_pb2.GetDatasetResponse(dataset=dataset_pb2.Dataset(name=current_principal().name))

        served.datasets.get = whoami
        async with channel(served.target, token="maker-2") as open_channel:
            assert (await get(dataset_pb2_grpc.DatasetServiceStub(open_channel))).dataset.name == "maker"

        # A client stream names its project in a nested header.
        parts = [
            dataset_pb2.ImportItemsRequest(header=dataset_pb2.ImportHeader(parent="projects/other/datasets/hayy")),
            dataset_pb2.ImportItemsRequest(chunk=b"x"),
        ]
        async with channel(served.target, token="maker-2") as open_channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await dataset_pb2_grpc.DatasetServiceStub(open_channel).ImportItems(iter(parts), timeout=5)
            assert isinstance(error_of(caught.value), Missing)
            # Health stays open, reflection is gone.
            answer = await health_pb2_grpc.HealthStub(open_channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            reflect = reflection_pb2_grpc.ServerReflectionStub(open_channel).ServerReflectionInfo(iter(()), timeout=5)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await reflect.read()
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_bad_token_file_refuses_the_start(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    for content in ("nonsense", "{}", '{"tokens": [{"principal": "x", "sha256": "12", "scopes": [], "projects": []}]}'):
        path.write_text(content)
        with pytest.raises(Invalid) as caught:
            async with serving(ServerSettings(token_file=path)):
                pass
        assert caught.value.reason == "TOKEN_FILE_INVALID"
        assert str(path) in caught.value.message


async def test_a_service_that_cannot_do_its_work_says_so_until_it_can() -> None:
    told: asyncio.Queue[bool] = asyncio.Queue()

    async def fitness() -> AsyncIterator[bool]:
        while True:
            yield await told.get()

    async with serving(fitness=fitness) as served, channel(served.target) as open_channel:
        health = health_pb2_grpc.HealthStub(open_channel)
        stub = dataset_pb2_grpc.DatasetServiceStub(open_channel)
        states = health_pb2.HealthCheckResponse

        async def becomes(state: int, ready: int) -> None:
            async with asyncio.timeout(5):
                for service in ("", DATASETS):
                    request = health_pb2.HealthCheckRequest(service=service)
                    while (await health.Check(request, timeout=5)).status != state:
                        await asyncio.sleep(0.01)
            async with httpx.AsyncClient() as http:
                assert (await http.get(f"{served.http}/readyz")).status_code == ready
                assert (await http.get(f"{served.http}/healthz")).status_code == 200

        await becomes(states.NOT_SERVING, 503)
        for fit, state, ready in ((True, states.SERVING, 200), (False, states.NOT_SERVING, 503)):
            told.put_nowait(fit)
            await becomes(state, ready)
        answer = await get(stub)
        assert answer.dataset.name == NAME


@pytest.mark.slow
async def test_a_new_channel_knows_nothing_of_what_an_older_one_found_dead() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{free.getsockname()[1]}"

    async def code(through: grpc.aio.Channel) -> grpc.StatusCode:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await dataset_pb2_grpc.DatasetServiceStub(through).CreateDataset(
                dataset_pb2.CreateDatasetRequest(), timeout=1
            )
        return caught.value.code()

    async with channel(target) as old:
        ending = asyncio.get_running_loop().time() + 6
        while asyncio.get_running_loop().time() < ending:  # it tries ever more seldom
            assert await code(old) in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            await asyncio.sleep(0.2)
        server = grpc.aio.server()
        server.add_insecure_port(target)
        await server.start()
        try:
            async with channel(target) as new:
                assert await code(new) is grpc.StatusCode.UNIMPLEMENTED
        finally:
            await server.stop(None)
