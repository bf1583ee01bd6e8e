"""Errors on the wire: marsam.core.errors ⇄ google.rpc.Status, both ways through one table.

| error carries    | detail                                                    |
| ---------------- | --------------------------------------------------------- |
| reason, always   | ErrorInfo.reason, with domain "marsam"                    |
| remedy, field    | ErrorInfo.metadata                                        |
| violations       | BadRequest.field_violations (field, description, reason)  |
| resource         | ResourceInfo.resource_name                                |
| Exhausted        | QuotaFailure                                              |
| retry_after_s    | RetryInfo.retry_delay                                     |
"""

from typing import Any, TypeVar

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from marsam.core import errors
from marsam.core.errors import Invalid, MarsamError, Violation

M = TypeVar("M", bound=Message)

DOMAIN = "marsam"
DETAILS = "grpc-status-details-bin"

# Details travel in trailing metadata, which peers may cap at 8 KiB in all: base64 adds a third, and the message is
# sent a second time, percent-encoded.
_MAX_VIOLATIONS = 25
_MAX_TEXT_BYTES = 600
_MAX_VIOLATION_BYTES = 160
_MAX_STATUS_BYTES = 4000

_KINDS: tuple[type[MarsamError], ...] = (
    errors.Invalid,
    errors.Missing,
    errors.Exists,
    errors.Precondition,
    errors.Conflict,
    errors.Exhausted,
    errors.Denied,
    errors.Unauthenticated,
    errors.Unavailable,
    errors.OutcomeUnknown,
    errors.Corrupt,
    errors.Unsupported,
    errors.Cancelled,
    errors.Deadline,
    errors.Expired,
    errors.Internal,
)
_BY_NAME = {kind.__name__: kind for kind in _KINDS}
# The first kind of a code is what a status without our details becomes.
_BY_CODE: dict[grpc.StatusCode, type[MarsamError]] = {}
for _kind in _KINDS:
    _BY_CODE.setdefault(grpc.StatusCode[_kind.code], _kind)


def status_code(error: MarsamError) -> grpc.StatusCode:
    """The gRPC code of an error."""
    return grpc.StatusCode[error.code]


def to_status(error: MarsamError) -> status_pb2.Status:
    """The wire form of `error`; texts and violations are cut to what trailing metadata can carry."""
    code = status_code(error)
    status = status_pb2.Status(code=code.value[0], message=_cut(error.message, _MAX_TEXT_BYTES))
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    if error.remedy:
        info.metadata["remedy"] = _cut(error.remedy, _MAX_TEXT_BYTES)
    if error.field is not None:
        info.metadata["field"] = error.field
    if _BY_CODE[code] is not type(error):
        info.metadata["kind"] = type(error).__name__
    _add(status, info)
    if error.resource is not None:
        _add(status, error_details_pb2.ResourceInfo(resource_name=error.resource))
    if isinstance(error, errors.Exhausted):
        quota = error_details_pb2.QuotaFailure()
        quota.violations.add(subject=error.resource or "", description=_cut(error.message, _MAX_VIOLATION_BYTES))
        _add(status, quota)
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(round(error.retry_after_s * 1e9))
        _add(status, error_details_pb2.RetryInfo(retry_delay=delay))
    if isinstance(error, Invalid) and error.violations:
        _add(status, _bad_request(error.violations, room=_MAX_STATUS_BYTES - status.ByteSize()))
    return status


_TOO_LARGE = "message larger than max"
"""What gRPC says of a message beyond its receiver's limit."""


def error_of(failure: grpc.RpcError) -> MarsamError:
    """The error behind a failed call, ours or the transport's."""
    call: Any = failure  # grpc.RpcError promises nothing; every one raised by a call has these three
    code: grpc.StatusCode = call.code()
    for key, value in call.trailing_metadata() or ():
        if key == DETAILS:
            return error_from_status(status_pb2.Status.FromString(value))
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in (call.details() or ""):
        # The transport refuses it before any of ours sees it, and as if it were worth trying again.
        return Invalid(
            f"the request does not fit into one message: {call.details()}",
            reason="MESSAGE_TOO_LARGE",
            remedy="send less at once; files go in chunks",
        )
    kind = _BY_CODE.get(code, errors.Internal)
    return kind(call.details() or f"the call failed with {code.name}")


def error_from_status(status: status_pb2.Status) -> MarsamError:
    """The inverse of `to_status`. A status of another domain keeps its code and message and loses its details."""
    info = _detail(status, error_details_pb2.ErrorInfo())
    code = _code(status.code)
    kind = _BY_CODE.get(code, errors.Internal)
    if info is None or info.domain != DOMAIN:
        return kind(status.message)
    kind = _BY_NAME.get(info.metadata.get("kind", ""), kind)
    resource = _detail(status, error_details_pb2.ResourceInfo())
    retry = _detail(status, error_details_pb2.RetryInfo())
    common: dict[str, Any] = {
        "reason": info.reason,
        "field": info.metadata.get("field"),
        "resource": resource.resource_name if resource is not None else None,
        "remedy": info.metadata.get("remedy", ""),
        "retry_after_s": retry.retry_delay.ToNanoseconds() / 1e9 if retry is not None else None,
    }
    bad_request = _detail(status, error_details_pb2.BadRequest())
    if issubclass(kind, Invalid) and bad_request is not None:
        common["violations"] = [
            Violation(field=v.field, message=v.description, reason=v.reason) for v in bad_request.field_violations
        ]
    return kind(status.message, **common)


def _code(number: int) -> grpc.StatusCode:
    return next((code for code in grpc.StatusCode if code.value[0] == number), grpc.StatusCode.UNKNOWN)


def _add(status: status_pb2.Status, detail: Message) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)


def _detail(status: status_pb2.Status, empty: M) -> M | None:
    for packed in status.details:
        if packed.Is(empty.DESCRIPTOR):
            packed.Unpack(empty)
            return empty
    return None


def _bad_request(violations: tuple[Violation, ...], *, room: int) -> error_details_pb2.BadRequest:
    """As many violations as fit in `room` bytes and under the count, at least one, in order."""
    bad_request = error_details_pb2.BadRequest()
    for violation in violations[:_MAX_VIOLATIONS]:
        bad_request.field_violations.add(
            field=violation.field,
            description=_cut(violation.message, _MAX_VIOLATION_BYTES),
            reason=violation.reason,
        )
        if bad_request.ByteSize() > room and len(bad_request.field_violations) > 1:
            del bad_request.field_violations[-1]
            break
    return bad_request


def _cut(text: str, limit: int) -> str:
    encoded = text.encode()
    if len(encoded) <= limit:
        return text
    return encoded[: limit - 3].decode(errors="ignore") + "…"
