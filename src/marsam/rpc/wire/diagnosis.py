"""Why a connection does not come about, in one sentence.

gRPC says UNAVAILABLE to an expired certificate as to a service that is down. Whoever reads that needs to know which, so
the same handshake is made once more, by OpenSSL, which names the fault.
"""

import asyncio
import contextlib
import socket
import ssl
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from marsam.core.errors import Invalid, MarsamError, Precondition, Unavailable
from marsam.rpc.wire.credentials import ClientTls
from marsam.rpc.wire.target import Target, parse_target

_SECONDS = 3.0
_CA = "MARSAM_TLS_CA_FILE"
_PAIR = "MARSAM_TLS_CLIENT_CERT_FILE and MARSAM_TLS_CLIENT_KEY_FILE"
# X509_V_ERR_* of <openssl/x509_vfy.h>
_NOT_YET_VALID, _EXPIRED = 9, 10
_WRONG_NAME = (62, 64)


async def explain(error: MarsamError, address: str, tls: ClientTls | None) -> MarsamError:
    """A Precondition that names the fault of TLS between us and `address`, else `error` itself.

    Only what the transport reported (UNAVAILABLE without details of ours) is looked into.
    """
    if not isinstance(error, Unavailable) or error.reason != Unavailable.default_reason:
        return error
    try:
        target = parse_target(address)
    except Invalid:
        return error
    wanted = target.secure if target.secure is not None else tls is not None
    found = await asyncio.to_thread(_secure if wanted else _plain, target, tls or ClientTls())
    return found or error


def _plain(target: Target, _: ClientTls) -> Precondition | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with contextlib.suppress(OSError), _connected(target) as plain, context.wrap_socket(plain):
        return Precondition(
            f"{target.address} speaks TLS, and was called without",
            reason="TLS_WANTED",
            remedy=f"set {_CA} to the certificate of the authority that signed the service's",
        )
    return None


def _secure(target: Target, tls: ClientTls) -> Precondition | None:
    try:
        context = _context(tls)
    except (ssl.SSLError, OSError, ValueError) as error:
        return Precondition(
            f"the client's own certificates cannot be used: {error}",
            reason="TLS_FILE_INVALID",
            remedy=f"look at {_CA}, and at {_PAIR} where set: PEM, the key not encrypted",
        )
    try:
        with (
            _connected(target) as plain,
            context.wrap_socket(plain, server_hostname=tls.server_name or target.host) as connection,
        ):
            # TLS 1.3: what the service thinks of our certificate shows after the handshake. A gRPC server speaks first;
            # one that hangs up without a word wanted another certificate, or any.
            if not connection.recv(1):
                return _unwelcome(target, tls)
    except ssl.SSLCertVerificationError as error:
        return _refused(target, tls, error)
    except ssl.SSLError as error:
        return _broken(target, tls, error)
    except OSError:
        return None
    return None


def _context(tls: ClientTls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    if tls.ca is not None:
        context.load_verify_locations(cadata=tls.ca.decode("ascii"))
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as gRPC does
    else:
        context.load_default_certs()
    if tls.certificate is not None and tls.key is not None:
        with tempfile.TemporaryDirectory(prefix="marsam-tls-") as folder:  # OpenSSL reads files only
            file = Path(folder) / "client.pem"
            file.touch(0o600)
            file.write_bytes(tls.certificate + b"\n" + tls.key)
            context.load_cert_chain(file, password=lambda: b"")
    return context


@contextlib.contextmanager
def _connected(target: Target) -> Iterator[socket.socket]:
    with socket.create_connection((target.host, target.port), timeout=_SECONDS) as plain:
        yield plain


def _refused(target: Target, tls: ClientTls, error: ssl.SSLCertVerificationError) -> Precondition:
    place = target.address
    if error.verify_code == _EXPIRED:
        return Precondition(
            f"the certificate of {place} has expired",
            reason="TLS_CERTIFICATE_EXPIRED",
            remedy=f"renew it (no restart is needed); by this machine's clock it is {_now()}",
        )
    if error.verify_code == _NOT_YET_VALID:
        return Precondition(
            f"the certificate of {place} is not valid yet",
            reason="TLS_CERTIFICATE_NOT_YET_VALID",
            remedy=f"set the clocks: by this machine's it is {_now()}",
        )
    if error.verify_code in _WRONG_NAME:
        return Precondition(
            f"the certificate of {place} is for another name than '{tls.server_name or target.host}'",
            reason="TLS_WRONG_NAME",
            remedy="call the service by a name in its certificate, or have the name added to it",
        )
    trusted = f"that of {_CA}" if tls.ca is not None else "a well-known one"
    return Precondition(
        f"the certificate of {place} is signed by an authority that is not {trusted}: {error.verify_message}",
        reason="TLS_AUTHORITY_UNKNOWN",
        remedy=f"set {_CA} to the certificate of the authority that signed the service's",
    )


def _broken(target: Target, tls: ClientTls, error: ssl.SSLError) -> Precondition | None:
    place, reason = target.address, error.reason or ""
    if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"):
        return Precondition(
            f"{place} does not speak TLS, and was called with it",
            reason="TLS_UNWANTED",
            remedy=f"unset {_CA}, write the address as http://{place}, or give the service MARSAM_TLS_CERT_FILE",
        )
    return _unwelcome(target, tls) if "ALERT" in reason else None


def _unwelcome(target: Target, tls: ClientTls) -> Precondition:
    if tls.certificate is None:
        return Precondition(
            f"{target.address} asks its callers for a certificate",
            reason="TLS_CLIENT_CERTIFICATE_MISSING",
            remedy=f"set {_PAIR}",
        )
    return Precondition(
        f"{target.address} refuses this client's certificate",
        reason="TLS_CLIENT_CERTIFICATE_REFUSED",
        remedy="use one that is valid now and signed by an authority of the service's MARSAM_TLS_CLIENT_CA_FILE",
    )


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
