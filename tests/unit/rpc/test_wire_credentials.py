"""What a client's environment and addresses mean."""

from pathlib import Path

import pytest

from marsam.core.errors import Invalid
from marsam.rpc.wire import find_credentials
from marsam.rpc.wire.target import parse_target

PEM = "-----BEGIN CERTIFICATE-----\n"


def test_an_empty_environment_shows_and_trusts_nothing() -> None:
    found = find_credentials(env={})
    assert (found.token, found.tls) == (None, None)


def test_token_and_certificates_come_from_files(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("  marsam_x\n")
    (tmp_path / "ca.pem").write_text(PEM)
    found = find_credentials(
        env={"MARSAM_TOKEN_FILE": str(tmp_path / "token"), "MARSAM_TLS_CA_FILE": str(tmp_path / "ca.pem")}
    )
    assert found.token == "marsam_x"
    assert found.tls is not None
    assert (found.tls.ca, found.tls.certificate) == (PEM.encode(), None)


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ({"MARSAM_TOKEN": "a", "MARSAM_TOKEN_FILE": "/x"}, "TOKEN_AMBIGUOUS"),
        ({"MARSAM_TOKEN": "two words"}, "TOKEN_MALFORMED"),
        ({"MARSAM_TOKEN": "مرسم"}, "TOKEN_MALFORMED"),
        ({"MARSAM_TOKEN_FILE": "/nowhere"}, "CREDENTIALS_UNREADABLE"),
        ({"MARSAM_TLS_CA_FILE": "/dev/null"}, "TLS_FILE_INVALID"),
        ({"MARSAM_TLS_CLIENT_CERT_FILE": "/x"}, "TLS_INCOMPLETE"),
    ],
)
def test_what_cannot_be_used_is_named(env: dict[str, str], reason: str) -> None:
    with pytest.raises(Invalid) as caught:
        find_credentials(env=env)
    assert caught.value.reason == reason
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("text", "address", "secure", "host", "loopback"),
    [
        ("127.0.0.1:5000", "127.0.0.1:5000", None, "127.0.0.1", True),
        ("https://[::1]:5000", "[::1]:5000", True, "::1", True),
        ("http://localhost:5000/", "localhost:5000", False, "localhost", True),
        ("dns:///marsam.svc:5000", "dns:///marsam.svc:5000", None, "marsam.svc", False),
        ("https://marsam.example:443", "marsam.example:443", True, "marsam.example", False),
        ("dns://10.0.0.2:53/marsam.svc:5000", "dns://10.0.0.2:53/marsam.svc:5000", None, "marsam.svc", False),
        ("ipv4:127.0.0.1:1,127.0.0.2:2", "ipv4:127.0.0.1:1,127.0.0.2:2", None, "127.0.0.1", True),
        ("ipv4:127.0.0.1:1,10.0.0.2:2", "ipv4:127.0.0.1:1,10.0.0.2:2", None, "127.0.0.1", False),
        ("ipv6:[::1]:1,[::1]:2", "ipv6:[::1]:1,[::1]:2", None, "::1", True),
    ],
)
def test_addresses(text: str, address: str, secure: bool | None, host: str, loopback: bool) -> None:
    target = parse_target(text)
    assert (target.address, target.secure, target.host, target.loopback) == (address, secure, host, loopback)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        "host:",
        ":5000",
        "host:0",
        "host:70000",
        "ftp://host:1",
        "https://a/b:1",
        "dns:///a/b:1",
        "a:1,b:2",
        "ipv4:127.0.0.1:1,127.0.0.2",
        "ipv4:",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_target(text)
    assert caught.value.reason == "ADDRESS_INVALID"
