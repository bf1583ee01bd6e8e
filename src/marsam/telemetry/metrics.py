"""Every metric Marsam exports, declared once.

A metric is a value here and nothing more: a process binds the ones it uses to its own registry through
`marsam.telemetry.meter.Meter`, so that importing this module registers nothing and a service never exports
series it cannot fill. Names follow the Prometheus conventions: base units, `_total` for counters.

A run puts `run_id` on everything that it exports, and nobody else labels by run: its series end with its process. A
service's labels have few values: never a run, a request, a caller, a prompt or a file.
"""

from dataclasses import dataclass

RPC_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0)
WORK_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
STEP_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
WAIT_BUCKETS = (0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0)
RUN_BUCKETS = (10.0, 60.0, 300.0, 900.0, 3600.0, 10_800.0, 43_200.0, 86_400.0, 604_800.0)

RUN_LABEL = "run_id"
"""On every series that a run exports, and on no other."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What every metric has: its exported name, one sentence of help, and the labels each sample must carry."""

    name: str
    help: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Counter(Metric):
    """Counts up for the life of the process."""


@dataclass(frozen=True, kw_only=True)
class Gauge(Metric):
    """A value that goes up and down."""


@dataclass(frozen=True, kw_only=True)
class Histogram(Metric):
    """A distribution of seconds (or of what the name says) over fixed buckets."""

    buckets: tuple[float, ...] = WORK_BUCKETS


BUILD_INFO = Gauge(name="marsam_build_info", help="Always 1; the labels say what runs.", labels=("service", "version"))

# Memory: one series per device. `cpu` is the process's resident set, `cuda:N` what it took of the GPU's memory.
DEVICE_MEMORY = Gauge(
    name="marsam_device_memory_bytes",
    help="Memory by device: what the process has (used, peak), what there is (total), what nobody has (free).",
    labels=("device", "kind"),
)
EVENT_LOOP_LAG = Gauge(
    name="marsam_event_loop_lag_seconds", help="How late the event loop woke last time: blocked loops starve health."
)

# RPC: `method` is the full name, `/marsam.api.trainer.v1.TrainerService/GetRun`.
RPC_STARTED = Counter(name="marsam_rpc_started_total", help="Calls that arrived.", labels=("method",))
RPC_HANDLED = Counter(
    name="marsam_rpc_handled_total", help="Calls that ended, by gRPC status code.", labels=("method", "code")
)
RPC_DURATION = Histogram(
    name="marsam_rpc_duration_seconds",
    help="Time from arrival to end; streams count until their last message.",
    labels=("method",),
    buckets=RPC_BUCKETS,
)
RPC_IN_FLIGHT = Gauge(name="marsam_rpc_in_flight", help="Calls being served now.", labels=("method",))

# Queues and jobs.
QUEUE_DEPTH = Gauge(name="marsam_queue_depth", help="Work accepted and not begun.", labels=("queue",))
QUEUE_WAIT = Histogram(
    name="marsam_queue_wait_seconds", help="From accepted to begun.", labels=("queue",), buckets=WAIT_BUCKETS
)
QUEUE_WORK = Gauge(
    name="marsam_queue_work_seconds",
    help="Accepted work in seconds, at the pace of late: what an autoscaler follows.",
    labels=("queue",),
)
JOBS = Gauge(name="marsam_jobs", help="Jobs known to this process, by kind and state.", labels=("kind", "state"))
JOB_TRANSITIONS = Counter(
    name="marsam_job_transitions_total", help="Transitions written, by the state entered.", labels=("kind", "state")
)
JOB_ATTEMPTS_ENDED = Counter(
    name="marsam_job_attempts_ended_total", help="Attempts that ended, by cause.", labels=("kind", "cause")
)

# Runs, as the trainer sees them: also those too short to be scraped.
RUNS_WAITING_SECONDS = Gauge(
    name="marsam_runs_waiting_seconds",
    help="Age of the oldest run that waits, by what it waits for.",
    labels=("reason",),
)
RUNS_ENDED = Counter(name="marsam_runs_ended_total", help="Runs that ended, by state.", labels=("state", "method"))
RUN_SECONDS = Histogram(
    name="marsam_run_seconds", help="From order to end, waiting included.", labels=("state",), buckets=RUN_BUCKETS
)
LAUNCHES = Counter(
    name="marsam_launches_total", help="Programs launched; outcome is ok or the reason.", labels=("kind", "outcome")
)
LAUNCH_SECONDS = Histogram(name="marsam_launch_seconds", help="Launching one program.", labels=("kind",))

# Training: exported by the run itself.
RUN_INFO = Gauge(
    name="marsam_run_info",
    help="Always 1; the labels say what is trained.",
    labels=("project", "family", "method", "base", "dataset", "device", "precision"),
)
RUN_ATTEMPT = Gauge(name="marsam_run_attempt", help="Which attempt of the run this is, from 1.")
RUN_MEMORY_ESTIMATED = Gauge(
    name="marsam_run_memory_estimated_bytes", help="Most memory of its device that the run's own plan expected."
)
RUN_MEMORY_RATIO = Gauge(
    name="marsam_run_memory_ratio", help="Most memory taken so far over what the run's own plan expected: 1 is exact."
)
RUN_PHASE_SECONDS = Counter(
    name="marsam_run_phase_seconds_total",
    help="Where an attempt's time went, previews and checkpoints too.",
    labels=("phase",),
)
RUN_DEVICE_SECONDS = Counter(
    name="marsam_run_device_seconds_total", help="How long the run has held a device.", labels=("device",)
)
TRAINING_STEPS = Counter(name="marsam_training_steps_total", help="Optimiser steps.", labels=("family", "method"))
TRAINING_IMAGES = Counter(name="marsam_training_images_total", help="Images trained on.", labels=("family", "method"))
TRAINING_STEPS_PER_SECOND = Gauge(
    name="marsam_training_steps_per_second", help="Over the last half minute.", labels=("family", "method")
)
TRAINING_IMAGES_PER_SECOND = Gauge(
    name="marsam_training_images_per_second", help="Over the last half minute.", labels=("family", "method")
)
TRAINING_STEP_SECONDS = Histogram(
    name="marsam_training_step_seconds",
    help="One optimiser step.",
    labels=("family", "method"),
    buckets=STEP_BUCKETS,
)
TRAINING_STEP_PHASE_SECONDS = Counter(
    name="marsam_training_step_phase_seconds_total",
    help="Where the steps' time went: data, forward, backward, optimiser.",
    labels=("phase",),
)
TRAINING_LOSS = Gauge(name="marsam_training_loss", help="Loss of the last step.", labels=("family", "method"))
TRAINING_NOT_FINITE = Counter(
    name="marsam_training_not_finite_total", help="Steps whose loss or gradient was no finite number."
)
TRAINING_LEARNING_RATE = Gauge(name="marsam_training_learning_rate", help="Learning rate of the last step.")
TRAINING_GRADIENT_NORM = Gauge(
    name="marsam_training_gradient_norm", help="Gradient norm of the last step, before clipping."
)
TRAINING_STEP = Gauge(name="marsam_training_step", help="Steps done, those of earlier attempts too.")
TRAINING_STEPS_PLANNED = Gauge(name="marsam_training_steps_planned", help="Steps asked for.")
TRAINING_PROGRESS = Gauge(name="marsam_training_progress_ratio", help="Steps done over steps asked, 0 to 1.")
CHECKPOINTS = Counter(name="marsam_training_checkpoints_total", help="Checkpoints written.")
CHECKPOINT_SECONDS = Gauge(
    name="marsam_training_checkpoint_seconds", help="Writing the last checkpoint, beside the steps."
)
CHECKPOINT_PAUSE_SECONDS = Gauge(
    name="marsam_training_checkpoint_pause_seconds", help="How long steps stood still for the last checkpoint."
)
CHECKPOINT_BYTES = Gauge(name="marsam_training_checkpoint_bytes", help="Size of the last checkpoint.")
CHECKPOINT_STEP = Gauge(name="marsam_training_checkpoint_step", help="Step that a new attempt would go on from.")
CHECKPOINT_EVERY = Gauge(name="marsam_training_checkpoint_every_steps", help="Steps between two checkpoints, as asked.")
CHECKPOINT_TIME = Gauge(
    name="marsam_training_checkpoint_timestamp_seconds",
    help="When the last checkpoint was written; before the first, when training began.",
)

# Generation.
GENERATION_IMAGES = Counter(
    name="marsam_generation_images_total", help="Images finished, by base model.", labels=("base",)
)
GENERATION_STEPS = Counter(
    name="marsam_generation_steps_total", help="Denoising steps times rows, by base model.", labels=("base",)
)
GENERATION_STEPS_SAVED = Counter(
    name="marsam_generation_steps_saved_total",
    help="Steps times rows that were not taken because the call was cancelled or its deadline passed.",
    labels=("base",),
)
GENERATION_IMAGES_PER_SECOND = Gauge(
    name="marsam_generation_images_per_second", help="Over the last half minute.", labels=("base",)
)
GENERATION_STEPS_PER_SECOND = Gauge(
    name="marsam_generation_steps_per_second", help="Row steps over the last half minute.", labels=("base",)
)
GENERATION_TICK_SECONDS = Histogram(
    name="marsam_generation_tick_seconds", help="One forward of the step loop.", labels=("base",)
)
GENERATION_TICK_ROWS = Histogram(
    name="marsam_generation_tick_rows",
    help="Rows that shared one forward.",
    labels=("base",),
    buckets=(1, 2, 4, 8, 16, 32, 64),
)
GENERATION_WIDTH = Gauge(
    name="marsam_generation_width_limit_rows",
    help="Rows that a forward of the size last drawn may have: beyond, width no longer pays, or memory ends.",
    labels=("base",),
)
GENERATION_SECONDS = Histogram(
    name="marsam_generation_seconds",
    help="One Generate call from admission to its last image.",
    labels=("base", "outcome"),
)
GENERATION_FIRST_IMAGE_SECONDS = Histogram(
    name="marsam_generation_first_image_seconds", help="From the call to its first image.", labels=("base",)
)
MODEL_REQUESTS = Counter(
    name="marsam_model_requests_total",
    help="Models asked for, by kind; result is hit (in memory) or miss (loaded).",
    labels=("kind", "result"),
)
MODEL_BYTES = Gauge(name="marsam_model_resident_bytes", help="Weights in memory, by kind of model.", labels=("kind",))
MODEL_DROPS = Counter(name="marsam_model_drops_total", help="Models dropped from memory, by kind.", labels=("kind",))
ADAPTERS_LOADED = Gauge(name="marsam_adapters_loaded", help="Adapters in the bank.", labels=("base",))
ADAPTER_LOADS = Counter(name="marsam_adapter_loads_total", help="Adapter loads, by outcome.", labels=("outcome",))
ADAPTER_LOAD_SECONDS = Histogram(name="marsam_adapter_load_seconds", help="From asked to usable.")
MODEL_LOAD_SECONDS = Histogram(name="marsam_model_load_seconds", help="Loading a base.", labels=("family",))

# Dataset.
IMPORT_FILES = Counter(
    name="marsam_import_files_total",
    help="Files read, by verdict; reason says why one was refused.",
    labels=("verdict", "reason"),
)
IMPORT_BYTES = Counter(name="marsam_import_bytes_total", help="Bytes received for import.")
IMPORT_IMAGES_PER_SECOND = Gauge(name="marsam_import_images_per_second", help="Over the last half minute.")
DECODE_SECONDS = Histogram(name="marsam_decode_seconds", help="One image: decode, normalise, hash.")

# Evaluation.
EVALUATION_PICTURES = Counter(
    name="marsam_evaluation_pictures_total", help="Pictures read by a judge.", labels=("judge",)
)

# Store.
STORE_OPERATIONS = Counter(
    name="marsam_store_operations_total", help="Object store calls, by outcome.", labels=("operation", "outcome")
)
STORE_SECONDS = Histogram(
    name="marsam_store_operation_seconds", help="One object store call.", labels=("operation",), buckets=RPC_BUCKETS
)
STORE_BYTES = Counter(name="marsam_store_bytes_total", help="Payload bytes, read or written.", labels=("direction",))

# Spans.
SPAN_SECONDS = Histogram(name="marsam_span_seconds", help="Named spans of work.", labels=("span",))


def declared() -> tuple[Metric, ...]:
    """Every metric of this module, by name."""
    found = [value for value in globals().values() if isinstance(value, Metric)]
    return tuple(sorted(found, key=lambda metric: metric.name))
