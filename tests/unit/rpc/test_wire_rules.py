"""Rules that hold for every method of the API, now and later."""

import json

import pytest
from google.protobuf.descriptor import MethodDescriptor

from marsam.core.errors import Internal, Invalid, Precondition
from marsam.core.tokens import Principal
from marsam.rpc.server.auth import LOCAL
from marsam.rpc.server.settings import ServerSettings, parse_address
from marsam.rpc.wire.retries import repeatable, service_config, services
from marsam.rpc.wire.scopes import scope_of

METHODS = [method for service in services() for method in service.methods]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_every_method_declares_a_scope_of_two_words(method: MethodDescriptor) -> None:
    family, dot, action = scope_of(method).partition(".")
    assert dot
    assert family.isalpha()
    assert action in {"read", "write", "admin", "takedown"}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_no_method_streams_both_ways(method: MethodDescriptor) -> None:
    assert not (method.client_streaming and method.server_streaming)


def test_a_method_without_a_scope_is_refused() -> None:
    from grpc_health.v1 import health_pb2

    check = health_pb2.DESCRIPTOR.services_by_name["Health"].methods_by_name["Check"]
    with pytest.raises(Internal) as caught:
        scope_of(check)
    assert caught.value.reason == "SCOPE_MISSING"


def test_all_five_services_are_known() -> None:
    assert {service.name for service in services()} == {
        "DatasetService",
        "TrainerService",
        "ModelService",
        "GeneratorService",
        "EvaluationService",
    }


def test_only_reads_and_calls_with_a_request_id_are_repeated() -> None:
    verdicts = {method.full_name.removeprefix("marsam.api."): repeatable(method) for method in METHODS}
    assert verdicts["trainer.v1.TrainerService.GetRun"]
    assert verdicts["trainer.v1.TrainerService.CreateRun"]
    assert not verdicts["trainer.v1.TrainerService.CancelRun"]
    assert not verdicts["dataset.v1.DatasetService.ImportItems"]
    assert not verdicts["model.v1.ModelService.ImportModel"]
    config = json.loads(service_config(services()))["methodConfig"][0]
    named = {f"{entry['service']}.{entry['method']}".removeprefix("marsam.api.") for entry in config["name"]}
    assert named == {name for name, verdict in verdicts.items() if verdict}
    assert config["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]


def test_calls_go_to_the_addresses_of_a_name_in_turn() -> None:
    assert json.loads(service_config(services()))["loadBalancingConfig"] == [{"round_robin": {}}]


def test_scopes_of_a_principal() -> None:
    runs = Principal(name="ci", scopes=frozenset({"runs.*", "models.read"}), projects=frozenset({"default"}))
    assert runs.may("runs.write")
    assert runs.may("models.read")
    assert not runs.may("models.write")
    assert not runs.may("runsx.write")
    assert runs.sees("default")
    assert not runs.sees("other")
    assert LOCAL.may("votes.write")


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:5001", "127.0.0.1", 5001), ("[::1]:0", "::1", 0), ("localhost:7", "localhost", 7)],
)
def test_addresses(text: str, host: str, port: int) -> None:
    address = parse_address(text, field="listen")
    assert (address.host, address.port, address.loopback) == (host, port, True)


@pytest.mark.parametrize("text", ["", "5001", ":5001", "host:", "host:x", "host:65536"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_address(text, field="listen")
    assert caught.value.reason == "LISTEN_INVALID"


@pytest.mark.parametrize("listen", ["0.0.0.0:5001", "[::]:5001", "192.168.1.5:1", "trainer:5001"])
def test_open_addresses_need_tokens(listen: str) -> None:
    with pytest.raises(Precondition) as caught:
        ServerSettings(listen=listen)
    assert caught.value.reason == "AUTH_REQUIRED"


@pytest.mark.parametrize("bad", [{"grace_seconds": -1.0}, {"drain_seconds": -0.1}, {"log_level": "loud"}])
def test_settings_that_are_none(bad: dict[str, object]) -> None:
    with pytest.raises(Invalid):
        ServerSettings(**bad)  # type: ignore[arg-type]
