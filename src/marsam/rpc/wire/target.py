"""Addresses of services as clients write them."""

from dataclasses import dataclass

from marsam.core.errors import Invalid

_TLS, _PLAIN, _DNS = "https://", "http://", "dns:///"


@dataclass(frozen=True, kw_only=True)
class Target:
    """`address` is what gRPC dials. `secure` is None when the address does not say: then the credentials decide."""

    address: str
    secure: bool | None

    @property
    def host(self) -> str:
        """The name or number dialled."""
        return self.address.removeprefix(_DNS).rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port dialled."""
        return int(self.address.rpartition(":")[2])

    @property
    def loopback(self) -> bool:
        """Whether the address is this machine's own."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")


def parse_target(text: str) -> Target:
    """Reads `host:port`, `dns:///host:port`, `https://host:port` (TLS) and `http://host:port` (none, whatever the
    credentials say). Raises Invalid."""
    secure = True if text.startswith(_TLS) else False if text.startswith(_PLAIN) else None
    address = text.removeprefix(_TLS).removeprefix(_PLAIN).rstrip("/") if secure is not None else text
    host, _, port = address.removeprefix(_DNS).rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise Invalid(
            f"'{text}' is not the address of a service",
            field="endpoints",
            reason="ADDRESS_INVALID",
            remedy="expected host:port, dns:///host:port or https://host:port",
        )
    return Target(address=address, secure=secure)
