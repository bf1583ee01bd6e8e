"""Metrics, logs and spans: every name declared once. Knows nothing of what it measures.

meter = Meter(service="trainer", version="0.1.0")
meter.inc(metrics.TRAINING_STEPS, family="sd1", method="lora")
rate = meter.rate(metrics.TRAINING_IMAGES_PER_SECOND, family="sd1", method="lora"); rate.add(4)
log = Log(__name__); log.info("run.started", run=name, attempt=1)
with span(meter, Span.DATASET_CHECK): ...
"""

from marsam.telemetry import metrics
from marsam.telemetry.logs import Fields, Log, bound, configure
from marsam.telemetry.memory import MemoryReading, MemorySource, process_memory
from marsam.telemetry.meter import Meter
from marsam.telemetry.rates import Rate
from marsam.telemetry.spans import Span, span

__all__ = [
    "Fields",
    "Log",
    "MemoryReading",
    "MemorySource",
    "Meter",
    "Rate",
    "Span",
    "bound",
    "configure",
    "metrics",
    "process_memory",
    "span",
]
