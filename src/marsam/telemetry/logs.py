"""Structured logs: one JSON object per line, whose field names are declared here.

A message is an event name in dotted words (`run.started`); what varies goes into fields, never into the text.
"""

import contextlib
import contextvars
import json
import logging
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, TextIO, TypedDict, Unpack


class Fields(TypedDict, total=False):
    """Every field a log line may carry. mypy refuses any other."""

    # who asked, and for what
    request_id: str
    method: str
    principal: str
    peer: str
    code: str
    reason: str
    message: str
    remedy: str
    # things, by resource name or id
    project: str
    resource: str
    dataset: str
    version: str
    item: str
    run: str
    model: str
    base: str
    adapter: str
    evaluation: str
    generation: str
    suite: str
    judge: str
    job: str
    kind: str
    attempt: int
    state: str
    owner: str
    # what happened
    step: int
    steps: int
    loss: float
    images: int
    images_per_second: float
    rows: int
    count: int
    bytes: int
    seconds: float
    file: str
    digest: str
    device: str
    family: str
    training_method: str
    cause: str
    exit_code: int
    signal: int
    # where we are
    listen: str
    http: str
    store: str
    key: str
    setting: str
    grace_seconds: float
    span: str


_context: contextvars.ContextVar[dict[str, Any] | None] = contextvars.ContextVar("marsam_log_context", default=None)


@contextlib.contextmanager
def bound(**fields: Unpack[Fields]) -> Iterator[None]:
    """Adds `fields` to every line logged inside the block, by this task and the tasks it starts."""
    token = _context.set({**(_context.get() or {}), **fields})
    try:
        yield
    finally:
        _context.reset(token)


def bind(**fields: Unpack[Fields]) -> None:
    """Adds `fields` to every line this task logs from here on: for tasks that serve one call and end with it."""
    _context.set({**(_context.get() or {}), **fields})


class Log:
    """A named logger that takes an event and declared fields. Cheap; make one per module."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **fields: Unpack[Fields]) -> None:
        """For whoever is debugging Marsam."""
        self._logger.debug(event, extra={"marsam_fields": fields})

    def info(self, event: str, **fields: Unpack[Fields]) -> None:
        """Something an operator may want to see happened."""
        self._logger.info(event, extra={"marsam_fields": fields})

    def warning(self, event: str, **fields: Unpack[Fields]) -> None:
        """Something was wrong and was dealt with."""
        self._logger.warning(event, extra={"marsam_fields": fields})

    def error(self, event: str, **fields: Unpack[Fields]) -> None:
        """Something failed and someone should look."""
        self._logger.error(event, extra={"marsam_fields": fields})

    def exception(self, event: str, **fields: Unpack[Fields]) -> None:
        """`error` with the traceback of the exception being handled: for our own bugs."""
        self._logger.error(event, exc_info=True, extra={"marsam_fields": fields})


class JsonFormatter(logging.Formatter):
    """Renders a record as one JSON line; foreign records (libraries) get the same shape."""

    def __init__(self, *, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """One line, keys in a stable order: time, level, service, logger, event, then the fields."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "event": record.getMessage(),
        }
        line.update(_context.get() or {})
        line.update(getattr(record, "marsam_fields", {}))
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(*, service: str, level: str = "INFO", stream: TextIO | None = None) -> None:
    """Sends every logger of this process to `stream` (stderr) as JSON lines. Called by `main`, never at import."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(service=service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # These narrate every request at INFO; our own access line already does.
    for chatty in ("uvicorn", "uvicorn.access", "uvicorn.error", "asyncio", "PIL"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
