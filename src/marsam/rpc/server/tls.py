"""The service's certificate: proved before it is used, taken anew when its files change, for gRPC and for HTTP."""

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from marsam.core.errors import Invalid, Precondition
from marsam.core.settings import read_pem
from marsam.rpc.server.reload import Reloaded
from marsam.telemetry import Log

_LOG = Log("marsam.rpc.tls")
_UNREADABLE = "TLS_FILE_UNREADABLE"
_NOT_YET_VALID, _EXPIRED = 9, 10  # X509_V_ERR_CERT_*, of <openssl/x509_vfy.h>


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """PEM files: the chain with the service's own certificate first, its key, and whose clients are let in (None:
    clients need no certificate)."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    @property
    def paths(self) -> Sequence[Path]:
        """All of them."""
        return [self.certificate, self.key, *([self.client_ca] if self.client_ca else [])]


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What the files said at one moment, proved to fit together. `names` are those that the certificate is for."""

    grpc: grpc.ServerCertificateConfiguration
    http: ssl.SSLContext
    names: tuple[str, ...]


class Tls:
    """The identity in force. Make one before the service listens; `reloaded` keeps it fresh (see `reload.follow`)."""

    def __init__(self, files: TlsFiles) -> None:
        self._mutual = files.client_ca is not None
        self.reloaded = Reloaded("tls_cert_file", files.paths, lambda: read_identity(files))

    @property
    def identity(self) -> Identity:
        """What new connections get."""
        return self.reloaded.current

    def for_grpc(self) -> grpc.ServerCredentials:
        """Credentials that ask at each handshake which certificate is in force."""
        return grpc.dynamic_ssl_server_credentials(
            self.identity.grpc, lambda: self.identity.grpc, require_client_authentication=self._mutual
        )

    def for_http(self) -> ssl.SSLContext:
        """A context that hands each handshake to the one in force. Clients need no certificate here: probes and
        scrapers have none."""
        first = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

        def choose(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
            connection.context = self.identity.http

        first.sni_callback = choose
        return first


def read_identity(files: TlsFiles) -> Identity:
    """Reads and proves the files. Raises Invalid or Precondition that names the file, its fault and the remedy."""
    certificate = read_pem(files.certificate, "tls_cert_file", reason=_UNREADABLE)
    key = read_pem(files.key, "tls_key_file", reason=_UNREADABLE)
    client_ca = read_pem(files.client_ca, "tls_client_ca_file", reason=_UNREADABLE) if files.client_ca else None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # Without a password function OpenSSL would ask the terminal for one.
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    except (ssl.SSLError, OSError) as error:
        raise _unusable(files, error) from error
    if client_ca is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=client_ca.decode("ascii", "replace"))
        except (ssl.SSLError, ValueError) as error:
            raise Invalid(
                f"{files.client_ca} holds no certificate in PEM form",
                field="tls_client_ca_file",
                reason="TLS_CLIENT_CA_INVALID",
                remedy="expected the certificates of the authorities that sign your clients' certificates",
            ) from error
    names = _prove(context, files.certificate)
    _LOG.info("tls.identity", file=str(files.certificate), message=f"for {', '.join(names) or 'no name'}")
    configuration = grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=client_ca)
    return Identity(grpc=configuration, http=context, names=names)


def _no_password() -> bytes:
    raise ssl.SSLError("the key is encrypted")


def _unusable(files: TlsFiles, error: Exception) -> Invalid:
    if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
        return Invalid(
            f"{files.key} is not the key of the certificate in {files.certificate}",
            field="tls_key_file",
            reason="TLS_KEY_MISMATCH",
            remedy="give the key that the certificate was asked for with; the service's own certificate comes first",
        )
    return Invalid(
        f"{files.certificate} and {files.key} are no certificate and key: {error}",
        field="tls_cert_file",
        reason="TLS_FILE_INVALID",
        remedy="expected PEM: the chain with the service's own certificate first, and its key, not encrypted",
    )


def _prove(server: ssl.SSLContext, certificate: Path) -> tuple[str, ...]:
    """Shakes hands with ourselves, in memory: what OpenSSL finds wrong with the certificate, every client would."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.load_verify_locations(certificate)
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the question is the certificate, not who signed it
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(back, there), server.wrap_bio(there, back, server_side=True)]
    steps: list[Callable[[], None]] = [end.do_handshake for end in ends]
    try:
        while steps:
            for step in list(steps):
                try:
                    step()
                except ssl.SSLWantReadError:
                    continue
                steps.remove(step)
    except ssl.SSLCertVerificationError as error:
        raise _refused(certificate, error) from error
    except ssl.SSLError as error:
        raise Invalid(
            f"{certificate} cannot serve TLS: {error}",
            field="tls_cert_file",
            reason="TLS_FILE_INVALID",
            remedy="expected a server's certificate",
        ) from error
    told: Any = ends[0].getpeercert() or {}
    return tuple(value for _, value in told.get("subjectAltName", ()))


def _refused(certificate: Path, error: ssl.SSLCertVerificationError) -> Precondition:
    wrong = {_EXPIRED: "has expired", _NOT_YET_VALID: "is not yet valid"}.get(error.verify_code)
    if wrong is None:
        return Precondition(
            f"the certificate in {certificate} is refused: {error.verify_message}",
            field="tls_cert_file",
            reason="TLS_CERTIFICATE_REFUSED",
            remedy="expected a certificate that a server may use",
        )
    return Precondition(
        f"the certificate in {certificate} {wrong}",
        field="tls_cert_file",
        reason="TLS_CERTIFICATE_EXPIRED" if error.verify_code == _EXPIRED else "TLS_CERTIFICATE_NOT_YET_VALID",
        remedy="renew it; if it looks right, this machine's clock is wrong",
    )
