"""The settings every service has. A service's own settings extend this class with further fields."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from marsam.core.errors import Invalid, Precondition
from marsam.rpc.server.tls import TlsFiles


@dataclass(frozen=True, kw_only=True)
class Address:
    """`host:port`; port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(text: str, *, field: str) -> Address:
    """Reads `127.0.0.1:5001`, `[::1]:5001` or `localhost:0`; Invalid otherwise."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise Invalid(
            f"{field} must be 'host:port', got '{text}'",
            field=field,
            reason="LISTEN_INVALID",
            remedy="for example 127.0.0.1:5001; port 0 lets the system choose",
        )
    return Address(host=host, port=int(port))


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Where a service listens and how it ends."""

    listen: str = "127.0.0.1:0"
    """gRPC address."""

    http_listen: str = "127.0.0.1:0"
    """Address of /metrics, /healthz and /readyz, and of the pages that a service has."""

    token_file: Path | None = None
    """Hashed tokens that may call; see `marsam.core.tokens`. Without it the service serves loopback only."""

    tls_cert_file: Path | None = None
    """Certificate chain of both ports, PEM, the service's own first; with it they speak TLS only."""

    tls_key_file: Path | None = None
    """The certificate's key, PEM, not encrypted."""

    tls_client_ca_file: Path | None = None
    """Authorities of clients' certificates: with it gRPC asks every caller for one (mutual TLS)."""

    drain_seconds: float = 0.0
    """After NOT_SERVING, how long to go on accepting calls, for load balancers to notice."""

    grace_seconds: float = 10.0
    """How long open calls may go on before they are cut."""

    log_level: str = "info"
    """debug, info, warning or error."""

    def __post_init__(self) -> None:
        addresses = {name: parse_address(getattr(self, name), field=name) for name in ("listen", "http_listen")}
        for name in ("drain_seconds", "grace_seconds"):
            if getattr(self, name) < 0:
                raise Invalid(f"{name} must be ≥ 0, got {getattr(self, name)}", field=name)
        levels = ("debug", "info", "warning", "error")
        if self.log_level.lower() not in levels:
            raise Invalid(f"log_level must be one of {', '.join(levels)}, got '{self.log_level}'", field="log_level")
        for name, address in addresses.items():
            if self.token_file is None and not address.loopback:
                raise Precondition(
                    f"{name} {address} can be reached from other machines, and no token file is set",
                    reason="AUTH_REQUIRED",
                    field="token_file",
                    remedy="set MARSAM_TOKEN_FILE ('marsam tokens new' makes its entries), or listen on 127.0.0.1",
                )
        _check_together(self)

    @property
    def tls(self) -> TlsFiles | None:
        """The files of the certificate; None without TLS."""
        if self.tls_cert_file is None or self.tls_key_file is None:
            return None
        return TlsFiles(certificate=self.tls_cert_file, key=self.tls_key_file, client_ca=self.tls_client_ca_file)


def _check_together(settings: ServerSettings) -> None:
    for present, absent in (
        ("tls_cert_file", "tls_key_file"),
        ("tls_key_file", "tls_cert_file"),
        ("tls_client_ca_file", "tls_cert_file"),
    ):
        if getattr(settings, present) is not None and getattr(settings, absent) is None:
            raise Invalid(
                f"{present} is set and {absent} is not",
                field=absent,
                reason="TLS_INCOMPLETE",
                remedy=f"set MARSAM_{absent.upper()} too",
            )
