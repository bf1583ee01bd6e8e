"""TLS and tokens with real certificates: served, trusted, exchanged while serving, refused, and explained."""

import asyncio
import json
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from grpc_health.v1 import health, health_pb2_grpc
from marsam_generator.evaluation.hosting import caller_tls
from starlette.requests import Request
from starlette.responses import JSONResponse

from marsam.api.dataset.v1 import dataset_pb2, dataset_pb2_grpc
from marsam.client import ClientTls, read_credentials
from marsam.core.errors import Denied, Invalid, MarsamError, Precondition, Unauthenticated
from marsam.core.tokens import Principal, add_token, entry_of, new_token
from marsam.rpc.server import Page, ServerSettings, current_principal
from marsam.rpc.wire import channel, error_of, explain
from tests.integration.rpc.certificates import Authority, Pair
from tests.integration.rpc.support import serving

pytestmark = pytest.mark.slow

NAME = "projects/default/datasets/hayy"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


@pytest.fixture(scope="module")
def own(authority: Authority) -> Pair:
    return authority.sign("service")


def settings(pair: Pair, **more: Any) -> ServerSettings:
    return ServerSettings(tls_cert_file=pair.certificate, tls_key_file=pair.key, grace_seconds=0.2, **more)


def trusting(authority: Authority, **more: Any) -> ClientTls:
    tls = read_credentials(ca_file=authority.certificate, **more).tls
    assert tls is not None
    return tls


async def outcome(target: str, *, tls: ClientTls | None = None, token: str | None = None) -> MarsamError | None:
    """What becomes of a call: None when it is answered, else the error as a person would be told it."""
    async with channel(target, tls=tls, token=token) as opened:
        try:
            await dataset_pb2_grpc.DatasetServiceStub(opened).GetDataset(
                dataset_pb2.GetDatasetRequest(name=NAME), timeout=10
            )
        except grpc.aio.AioRpcError as failure:
            return await explain(error_of(failure), target, tls)
    return None


def reason(error: MarsamError | None) -> str:
    return error.reason if error is not None else "answered"


async def eventually(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not await holds():
            await asyncio.sleep(0.1)


async def test_both_ports_speak_tls_and_only_tls(authority: Authority, own: Pair) -> None:
    async with serving(settings(own)) as served:
        assert served.target.startswith("https://127.0.0.1:")
        assert served.http.startswith("https://127.0.0.1:")
        assert await outcome(served.target, tls=trusting(authority)) is None
        assert await outcome(served.target.replace("127.0.0.1", "localhost"), tls=trusting(authority)) is None
        assert reason(await outcome(served.target.removeprefix("https://"))) == "TLS_WANTED"
        context = ssl.create_default_context(cafile=authority.certificate)
        async with httpx.AsyncClient(verify=context) as web:
            assert (await web.get(f"{served.http}/healthz")).status_code == 200
        async with httpx.AsyncClient() as web:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await web.get(f"{served.http}/healthz")
            with pytest.raises(httpx.RemoteProtocolError):
                await web.get(f"{served.http.replace('https', 'http')}/healthz")


async def test_a_new_certificate_is_taken_without_a_restart_and_a_wrong_one_is_not(
    authority: Authority, stranger: Authority, own: Pair, tmp_path: Path
) -> None:
    live = Pair(certificate=tmp_path / "tls.crt", key=tmp_path / "tls.key")

    def put(pair: Pair) -> None:
        shutil.copy(pair.key, live.key)
        shutil.copy(pair.certificate, live.certificate)

    put(own)
    async with serving(settings(live)) as served:
        assert await outcome(served.target, tls=trusting(authority)) is None
        live.certificate.write_text("half a certif")
        await asyncio.sleep(1.5)
        assert await outcome(served.target, tls=trusting(authority)) is None
        put(stranger.sign("renewed"))

        async def renewed() -> bool:
            return await outcome(served.target, tls=trusting(stranger)) is None

        await eventually(renewed)
        assert reason(await outcome(served.target, tls=trusting(authority))) == "TLS_AUTHORITY_UNKNOWN"
        async with httpx.AsyncClient(verify=ssl.create_default_context(cafile=stranger.certificate)) as web:
            assert (await web.get(f"{served.http}/readyz")).status_code == 200


async def test_mutual_tls_lets_in_whose_certificate_is_known(
    authority: Authority, stranger: Authority, own: Pair
) -> None:
    async with serving(settings(own, tls_client_ca_file=authority.certificate)) as served:

        async def called_with(pair: Pair | None) -> str:
            shown = {} if pair is None else {"certificate_file": pair.certificate, "key_file": pair.key}
            return reason(await outcome(served.target, tls=trusting(authority, **shown)))

        assert await called_with(authority.sign("caller")) == "answered"
        assert await called_with(None) == "TLS_CLIENT_CERTIFICATE_MISSING"
        assert await called_with(stranger.sign("caller")) == "TLS_CLIENT_CERTIFICATE_REFUSED"
        # Probes and scrapers have no certificate.
        async with httpx.AsyncClient(verify=ssl.create_default_context(cafile=authority.certificate)) as web:
            assert (await web.get(f"{served.http}/healthz")).status_code == 200


@pytest.mark.parametrize("mutual", [False, True])
async def test_evaluations_reach_their_own_generator_whatever_its_certificate_is_for(
    authority: Authority, mutual: bool
) -> None:
    own = authority.sign("inside", names="DNS:*.marsam.svc,DNS:marsam-generator")
    chosen = settings(own, tls_client_ca_file=authority.certificate if mutual else None)
    async with serving(chosen) as served:
        caller = caller_tls(chosen.tls, target="", ca=None)
        assert caller is not None
        certificate, key = caller.pair or (None, None)
        tls = read_credentials(
            ca_file=caller.ca, certificate_file=certificate, key_file=key, server_name=caller.server_name
        ).tls
        assert await outcome(served.target, tls=tls) is None
        assert reason(await outcome(served.target, tls=replace(tls, server_name="other"))) == "TLS_WRONG_NAME"


@pytest.mark.parametrize(
    ("fault", "kind", "expected"),
    [
        ("no file", Invalid, "TLS_FILE_UNREADABLE"),
        ("not PEM", Invalid, "TLS_FILE_INVALID"),
        ("another's key", Invalid, "TLS_KEY_MISMATCH"),
        ("locked key", Invalid, "TLS_FILE_INVALID"),
        ("expired", Precondition, "TLS_CERTIFICATE_EXPIRED"),
        ("bad client authority", Invalid, "TLS_CLIENT_CA_INVALID"),
    ],
)
async def test_a_certificate_that_no_client_would_take_refuses_the_start(
    authority: Authority, own: Pair, tmp_path: Path, fault: str, kind: type[MarsamError], expected: str
) -> None:
    certificate, key, client_ca = own.certificate, own.key, None
    match fault:
        case "no file":
            certificate = tmp_path / "nowhere.pem"
        case "not PEM":
            certificate = tmp_path / "x.pem"
            certificate.write_text("nonsense")
        case "another's key":
            key = authority.pair.key
        case "locked key":
            key = tmp_path / "locked.key"
            words = ["openssl", "ec", "-in", str(own.key), "-aes256", "-passout", "pass:x", "-out", str(key)]
            subprocess.run(words, check=True, capture_output=True, timeout=30)
        case "expired":
            old = authority.sign("old", days=-1)
            certificate, key = old.certificate, old.key
        case _:
            client_ca = tmp_path / "ca.pem"
            client_ca.write_text("nonsense")
    with pytest.raises(kind) as caught:
        async with serving(settings(Pair(certificate=certificate, key=key), tls_client_ca_file=client_ca)):
            pass
    assert caught.value.reason == expected
    assert caught.value.remedy


@pytest.mark.parametrize("present", ["tls_cert_file", "tls_key_file", "tls_client_ca_file"])
def test_half_a_tls_is_no_setting(present: str) -> None:
    with pytest.raises(Invalid) as caught:
        ServerSettings(**{present: Path("/x.pem")})
    assert caught.value.reason == "TLS_INCOMPLETE"


@pytest.mark.parametrize("address", ["listen", "http_listen"])
def test_without_tokens_nothing_but_loopback_is_served(address: str) -> None:
    with pytest.raises(Precondition) as caught:
        ServerSettings(**{address: "0.0.0.0:0"})
    assert caught.value.reason == "AUTH_REQUIRED"
    assert address in caught.value.message
    assert ServerSettings(**{address: "[::1]:0"}).token_file is None


async def test_tokens_come_and_go_without_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    first, second = new_token(), new_token()
    add_token(path, entry_of(Principal(name="first"), first))
    assert path.stat().st_mode & 0o777 == 0o600
    assert first not in path.read_text()
    async with serving(ServerSettings(token_file=path, grace_seconds=0.2)) as served:
        assert await outcome(served.target, token=first) is None
        assert type(await outcome(served.target, token=second)) is Unauthenticated
        add_token(path, entry_of(Principal(name="second"), second))

        async def second_is_known() -> bool:
            return await outcome(served.target, token=second) is None

        await eventually(second_is_known)
        assert await outcome(served.target, token=first) is None
        good = path.read_text()
        path.write_text(good[: len(good) // 2])  # caught in the middle of a write
        await asyncio.sleep(1.5)
        assert await outcome(served.target, token=first) is None
        path.write_text(json.dumps({"tokens": [entry_of(Principal(name="second"), second)]}))

        async def first_is_gone() -> bool:
            return reason(await outcome(served.target, token=first)) == "TOKEN_UNKNOWN"

        await eventually(first_is_gone)


async def test_what_the_http_port_shows_without_a_token(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    reader, other = new_token(), new_token()
    add_token(path, entry_of(Principal(name="reader", scopes=frozenset({"runs.read"})), reader))
    add_token(path, entry_of(Principal(name="other", scopes=frozenset({"models.*"})), other))

    async def whoami(_: Request) -> JSONResponse:
        return JSONResponse(current_principal().name)

    page = Page(path="/whoami", scope="runs.read", answer=whoami)
    async with (
        serving(ServerSettings(token_file=path, grace_seconds=0.2), web=[page]) as served,
        httpx.AsyncClient(base_url=served.http) as web,
    ):
        for path_open in ("/healthz", "/readyz", "/metrics"):
            assert (await web.get(path_open)).status_code == 200
        refused = await web.get("/whoami")
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert refused.json()["error"]["reason"] == "TOKEN_MISSING"
        assert (await web.get("/whoami", headers={"authorization": "Bearer guess"})).status_code == 401
        assert (await web.get("/whoami", headers={"authorization": f"Bearer {other}"})).status_code == 403
        assert (await web.get("/whoami", headers={"authorization": f"Bearer {reader}"})).json() == "reader"
        assert (await web.get("/anything/else")).status_code == 404
        assert type(await outcome(served.target, token=other)) is Denied


@asynccontextmanager
async def bare(pair: Pair) -> AsyncIterator[str]:
    """A gRPC server that serves what ours would refuse to start with."""
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    credentials = grpc.ssl_server_credentials([(pair.key.read_bytes(), pair.certificate.read_bytes())])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def said(target: str, folder: Path, **environment: Any) -> tuple[int, str]:
    """Exit code of `marsam datasets list` against `target`, and what it says."""
    endpoints = folder / "endpoints.json"
    endpoints.write_text(json.dumps({s: {"grpc": target} for s in ("dataset", "trainer", "generator")}))
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MARSAM_", "GRPC_"))}
    given = {f"MARSAM_{name.upper()}": str(value) for name, value in environment.items()}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "marsam.cli", "datasets", "list"),
        env={**clean, **given, "MARSAM_ENDPOINTS": str(endpoints), "NO_COLOR": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), timeout=60)
    assert process.returncode is not None
    return process.returncode, out.decode()


def one_sentence(answer: tuple[int, str], *, code: int, why: str, remedy: str, reason: str) -> None:
    lines = answer[1].splitlines()
    assert answer[0] == code, lines
    assert lines[0].startswith("error ")
    assert why in lines[0]
    assert remedy in next(line for line in lines if line.startswith("try "))
    assert lines[-1] == reason
    assert len(lines) <= 4, lines


@pytest.mark.slow
async def test_the_command_line_says_in_one_sentence_what_is_wrong(
    authority: Authority, stranger: Authority, own: Pair, tmp_path: Path
) -> None:
    path = tmp_path / "tokens.json"
    add_token(path, entry_of(Principal(name="x"), new_token()))
    ca = {"tls_ca_file": authority.certificate}
    async with serving(settings(own, token_file=path)) as served:
        bare_target = served.target.removeprefix("https://")
        one_sentence(await said(bare_target, tmp_path, **ca), code=9, why="needs a token",
                     remedy="MARSAM_TOKEN", reason="TOKEN_MISSING")  # fmt: skip
        one_sentence(await said(bare_target, tmp_path, token="guess", **ca), code=9, why="does not know the token",
                     remedy="marsam tokens new", reason="TOKEN_UNKNOWN")  # fmt: skip
        one_sentence(await said(bare_target, tmp_path, token_file=path, **ca), code=3, why="holds no token",
                     remedy="hashes", reason="TOKEN_MALFORMED")  # fmt: skip
        one_sentence(await said(bare_target, tmp_path), code=6, why="speaks TLS",
                     remedy="MARSAM_TLS_CA_FILE", reason="TLS_WANTED")  # fmt: skip
        one_sentence(await said(bare_target, tmp_path, tls_ca_file=stranger.certificate), code=6,
                     why="signed by an authority", remedy="MARSAM_TLS_CA_FILE",
                     reason="TLS_AUTHORITY_UNKNOWN")  # fmt: skip
        one_sentence(await said(bare_target, tmp_path, tls_ca_file=tmp_path / "nowhere"), code=3, why="cannot read",
                     remedy="name a file", reason="CREDENTIALS_UNREADABLE")  # fmt: skip
    async with bare(authority.sign("expired", days=-1)) as target:
        one_sentence(await said(target, tmp_path, **ca), code=6, why="has expired", remedy="renew it",
                     reason="TLS_CERTIFICATE_EXPIRED")  # fmt: skip
    async with bare(authority.sign("elsewhere", names="DNS:marsam.example")) as target:
        one_sentence(await said(target, tmp_path, **ca), code=6, why="for another name than '127.0.0.1'",
                     remedy="a name in its certificate", reason="TLS_WRONG_NAME")  # fmt: skip
    async with serving() as plain:
        one_sentence(await said(plain.target, tmp_path, **ca), code=6, why="does not speak TLS",
                     remedy="http://", reason="TLS_UNWANTED")  # fmt: skip
