"""Metadata keys, and the request id that follows a call through the services it makes others call."""

import contextvars

REQUEST_ID = "x-request-id"
AUTHORIZATION = "authorization"

_request_id: contextvars.ContextVar[str] = contextvars.ContextVar("marsam_request_id", default="")


def current_request_id() -> str:
    """The id of the call being served by this task; empty outside one."""
    return _request_id.get()


def set_request_id(request_id: str) -> None:
    """Names the call this task works for, from here on: its own calls will carry the same id."""
    _request_id.set(request_id)
