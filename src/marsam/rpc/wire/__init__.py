"""What both ends of a call share: channels, errors as google.rpc.Status and back, metadata.

channel(target)              a grpc.aio channel with our keepalive, retries, headers and TLS
find_credentials()           the token and the certificates that the environment names
explain(error, target, tls)  what TLS has to do with an UNAVAILABLE
to_status(error)             MarsamError → google.rpc.Status
error_of(rpc_error)          grpc.RpcError → MarsamError
"""

from marsam.rpc.wire.channel import channel
from marsam.rpc.wire.credentials import ClientTls, Credentials, find_credentials, read_credentials
from marsam.rpc.wire.diagnosis import explain
from marsam.rpc.wire.metadata import REQUEST_ID, current_request_id, set_request_id
from marsam.rpc.wire.status import error_from_status, error_of, status_code, to_status

__all__ = [
    "REQUEST_ID",
    "ClientTls",
    "Credentials",
    "channel",
    "current_request_id",
    "error_from_status",
    "error_of",
    "explain",
    "find_credentials",
    "read_credentials",
    "set_request_id",
    "status_code",
    "to_status",
]
