"""Named spans of work: declared once, measured into `marsam_span_seconds`, logged at debug."""

import contextlib
import enum
import time
from collections.abc import Iterator
from typing import Unpack

from marsam.telemetry import metrics
from marsam.telemetry.logs import Fields, Log
from marsam.telemetry.meter import Meter


class Span(enum.StrEnum):
    """Every span name."""

    DATASET_CHECK = "dataset.check"
    DATASET_COMMIT = "dataset.commit"
    DATASET_EXPORT = "dataset.export"
    GENERATE_DECODE = "generate.decode"


@contextlib.contextmanager
def span(meter: Meter, name: Span, **fields: Unpack[Fields]) -> Iterator[None]:
    """Measures the block, whether it succeeds or raises."""
    began = time.monotonic()
    try:
        yield
    finally:
        seconds = time.monotonic() - began
        meter.observe(metrics.SPAN_SECONDS, seconds, span=name.value)
        fields["span"] = name.value
        fields["seconds"] = round(seconds, 6)
        Log(__name__).debug("span", **fields)
