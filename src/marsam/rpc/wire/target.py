"""Addresses of services as clients write them."""

import re
from dataclasses import dataclass

from marsam.core.errors import Invalid

_TLS, _PLAIN = "https://", "http://"
_DNS = re.compile(r"dns://[^/]*/")
_NUMBERS = re.compile(r"ipv[46]:")


@dataclass(frozen=True, kw_only=True)
class Target:
    """`address` is what gRPC dials. `secure` is None when the address does not say: then the credentials decide."""

    address: str
    secure: bool | None

    @property
    def places(self) -> tuple[tuple[str, int], ...]:
        """Host (a name or a number) and port, of each of them where there are several."""
        return tuple((host.strip("[]"), int(port)) for host, port in _places(self.address))

    @property
    def host(self) -> str:
        """The name or number dialled first."""
        return self.places[0][0]

    @property
    def port(self) -> int:
        """The port dialled first."""
        return self.places[0][1]

    @property
    def loopback(self) -> bool:
        """Whether the address is this machine's own."""
        return all(host in ("localhost", "::1") or host.startswith("127.") for host, _ in self.places)


def parse_target(text: str) -> Target:
    """Reads `host:port`, `https://host:port` (TLS) and `http://host:port` (none, whatever the credentials say), and
    gRPC's own `dns:///host:port`, `dns://nameserver/host:port` and `ipv4:number:port,number:port`. Raises Invalid."""
    secure = True if text.startswith(_TLS) else False if text.startswith(_PLAIN) else None
    address = text.removeprefix(_TLS).removeprefix(_PLAIN).rstrip("/") if secure is not None else text
    for host, port in _places(address):
        if not host or "/" in host or "," in host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise Invalid(
                f"'{text}' is not the address of a service",
                field="endpoints",
                reason="ADDRESS_INVALID",
                remedy="expected host:port, dns:///host:port, https://host:port or ipv4:number:port,number:port",
            )
    return Target(address=address, secure=secure)


def _places(address: str) -> list[tuple[str, str]]:
    """Host and port of each place that an address names, as they stand there."""
    numbers = _NUMBERS.match(address)
    listed = address[numbers.end() :].split(",") if numbers else [_DNS.sub("", address, count=1)]
    return [(host, port) for host, _, port in (one.rpartition(":") for one in listed)]
