"""What both ends of a call share: channels, errors as google.rpc.Status and back, metadata.

channel(target)              a grpc.aio channel with our keepalive, retries and headers
to_status(error)             MarsamError → google.rpc.Status
error_of(rpc_error)          grpc.RpcError → MarsamError
"""

from marsam.rpc.wire.channel import channel
from marsam.rpc.wire.metadata import REQUEST_ID, current_request_id, set_request_id
from marsam.rpc.wire.status import error_from_status, error_of, status_code, to_status

__all__ = [
    "REQUEST_ID",
    "channel",
    "current_request_id",
    "error_from_status",
    "error_of",
    "set_request_id",
    "status_code",
    "to_status",
]
