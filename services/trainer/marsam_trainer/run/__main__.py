"""`python -m marsam_trainer.run train | plan | probe | convert`: one attempt of a run, what a run would take, how its
captions are read, or the parts of a checkpoint in one file. Exit codes are in `codes`."""

import argparse
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from marsam.catalog.runs import RunSpec
from marsam.core.clock import SystemClock
from marsam.core.cores import computing_cores
from marsam.core.errors import MarsamError
from marsam.core.names import parse
from marsam.core.records import canonical, load
from marsam.jobs.store import JobStore
from marsam.store import keys
from marsam.store.blobs import Blobs
from marsam.store.open import open_store
from marsam.telemetry import metrics
from marsam.telemetry.http import application, listen, serving_in_thread
from marsam.telemetry.logs import Log, bind, configure
from marsam.telemetry.meter import Meter
from marsam_trainer.conversion import Conversion
from marsam_trainer.run import codes
from marsam_trainer.run.beat import Beat
from marsam_trainer.run.bridge import Bridge

_log = Log(__name__)


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line, parsed."""
    parser = argparse.ArgumentParser(prog="python -m marsam_trainer.run", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="run one attempt")
    train.add_argument("--run", required=True, help="projects/{project}/runs/{ulid}")
    train.add_argument("--attempt", required=True, type=int, help="which attempt this is, from 1")
    train.add_argument("--metrics-port", type=int, default=0, help="port for /metrics; 0 is off")
    train.add_argument("--metrics-host", default="127.0.0.1", help="address that /metrics is served at")
    train.add_argument("--beat-file", type=Path, default=None, help="file that is touched while the program is well")
    train.add_argument("--memory-limit", type=float, default=1.05, help="share of the memory it may be thought to need")
    train.add_argument(
        "--memory-correction",
        type=_correction,
        action="append",
        default=[],
        metavar="KIND=FACTOR",
        help="what past runs on a kind of device, cpu or cuda, took of what was expected of them",
    )
    train.add_argument("--cache-bytes", type=int, default=None, help="most bytes of copies to keep; unbounded")
    plan = commands.add_parser("plan", help="print what a run would take, as JSON")
    plan.add_argument("--together", type=int, default=1, help="how many processes of the run share a machine")
    probe = commands.add_parser("probe", help="print how the base reads a run's captions, as JSON")
    convert = commands.add_parser("convert", help="store the parts of a checkpoint in one file, and print them as JSON")
    for command in (plan, probe, convert):
        spec = command.add_mutually_exclusive_group(required=True)
        spec.add_argument("--spec", type=Path, help="file with a run spec, or with a conversion")
        spec.add_argument("--spec-json", help="what that file would hold")
    for command in (train, plan, probe, convert):
        command.add_argument("--store", required=True, help="URL of the object store")
        command.add_argument("--cache", required=True, type=Path, help="folder for local copies")
        command.add_argument("--device", default="", help="cpu or cuda:N; the first GPU there is when left out")
        command.add_argument("--cores", type=int, default=None, help="how many cores to use; those there are")
        command.add_argument("--lanes", type=int, default=None, help="pieces of a batch that train side by side")
        command.add_argument("--log-level", default="INFO")
    return parser.parse_args(argv)


def _correction(text: str) -> tuple[str, float]:
    kind, _, factor = text.partition("=")
    return kind, float(factor)


class Stop:
    """Whether SIGTERM or SIGINT came. The run asks at every step; a second signal ends it at once."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        return self.asked

    def install(self) -> None:
        """Listen to the two signals from now on."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._heard)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        # torchrun says it again to the ranks that are left when the first has ended; its last word is SIGKILL.
        if self.asked and not (number == signal.SIGTERM and _ranks() > 1):
            os._exit(128 + number)
        self.asked = True


def _ranks() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    options = arguments(sys.argv[1:] if argv is None else argv)
    configure(service="run", level=options.log_level)
    stop = Stop()
    stop.install()
    # Before torch is imported: OpenMP reads it once.
    os.environ.setdefault("OMP_NUM_THREADS", str(options.cores or computing_cores()))
    from marsam.diffusion.weights.net import quieten

    quieten()
    if options.command != "train":
        return _answer(options)
    bind(run=options.run, attempt=options.attempt)
    with Beat(options.beat_file), Bridge() as bridge:
        return _train(options, bridge, stop)


def _train(options: argparse.Namespace, bridge: Bridge, stop: Stop) -> int:
    from marsam_trainer.run.reporter import SILENCE_S
    from marsam_trainer.run.work import Stopped

    blobs: Blobs | None = None
    try:
        name = parse(options.run, "run")
        # A checkpoint waits for the store as long as the reports do: ending the attempt would cost more than waiting.
        blobs = open_store(options.store, patience_s=SILENCE_S)
        _attempt(options, bridge, stop, blobs)
    except Stopped:
        _log.info("run.stopped")
        return codes.STOPPED
    except Exception as error:
        code = codes.code_of(error)
        _log.exception(
            "run.failed", exit_code=code, reason=getattr(error, "reason", type(error).__name__), message=str(error)
        )
        if blobs is not None:
            with contextlib.suppress(Exception):
                key = keys.attempt_file(name.project, "runs", name.id, options.attempt, "failure.json")
                # The first of several ranks that fails is the one that knows why.
                bridge.call(blobs.create(key, canonical(_failure(error, code))), timeout_s=30.0)
        return code
    return codes.DONE


def _attempt(options: argparse.Namespace, bridge: Bridge, stop: Stop, blobs: Blobs) -> None:
    import torch

    from marsam.diffusion.devices.net import gpu_memory
    from marsam_trainer.run import publish
    from marsam_trainer.run.drawing import fell_before
    from marsam_trainer.run.ranks import joined, local_rank
    from marsam_trainer.run.reporter import Reporter, Silent
    from marsam_trainer.run.train import train
    from marsam_trainer.run.work import Work, load_order

    device = options.device or (f"cuda:{local_rank()}" if torch.cuda.is_available() else "cpu")
    name = parse(options.run, "run")
    jobs = JobStore(blobs, name.project, "runs", SystemClock())
    ordered = load(RunSpec, bridge.call(jobs.spec(name.id)), what=options.run)
    history = bridge.call(jobs.history(name.id))
    spec = ordered.as_changed(entry.detail for entry in history)
    base, version, apart = load_order(bridge, blobs, spec)
    meter = Meter(service="run", version=publish.code_version(), everywhere={metrics.RUN_LABEL: name.id})
    if device != "cpu":
        meter.add_memory_source(gpu_memory)
    meter.set(
        metrics.RUN_INFO,
        1,
        project=name.project,
        family=base.family,
        method=spec.method,
        base=base.name,
        dataset=version.name,
        device=device,
        precision=spec.precision,
    )
    with joined(spec.processes, device=device) as world, contextlib.ExitStack() as stack:
        reporter: Reporter | Silent = Silent()
        if world.first:
            stack.enter_context(_scraped(meter, options.metrics_host, options.metrics_port))
            reporter = Reporter(
                bridge,
                jobs,
                name.id,
                options.attempt,
                meter,
                steps=spec.steps,
                device=device,
                family=base.family,
                method=spec.method,
                metrics_port=options.metrics_port,
            )
            stack.enter_context(reporter)
        model = train(
            Work(
                bridge=bridge,
                jobs=jobs,
                spec=spec,
                base=base,
                version=version,
                regularisation=apart,
                attempt=options.attempt,
                cache=options.cache,
                cache_bytes=options.cache_bytes,
                device=device,
                cores=options.cores or computing_cores(),
                lanes=options.lanes,
                meter=meter,
                reporter=reporter,
                stopping=stop,
                undrawn=fell_before(history),
                memory_limit=options.memory_limit,
                memory_correction=dict(options.memory_correction).get(device.partition(":")[0], 1.0),
                world=world,
            )
        )
        if model is not None:
            reporter.event("log", level="info", message=f"published {model.name}")
            _log.info("run.published", model=model.name, digest=model.digest)


@contextlib.contextmanager
def _scraped(meter: Meter, host: str, port: int) -> Iterator[None]:
    if not port:
        yield
        return
    try:
        listener = listen(host, port)
    except OSError as error:  # taken since it was chosen: no reason to train nothing
        _log.warning("run.not_scraped", message=str(error))
        yield
        return
    with serving_in_thread(application(meter, ready=lambda: True), listener):
        yield


def _failure(error: Exception, code: int) -> dict[str, object]:
    """What the trainer records of an attempt that failed."""
    rank = {"rank": int(os.environ["RANK"])} if _ranks() > 1 else {}
    if isinstance(error, MarsamError):
        return {
            "exit_code": code,
            "reason": error.reason,
            "message": error.message,
            "field": error.field,
            "remedy": error.remedy,
            **rank,
        }
    return {
        "exit_code": code,
        "reason": "OUT_OF_MEMORY" if code == codes.OUT_OF_MEMORY else type(error).__name__.upper(),
        "message": str(error)[:2000],
        "field": None,
        "remedy": "",
        **rank,
    }


def _answer(options: argparse.Namespace) -> int:
    """Print what was asked of a spec as one line of JSON; what went wrong is in its `faults`."""
    try:
        with Bridge() as bridge:
            text = options.spec.read_bytes() if options.spec is not None else options.spec_json.encode()
            what = str(options.spec or "--spec-json")
            blobs = open_store(options.store)
            if options.command == "plan":
                from marsam_trainer.run.plan import plan

                spec = load(RunSpec, text, what=what)
                found = plan(bridge, blobs, spec, cache=options.cache, device=options.device, together=options.together)
            elif options.command == "probe":
                from marsam_trainer.run.probe import probe

                found = probe(bridge, blobs, load(RunSpec, text, what=what), cache=options.cache)
            else:
                from marsam_trainer.run.convert import convert

                found = convert(bridge, blobs, load(Conversion, text, what=what), cache=options.cache)
    except (MarsamError, OSError, MemoryError) as error:
        code = codes.code_of(error)
        sys.stdout.write(json.dumps({"faults": [_failure(error, code)]}) + "\n")
        return code
    sys.stdout.write(json.dumps(found) + "\n")
    return codes.DONE


def _leave(code: int) -> None:
    """End the process with `code`. Not by the interpreter's own way where there are several ranks: threads of torch
    that still listen to the others abort it there, and the code is lost."""
    if _ranks() > 1:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    _leave(main())
