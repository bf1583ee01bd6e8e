"""The chart's Grafana dashboards, as plain JSON made from what stands here.

    python scripts/dashboards.py [--check]

In an expression `<all>` stands for the series of the chosen namespaces, `<run>` for those of the chosen runs; further
matchers may follow: `<run,kind="used">`.
"""

import argparse
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "deploy/helm/marsam/dashboards"
SCHEMA_VERSION = 39
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
SCOPES = {"all": 'namespace=~"$namespace"', "run": 'namespace=~"$namespace",run_id=~"$run"'}


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One graph: `unit` as Grafana names it, `lines` are (expression, legend)."""

    title: str
    says: str
    unit: str
    lines: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    stacked: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """Panels side by side under a heading; a `folded` one is opened by who wants it."""

    title: str
    panels: tuple[Panel, ...]
    folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Board:
    """A dashboard. `variables` are those that it has beside the data source and the namespace."""

    uid: str
    title: str
    says: str
    rows: tuple[Row, ...]
    variables: tuple[dict[str, Any], ...] = field(default=())


def graph(title: str, unit: str, says: str, *lines: tuple[str, str], **more: Any) -> Panel:
    return Panel(title=title, unit=unit, says=says, lines=lines, **more)


def quantiles(metric: str, scope: str, by: str, *shares: float, legend: str = "") -> tuple[tuple[str, str], ...]:
    """Lines of a histogram's quantiles per `by`."""
    label = legend or " ".join(f"{{{{{name.strip()}}}}}" for name in by.split(","))
    return tuple(
        (
            f"histogram_quantile({share}, sum by ({by}, le) (rate({metric}_bucket<{scope}>[$__rate_interval])))",
            f"{label} p{share * 100:g}",
        )
        for share in shares
    )


def memory(scope: str, device: str, by: str) -> tuple[tuple[str, str], ...]:
    chosen = f'<{scope},device=~"{device}",kind=~"used|peak|total">'
    legend = " ".join(f"{{{{{name}}}}}" for name in (*by.split(", "), "kind"))
    return ((f"max by ({by}, kind) (marsam_device_memory_bytes{chosen})", legend),)


RUNS = Board(
    uid="marsam-runs",
    title="Marsam / Runs",
    says="What each training run does, costs and needs. Exported by the runs themselves; gone when they are.",
    variables=(
        {"name": "run", "type": "query", "query": 'label_values(marsam_run_info{namespace=~"$namespace"}, run_id)',
         "allValue": ".+"},
        {"name": "hour_price", "type": "textbox", "query": "2", "label": "price of a device hour"},
    ),
    rows=(
        Row(title="Throughput and memory", panels=(
            graph("Images per second", "short", "Images trained on, per run.",
                  ("sum by (run_id) (rate(marsam_training_images_total<run>[$__rate_interval]))", "{{run_id}}")),
            graph("GPU memory (VRAM)", "bytes", "What the run took of each GPU, at most so far, and what the GPU has.",
                  *memory("run", "cuda.*", "run_id, device")),
            graph("Host memory (RSS)", "bytes", "The run's resident set, at most so far, and what it may have.",
                  *memory("run", "cpu", "run_id")),
            graph("Memory headroom", "percentunit", "Free of all, per device: below 3 % the next larger batch fails.",
                  ('min by (run_id, device) (marsam_device_memory_bytes<run,kind="free">) / '
                   'max by (run_id, device) (marsam_device_memory_bytes<run,kind="total">)', "{{run_id}} {{device}}"),
                  kind="stat"),
        )),
        Row(title="Plans", panels=(
            graph("Memory taken of that planned", "percentunit",
                  "What runs took at most so far over what their own plans expected: 100 % is exact.",
                  ("max by (run_id) (marsam_run_memory_ratio<run>)", "{{run_id}}")),
            graph("Memory planned", "bytes", "What runs expected to take at most.",
                  ("max by (run_id) (marsam_run_memory_estimated_bytes<run>)", "{{run_id}}")),
        )),
        Row(title="Progress", panels=(
            graph("Runs", "short", "What is trained on what, and where.",
                  ("max by (run_id, project, method, family, base, dataset, device, precision) (marsam_run_info<run>)",
                   "{{run_id}}: {{method}} of {{base}} on {{dataset}}, {{device}} {{precision}}"), kind="table"),
            graph("Steps done", "percentunit", "Steps done over steps asked.",
                  ("max by (run_id) (marsam_training_progress_ratio<run>)", "{{run_id}}")),
            graph("Time left", "s", "Steps left at the present pace; previews and checkpoints come on top.",
                  ("max by (run_id) (marsam_training_steps_planned<run> - marsam_training_step<run>) / "
                   "sum by (run_id) (rate(marsam_training_steps_total<run>[$__rate_interval]))", "{{run_id}}")),
            graph("Attempt", "short", "Above 1 when an earlier attempt ended before its time.",
                  ("max by (run_id) (marsam_run_attempt<run>)", "{{run_id}}"), kind="stat"),
        )),
        Row(title="Where the time goes", panels=(
            graph("Step time", "s", "Median and slow steps.",
                  *quantiles("marsam_training_step_seconds", "run", "run_id", 0.5, 0.95)),
            graph("Phases of a step", "percentunit", "Much of `data` means that the device waits to be fed.",
                  ("sum by (run_id, phase) (rate(marsam_training_step_phase_seconds_total<run>[$__rate_interval])) / "
                   "on (run_id) group_left () "
                   "sum by (run_id) (rate(marsam_training_step_phase_seconds_total<run>[$__rate_interval]))",
                   "{{run_id}} {{phase}}"), stacked=True),
            graph("Phases of the attempt", "s", "From loading to publishing, summed up.",
                  ("sum by (run_id, phase) (marsam_run_phase_seconds_total<run>)", "{{run_id}} {{phase}}"),
                  stacked=True),
        )),
        Row(title="Learning", panels=(
            graph("Loss", "short", "Mean of the last steps' losses.",
                  ("avg_over_time(marsam_training_loss<run>[$__rate_interval])", "{{run_id}}")),
            graph("Learning rate", "sci", "Warm-up, then cosine.",
                  ("marsam_training_learning_rate<run>", "{{run_id}}")),
            graph("Gradient norm", "short", "Before clipping to 1.",
                  ("marsam_training_gradient_norm<run>", "{{run_id}}")),
            graph("Steps without a finite loss", "short", "Nothing is learnt from them; three in a row end the run.",
                  ("increase(marsam_training_not_finite_total<run>[$__rate_interval])", "{{run_id}}")),
        )),
        Row(title="Checkpoints and cost", panels=(
            graph("Age of the last checkpoint", "s", "What a crash would cost now.",
                  ("time() - max by (run_id) (marsam_training_checkpoint_timestamp_seconds<run>)", "{{run_id}}")),
            graph("Writing a checkpoint", "s", "The last one; steps wait only while the state is copied.",
                  ("max by (run_id) (marsam_training_checkpoint_seconds<run>)", "{{run_id}}"),
                  ("max by (run_id) (marsam_training_checkpoint_pause_seconds<run>)", "{{run_id}}: steps stood still")),
            graph("Size of a checkpoint", "bytes", "Two are kept of each attempt.",
                  ("max by (run_id) (marsam_training_checkpoint_bytes<run>)", "{{run_id}}")),
            graph("Device hours", "h", "Hours that runs held a device, over the shown range.",
                  ("sum by (device) (increase(marsam_run_device_seconds_total<run>[$__range])) / 3600", "{{device}}"),
                  kind="stat"),
            graph("Cost (estimate)", "currencyUSD", "Device hours at the price named above.",
                  ("sum(increase(marsam_run_device_seconds_total<run>[$__range])) / 3600 * $hour_price", "cost"),
                  kind="stat"),
        )),
        Row(title="GPU hardware (needs NVIDIA's DCGM exporter)", folded=True, panels=(
            graph("Framebuffer used", "decmbytes", "As the driver sees it, other processes included.",
                  ("max by (namespace, pod, gpu) (DCGM_FI_DEV_FB_USED<all>) * on (namespace, pod) "
                   "group_left (run_id) max by (namespace, pod, run_id) (marsam_run_info<run>)",
                   "{{run_id}} GPU {{gpu}}")),
            graph("Engine busy", "percentunit", "Share of time that the compute engine worked.",
                  ("max by (Hostname, gpu) (DCGM_FI_PROF_GR_ENGINE_ACTIVE<all>)", "{{Hostname}} GPU {{gpu}}")),
            graph("Temperature", "celsius", "Of the GPU.",
                  ("max by (Hostname, gpu) (DCGM_FI_DEV_GPU_TEMP<all>)", "{{Hostname}} GPU {{gpu}}")),
            graph("Power", "watt", "Drawn by the GPU.",
                  ("max by (Hostname, gpu) (DCGM_FI_DEV_POWER_USAGE<all>)", "{{Hostname}} GPU {{gpu}}")),
        )),
    ),
)  # fmt: skip

_FAILED = 'outcome!~"ok|NOT_FOUND|ALREADY_EXISTS"'
PLATFORM = Board(
    uid="marsam-platform",
    title="Marsam / Platform",
    says="The three services, their queues and the store.",
    rows=(
        Row(title="Throughput and memory", panels=(
            graph("Images per second", "short", "Imported, trained on and drawn, all together.",
                  ('sum(rate(marsam_import_files_total<all,verdict="accepted">[$__rate_interval]))', "imported"),
                  ("sum(rate(marsam_training_images_total<all>[$__rate_interval]))", "trained on"),
                  ("sum(rate(marsam_generation_images_total<all>[$__rate_interval]))", "drawn")),
            graph("GPU memory (VRAM)", "bytes", "Taken of each GPU, by program.",
                  ('max by (service, instance, device) (marsam_device_memory_bytes<all,kind="used",device=~"cuda.*"> * '
                   "on (job, instance) group_left (service) marsam_build_info<all>)",
                   "{{service}} {{instance}} {{device}}")),
            graph("Host memory (RSS)", "bytes", "Resident set, by program.",
                  ('max by (service, instance) (marsam_device_memory_bytes<all,kind="used",device="cpu"> * '
                   "on (job, instance) group_left (service) marsam_build_info<all>)", "{{service}} {{instance}}")),
        )),
        Row(title="Runs", panels=(
            graph("Runs by state", "short", "All that the store knows.",
                  ('sum by (state) (marsam_jobs<all,kind="runs">)', "{{state}}"), stacked=True),
            graph("Oldest waiting run", "s", "By what it waits for: a slot, a node, an image, the next attempt.",
                  ("max by (reason) (marsam_runs_waiting_seconds<all>)", "{{reason}}")),
            graph("Wait for a slot", "s", "From ordered (or due again) to launched.",
                  *quantiles("marsam_queue_wait_seconds", 'all,queue="runs"', "queue", 0.5, 0.95)),
            graph("Runs ended", "short", "Within the shown range.",
                  ("round(sum by (state) (increase(marsam_runs_ended_total<all>[$__range])))", "{{state}}"),
                  kind="stat"),
        )),
        Row(title="Attempts", panels=(
            graph("Attempts that ended early", "short", "By cause: faults, and what the cluster took away.",
                  ('sum by (cause) (increase(marsam_job_attempts_ended_total<all,kind="runs",cause!="DONE">'
                   "[$__rate_interval])) > 0", "{{cause}}")),
            graph("Launches", "short", "Programs launched; any outcome but ok is a reason.",
                  ("sum by (kind, outcome) (marsam_launches_total<all>)", "{{kind}} {{outcome}}")),
            graph("Length of a run", "s", "From order to end, waiting included.",
                  *quantiles("marsam_run_seconds", "all", "state", 0.5)),
            graph("Evaluations by state", "short", "All that the store knows.",
                  ('sum by (state) (marsam_jobs<all,kind="evaluations">)', "{{state}}"), stacked=True),
        )),
        Row(title="Datasets", panels=(
            graph("Files imported", "short", "Per second, by verdict.",
                  ("sum by (verdict) (rate(marsam_import_files_total<all>[$__rate_interval]))", "{{verdict}}")),
            graph("Files refused", "short", "By reason, since the service started.",
                  ('sum by (reason) (marsam_import_files_total<all,verdict="refused">)', "{{reason}}")),
            graph("Decoding an image", "s", "Decode, normalise, hash.",
                  ("histogram_quantile(0.95, sum by (le) (rate(marsam_decode_seconds_bucket<all>[$__rate_interval])))",
                   "p95")),
            graph("Bytes received", "Bps", "By imports.",
                  ("sum(rate(marsam_import_bytes_total<all>[$__rate_interval]))", "received")),
        )),
        Row(title="Store", panels=(
            graph("Store latency", "s", "Slow calls, by operation.",
                  *quantiles("marsam_store_operation_seconds", "all", "operation", 0.99)),
            graph("Store calls", "ops", "By operation.",
                  ("sum by (operation) (rate(marsam_store_operations_total<all>[$__rate_interval]))", "{{operation}}")),
            graph("Store failures", "ops", "What is not there and what exists already are answers, not failures.",
                  (f"sum by (outcome) (rate(marsam_store_operations_total<all,{_FAILED}>[$__rate_interval])) or "
                   "0 * sum(rate(marsam_store_operations_total<all>[$__rate_interval]))", "{{outcome}}")),
            graph("Conflicts", "ops", "Creates that came second: two writers, or a call repeated.",
                  ('sum(rate(marsam_store_operations_total<all,operation="create",outcome="ALREADY_EXISTS">'
                   "[$__rate_interval]))", "create lost")),
            graph("Store traffic", "Bps", "Payload, by direction.",
                  ("sum by (direction) (rate(marsam_store_bytes_total<all>[$__rate_interval]))", "{{direction}}")),
        )),
        Row(title="Services", panels=(
            graph("Calls", "reqps", "By method.",
                  ("sum by (method) (rate(marsam_rpc_handled_total<all>[$__rate_interval]))", "{{method}}")),
            graph("Calls that failed", "reqps", "By method and code; cancelled ones aside.",
                  ('sum by (method, code) (rate(marsam_rpc_handled_total<all,code!~"OK|CANCELLED">'
                   "[$__rate_interval]))", "{{method}} {{code}}")),
            graph("Length of a call", "s", "Slow ones, by method; watches last as long as what they watch.",
                  *quantiles("marsam_rpc_duration_seconds", 'all,method!~".*/Watch.*"', "method", 0.95)),
            graph("Event loop lag", "s", "A blocked loop answers no health check.",
                  ("max by (instance) (marsam_event_loop_lag_seconds<all>)", "{{instance}}")),
            graph("Programs", "short", "How many of each version answer.",
                  ("count by (service, version) (marsam_build_info<all>)", "{{service}} {{version}}"), kind="table"),
        )),
    ),
)  # fmt: skip

_GENERATE = 'method="/marsam.api.generator.v1.GeneratorService/Generate"'
_BURN = "max(marsam:generate_errors:ratio_rate{}<all>) / (1 - 0.99)"
GENERATOR = Board(
    uid="marsam-generator",
    title="Marsam / Generator",
    says="How fast pictures are drawn, how long callers wait, what is in memory.",
    rows=(
        Row(title="Throughput and memory", panels=(
            graph("Images per second", "short", "Finished, by base.",
                  ("sum by (base) (rate(marsam_generation_images_total<all>[$__rate_interval]))", "{{base}}")),
            graph("GPU memory (VRAM)", "bytes", "What the generator took, at most so far, and what the GPU has.",
                  ('max by (instance, device, kind) (marsam_device_memory_bytes<all,device=~"cuda.*",kind!="free"> * '
                   'on (job, instance) group_left () marsam_build_info<all,service="generator">)',
                   "{{instance}} {{device}} {{kind}}")),
            graph("Host memory (RSS)", "bytes", "Resident set, at most so far, and what there is.",
                  ('max by (instance, kind) (marsam_device_memory_bytes<all,device="cpu",kind!="free"> * '
                   'on (job, instance) group_left () marsam_build_info<all,service="generator">)',
                   "{{instance}} {{kind}}")),
            graph("Weights in memory", "bytes", "By kind of model.",
                  ("sum by (kind) (marsam_model_resident_bytes<all>)", "{{kind}}"), stacked=True),
        )),
        Row(title="What callers wait for", panels=(
            graph("Time to the first image", "s", "From the call to its first picture.",
                  *quantiles("marsam_generation_first_image_seconds", "all", "base", 0.5, 0.95)),
            graph("Length of a call", "s", "From admission to the last picture, by how it ended.",
                  *quantiles("marsam_generation_seconds", "all", "outcome", 0.95)),
            graph("Pictures that wait", "short", "Accepted, and no tick has served them.",
                  ('sum(marsam_queue_depth<all,queue="pictures">)', "waiting")),
            graph("Seconds of accepted work", "s", "At the pace of late; the autoscaler follows this.",
                  ('sum by (instance) (marsam_queue_work_seconds<all,queue="pictures">)', "{{instance}}")),
            graph("Wait for a place", "s", "From accepted to the first tick.",
                  *quantiles("marsam_queue_wait_seconds", 'all,queue="pictures"', "queue", 0.95)),
        )),
        Row(title="The step loop", panels=(
            graph("Batch width", "short", "Rows that share one forward: mean and wide ones.",
                  ("sum by (base) (rate(marsam_generation_tick_rows_sum<all>[$__rate_interval])) / "
                   "sum by (base) (rate(marsam_generation_tick_rows_count<all>[$__rate_interval]))", "{{base}} mean"),
                  *quantiles("marsam_generation_tick_rows", "all", "base", 0.95)),
            graph("One tick", "s", "One forward of the loop.",
                  *quantiles("marsam_generation_tick_seconds", "all", "base", 0.5, 0.95)),
            graph("Row steps per second", "short", "Denoising steps times pictures.",
                  ("sum by (base) (rate(marsam_generation_steps_total<all>[$__rate_interval]))", "{{base}}")),
            graph("Decoding a picture", "s", "From latent to pixels.",
                  *quantiles("marsam_span_seconds", 'all,span="generate.decode"', "span", 0.95)),
        )),
        Row(title="Models and adapters", panels=(
            graph("Adapter cache hits", "percentunit", "Adapters asked for that were in memory.",
                  ('sum(rate(marsam_model_requests_total<all,kind="adapter",result="hit">[$__rate_interval])) / '
                   'sum(rate(marsam_model_requests_total<all,kind="adapter">[$__rate_interval]))', "hits")),
            graph("Adapters in memory", "short", "By base.",
                  ("sum by (base) (marsam_adapters_loaded<all>)", "{{base}}")),
            graph("Loading an adapter", "s", "From asked to usable: mean since the service started.",
                  ("sum(marsam_adapter_load_seconds_sum<all>) / sum(marsam_adapter_load_seconds_count<all>)", "mean")),
            graph("Loading a base", "s", "Mean since the service started.",
                  ("sum by (family) (marsam_model_load_seconds_sum<all>) / "
                   "sum by (family) (marsam_model_load_seconds_count<all>)", "{{family}}")),
            graph("Models dropped", "short", "For want of memory, or on demand; many mean that the budget is small.",
                  ("sum by (kind) (increase(marsam_model_drops_total<all>[$__rate_interval]))", "{{kind}}")),
        )),
        Row(title="Promises", panels=(
            graph("Generate by code", "reqps", "Calls that ended.",
                  (f"sum by (code) (rate(marsam_rpc_handled_total<all,{_GENERATE}>[$__rate_interval]))", "{{code}}")),
            graph("Error budget burn", "short", "1 spends the month's budget in a month; 14.4 is paged.",
                  (_BURN.format("1h"), "1 h"), (_BURN.format("6h"), "6 h")),
            graph("Calls in flight", "short", "Generate calls being served.",
                  (f"sum by (instance) (marsam_rpc_in_flight<all,{_GENERATE}>)", "{{instance}}")),
        )),
    ),
)  # fmt: skip

BOARDS = (RUNS, PLATFORM, GENERATOR)


def expression(text: str) -> str:
    """PromQL with the scopes written out."""
    return re.sub(r"<(all|run)((?:,[^<>]*)?)>", lambda found: "{" + SCOPES[found.group(1)] + found.group(2) + "}", text)


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    custom: dict[str, Any] = {"fillOpacity": 15, "stacking": {"mode": "normal" if panel.stacked else "none"}}
    made: dict[str, Any] = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.says,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": custom}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + at), "datasource": SOURCE, "expr": expression(text), "legendFormat": legend,
             **({"instant": True, "format": "table"} if panel.kind == "table" else {})}
            for at, (text, legend) in enumerate(panel.lines)
        ],
    }  # fmt: skip
    if panel.kind == "timeseries":
        made["options"] = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    else:
        del made["fieldConfig"]["defaults"]["custom"]
    if panel.kind == "stat":
        made["options"] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "graphMode": "area"}
    return made


def _variables(board: Board) -> list[dict[str, Any]]:
    every: dict[str, Any] = {"includeAll": True, "multi": True, "refresh": 2, "sort": 2, "datasource": SOURCE}
    every |= {"allValue": ".*", "current": {"text": "All", "value": "$__all"}}
    namespace = {"name": "namespace", "type": "query", "query": "label_values(marsam_build_info, namespace)"}
    made: list[dict[str, Any]] = [{"name": "datasource", "type": "datasource", "query": "prometheus"}]
    for variable in (namespace, *board.variables):
        if variable["type"] == "query":
            variable = {**every, **variable}
        else:
            variable = {**variable, "current": {"text": variable["query"], "value": variable["query"]}}
        made.append(variable)
    return made


def render(board: Board) -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    panels: list[dict[str, Any]] = []
    number, height = 1, 0
    for row in board.rows:
        head: dict[str, Any] = {"id": number, "type": "row", "title": row.title, "collapsed": row.folded, "panels": []}
        head["gridPos"] = {"x": 0, "y": height, "w": 24, "h": 1}
        panels.append(head)
        number, height = number + 1, height + 1
        width = 24 // len(row.panels)
        for at, panel in enumerate(row.panels):
            made = _panel(panel, number, {"x": at * width, "y": height, "w": width, "h": 8})
            (head["panels"] if row.folded else panels).append(made)
            number += 1
        height += 8
    return {
        "uid": board.uid,
        "title": board.title,
        "description": board.says,
        "tags": ["marsam"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "links": [{"type": "dashboards", "tags": ["marsam"], "title": "Marsam", "asDropdown": False}],
        "templating": {"list": _variables(board)},
        "panels": panels,
    }


def files() -> dict[Path, str]:
    """Every dashboard's file and what belongs into it."""
    return {
        FOLDER / f"{board.uid.removeprefix('marsam-')}.json": json.dumps(render(board), indent=1) + "\n"
        for board in BOARDS
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when a file is not as it would be")
    check = parser.parse_args().check
    stale = []
    for path, text in files().items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
            if not check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    if stale:
        print(f"{'stale' if check else 'written'}: {', '.join(stale)}" + (": run make dashboards" if check else ""))
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
