"""Metrics, logs and rates say what they mean."""

import asyncio
import io
import json
import logging
import mmap
import re
from pathlib import Path

import httpx
import pytest

from marsam.telemetry import (
    Fields,
    Log,
    MemoryReading,
    Meter,
    Rate,
    Span,
    bound,
    configure,
    http,
    metrics,
    process_memory,
    span,
)

DECLARED = metrics.declared()


@pytest.fixture
def meter() -> Meter:
    return Meter(service="test", version="1")


@pytest.mark.parametrize("metric", DECLARED, ids=lambda metric: metric.name)
def test_names_follow_the_conventions(metric: metrics.Metric) -> None:
    assert re.fullmatch(r"marsam_[a-z][a-z0-9_]*", metric.name)
    assert metric.name.endswith("_total") == isinstance(metric, metrics.Counter)
    assert metric.help.endswith(".")
    assert all(re.fullmatch(r"[a-z_]+", label) for label in metric.labels)


def test_names_are_unique_and_all_bind_to_one_registry(meter: Meter) -> None:
    names = [metric.name for metric in DECLARED]
    assert len(names) == len(set(names)) > 30
    for metric in DECLARED:
        labels = dict.fromkeys(metric.labels, "x")
        match metric:
            case metrics.Counter():
                meter.inc(metric, 2, **labels)
                assert meter.value(metric.name, **labels) == 2
            case metrics.Histogram():
                meter.observe(metric, 0.5, **labels)
                assert meter.value(f"{metric.name}_count", **labels) == 1
            case metrics.Gauge() if metric is not metrics.DEVICE_MEMORY:
                meter.set(metric, 3, **labels)
                assert meter.value(metric.name, **labels) == 3


def test_an_unused_metric_is_not_exported(meter: Meter) -> None:
    assert set(meter.names()) == {"marsam_build_info", "marsam_device_memory_bytes"}


def test_a_wrong_label_is_our_bug(meter: Meter) -> None:
    with pytest.raises(ValueError, match="label"):
        meter.inc(metrics.RPC_STARTED, methd="x")


def test_process_memory_grows_with_what_is_held() -> None:
    (before,) = process_memory()
    held = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # what the heap frees it may keep
    for page in range(0, len(held), 1 << 12):
        held[page] = 1
    (after,) = process_memory()
    assert 60 << 20 < after.used - before.used < 80 << 20
    held.close()
    (released,) = process_memory()
    assert released.used < after.used
    assert released.peak >= after.used - (4 << 20)
    assert released.total > released.peak


def test_a_second_device_joins_the_same_series(meter: Meter) -> None:
    meter.add_memory_source(lambda: [MemoryReading(device="cuda:0", used=1, peak=2, total=9, free=5)])
    name = "marsam_device_memory_bytes"
    assert [meter.value(name, device="cuda:0", kind=kind) for kind in ("used", "peak", "total", "free")] == [1, 2, 9, 5]
    assert (meter.value(name, device="cpu", kind="used") or 0) > 1 << 20


def test_a_rate_is_events_over_its_window_and_falls_to_zero() -> None:
    now = [100.0]
    rate = Rate(window_s=10, monotonic=lambda: now[0])
    assert rate.per_second() == 0
    for _ in range(20):
        now[0] += 1
        rate.add(4)
    assert rate.per_second() == pytest.approx(4.4)  # both ends of the window are in it
    now[0] += 5
    assert rate.per_second() == pytest.approx(2.4)
    now[0] += 20
    assert rate.per_second() == 0


def test_a_young_rate_divides_by_its_age_but_not_by_less_than_a_second() -> None:
    now = [0.0]
    rate = Rate(window_s=30, monotonic=lambda: now[0])
    now[0] = 0.01
    rate.add(5)
    assert rate.per_second() == 5
    now[0] = 2.0
    assert rate.per_second() == 2.5


def test_a_rate_gauge_is_read_at_the_scrape(meter: Meter) -> None:
    rate = meter.rate(metrics.GENERATION_IMAGES_PER_SECOND, base="b")
    assert meter.value("marsam_generation_images_per_second", base="b") == 0
    rate.add(3)
    assert (meter.value("marsam_generation_images_per_second", base="b") or 0) > 0


@pytest.fixture
def log_lines() -> io.StringIO:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure(service="trainer", level="debug", stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_its_fields(log_lines: io.StringIO) -> None:
    with bound(request_id="r1"):
        Log("marsam.x").info("run.started", run="projects/p/runs/1", attempt=2, message="مرحبا\nworld")
    Log("marsam.x").warning("later")
    first, second = lines(log_lines)
    assert first["service"] == "trainer"
    assert (first["event"], first["level"], first["attempt"], first["request_id"]) == ("run.started", "info", 2, "r1")
    assert first["message"] == "مرحبا\nworld"
    assert str(first["time"]).endswith("+00:00")
    assert "request_id" not in second


def test_foreign_records_and_tracebacks_keep_the_shape(log_lines: io.StringIO) -> None:
    logging.getLogger("somebody.else").warning("plain %s", "text")
    try:
        raise KeyError("k")
    except KeyError:
        Log("marsam.x").exception("failed", cause="k")
    plain, failed = lines(log_lines)
    assert plain["event"] == "plain text"
    assert "KeyError: 'k'" in str(failed["exception"])


async def test_bound_fields_stay_in_their_task(log_lines: io.StringIO) -> None:
    async def work(name: str) -> None:
        with bound(run=name):
            await asyncio.sleep(0)
            Log("x").info("seen")

    await asyncio.gather(work("a"), work("b"))
    assert sorted(str(line["run"]) for line in lines(log_lines) if line["event"] == "seen") == ["a", "b"]


def test_a_span_is_measured_even_when_it_fails(meter: Meter, log_lines: io.StringIO) -> None:
    with pytest.raises(ValueError, match="no"), span(meter, Span.DATASET_CHECK, run="r"):
        raise ValueError("no")
    assert meter.value("marsam_span_seconds_count", span="dataset.check") == 1
    (line,) = lines(log_lines)
    assert (line["event"], line["span"], line["run"]) == ("span", "dataset.check", "r")


def test_a_program_without_a_loop_serves_metrics_from_a_thread(meter: Meter) -> None:
    meter.inc(metrics.TRAINING_STEPS, 7, family="sd1", method="lora")
    app = http.application(meter, ready=lambda: True)
    with http.serving_in_thread(app, http.listen("127.0.0.1", 0)) as port:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        assert 'marsam_training_steps_total{family="sd1",method="lora"} 7.0' in text
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/healthz")


def test_whatever_is_declared_is_used_somewhere() -> None:
    root = Path(__file__).parents[3]
    code = "".join(
        path.read_text(encoding="utf-8")
        for top in ("src", "services")
        for path in (root / top).rglob("*.py")
        if path.parent.name != "telemetry"
    )
    code += (root / "src/marsam/telemetry/meter.py").read_text() + (root / "src/marsam/telemetry/spans.py").read_text()
    names = {name for name, value in vars(metrics).items() if isinstance(value, metrics.Metric)}
    assert [name for name in sorted(names) if f"metrics.{name}" not in code] == []
    assert [one.name for one in Span if f"Span.{one.name}" not in code] == []
    assert [field for field in Fields.__annotations__ if not re.search(rf"\b{field}=", code)] == []


def test_the_operator_s_page_lists_every_metric() -> None:
    page = (Path(__file__).parents[3] / "docs" / "operations.md").read_text(encoding="utf-8")
    rows = [f"| `{m.name}` | {', '.join(m.labels)} | {m.help} |" for m in DECLARED]
    assert [row for row in rows if row not in page] == []
    assert page.count("| `marsam_") == len(rows)
