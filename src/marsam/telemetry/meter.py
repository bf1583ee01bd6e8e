"""Binds declared metrics to one process's registry."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import prometheus_client as prometheus
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from marsam.telemetry import metrics
from marsam.telemetry.memory import MemorySource, process_memory
from marsam.telemetry.rates import Rate


class _MemoryCollector(Collector):
    def __init__(self, sources: Sequence[MemorySource], everywhere: Mapping[str, str]) -> None:
        self._sources = sources
        self._everywhere = everywhere

    def collect(self) -> Iterable[GaugeMetricFamily]:
        spec = metrics.DEVICE_MEMORY
        family = GaugeMetricFamily(spec.name, spec.help, labels=(*self._everywhere, *spec.labels))
        for source in self._sources:
            for reading in source():
                for kind in ("used", "peak", "total", "free"):
                    family.add_metric([*self._everywhere.values(), reading.device, kind], getattr(reading, kind))
        yield family


class Meter:
    """The metrics of one process. Made once in `main`, handed to whoever measures; thread-safe.

    A metric appears in the exposition when it is first used. Labels that differ from the declared ones raise
    ValueError: a misspelt label is our own bug. The labels of `everywhere` (a run's `run_id`) are on every series.
    """

    def __init__(
        self,
        *,
        service: str,
        version: str,
        memory: Sequence[MemorySource] = (process_memory,),
        everywhere: Mapping[str, str] | None = None,
    ) -> None:
        self.service = service
        self._everywhere = dict(everywhere or {})
        # When a counter began is known to Prometheus, which sees it appear: a second series for each helps nobody.
        prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = prometheus.CollectorRegistry()
        self._bound: dict[str, prometheus.Counter | prometheus.Gauge | prometheus.Histogram] = {}
        self._lock = threading.Lock()
        self._memory = list(memory)
        self._registry.register(_MemoryCollector(self._memory, self._everywhere))
        self.set(metrics.BUILD_INFO, 1, service=service, version=version)

    def add_memory_source(self, source: MemorySource) -> None:
        """Adds a device (a GPU) to `marsam_device_memory_bytes`."""
        self._memory.append(source)

    def begin(self, metric: metrics.Counter | metrics.Histogram, **labels: str) -> None:
        """Makes a series appear at 0: of one that begins at 1, a rate sees nothing."""
        self._child(metric, labels)

    def inc(self, metric: metrics.Counter | metrics.Gauge, amount: float = 1.0, **labels: str) -> None:
        """Adds to a counter or a gauge."""
        child = self._child(metric, labels)
        assert isinstance(child, prometheus.Counter | prometheus.Gauge)
        child.inc(amount)

    def dec(self, metric: metrics.Gauge, amount: float = 1.0, **labels: str) -> None:
        """Takes from a gauge."""
        child = self._child(metric, labels)
        assert isinstance(child, prometheus.Gauge)
        child.dec(amount)

    def set(self, metric: metrics.Gauge, value: float, **labels: str) -> None:
        """Sets a gauge."""
        child = self._child(metric, labels)
        assert isinstance(child, prometheus.Gauge)
        child.set(value)

    def observe(self, metric: metrics.Histogram, value: float, **labels: str) -> None:
        """Puts one value into a histogram."""
        child = self._child(metric, labels)
        assert isinstance(child, prometheus.Histogram)
        child.observe(value)

    def follow(self, metric: metrics.Gauge, value: Callable[[], float], **labels: str) -> None:
        """A gauge that is asked for its value at each scrape. A second call with the same labels replaces the first."""
        child = self._child(metric, labels)
        assert isinstance(child, prometheus.Gauge)
        child.set_function(value)

    def rate(self, metric: metrics.Gauge, *, window_s: float = 30.0, **labels: str) -> Rate:
        """A throughput gauge (see `follow`): add to the returned rate."""
        rate = Rate(window_s=window_s)
        self.follow(metric, rate.per_second, **labels)
        return rate

    def exposition(self) -> bytes:
        """The Prometheus text format of everything used so far."""
        return prometheus.generate_latest(self._registry)

    def value(self, name: str, **labels: str) -> float | None:
        """One sample by its exported name (`…_total`, `…_count`), or None while there is none."""
        return self._registry.get_sample_value(name, {**self._everywhere, **labels})

    def names(self) -> Iterator[str]:
        """The names of the metric families exported now."""
        for family in self._registry.collect():
            yield family.name

    def _child(
        self, metric: metrics.Metric, labels: dict[str, str]
    ) -> prometheus.Counter | prometheus.Gauge | prometheus.Histogram:
        bound = self._bound.get(metric.name)
        if bound is None:
            with self._lock:
                bound = self._bound.get(metric.name)
                if bound is None:
                    bound = self._bound[metric.name] = self._bind(metric)
        if not metric.labels and not labels and not self._everywhere:
            return bound
        return bound.labels(**self._everywhere, **labels)

    def _bind(self, metric: metrics.Metric) -> prometheus.Counter | prometheus.Gauge | prometheus.Histogram:
        labels = (*self._everywhere, *metric.labels)
        match metric:
            case metrics.Counter():
                return prometheus.Counter(metric.name, metric.help, labels, registry=self._registry)
            case metrics.Gauge():
                return prometheus.Gauge(metric.name, metric.help, labels, registry=self._registry)
            case metrics.Histogram():
                return prometheus.Histogram(
                    metric.name, metric.help, labels, registry=self._registry, buckets=metric.buckets
                )
            case _:
                raise TypeError(f"{metric.name}: {type(metric).__name__} is not a counter, gauge or histogram")
