"""Taking an address, with an error that says whose it is."""

import errno
import socket

import grpc
import grpc.aio

from marsam.core.errors import Precondition
from marsam.rpc.server.settings import Address
from marsam.telemetry import http


def claim(address: Address, *, setting: str) -> socket.socket:
    """A listening socket on `address`; Precondition that names address and setting when it cannot be had."""
    try:
        return http.listen(address.host, address.port)
    except OSError as error:
        raise _refused(error, address, setting) from error


def bind(
    server: grpc.aio.Server, address: Address, *, setting: str, credentials: grpc.ServerCredentials | None = None
) -> int:
    """Binds a gRPC server, with TLS when it has credentials, and gives the port; Precondition as for `claim`."""
    # gRPC reports every failure alike; a plain socket knows the reason. `so_reuseport` is off on our servers, so that
    # a port taken between the two lines still fails instead of being shared.
    claim(address, setting=setting).close()
    try:
        if credentials is None:
            port = server.add_insecure_port(str(address))
        else:
            port = server.add_secure_port(str(address), credentials)
    except RuntimeError as error:
        raise _refused(OSError(errno.EADDRINUSE, "address in use"), address, setting) from error
    return int(port)


def _refused(error: OSError, address: Address, setting: str) -> Precondition:
    variable = f"MARSAM_{setting.upper()}"
    if error.errno == errno.EADDRINUSE:
        return Precondition(
            f"port {address.port} on {address.host} is in use",
            reason="PORT_IN_USE",
            field=setting,
            remedy=f"stop what listens there, or choose another port with {variable} (0 lets the system choose)",
        )
    return Precondition(
        f"cannot listen on {address}: {error.strerror}",
        reason="LISTEN_FAILED",
        field=setting,
        remedy=f"set {variable} to an address of this machine",
    )
