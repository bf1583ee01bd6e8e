"""One attempt of a run, from its name to a published model."""

import contextlib
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from marsam.catalog.models import Model
from marsam.core.errors import Invalid, Precondition
from marsam.core.ids import digest_of
from marsam.core.records import dump
from marsam.diffusion import registry
from marsam.diffusion.lanes.net import Lanes
from marsam.diffusion.nf4.net import quantised_share
from marsam.diffusion.spec import Components, Family, Part, Precision
from marsam.diffusion.weights.net import bytes_at_rest
from marsam.store.cache import Cache
from marsam.telemetry import metrics
from marsam.telemetry.logs import Log
from marsam_trainer.run import checkpoint, codes, publish
from marsam_trainer.run.data import Encoder, samples_of
from marsam_trainer.run.drawing import Drawing, show
from marsam_trainer.run.encoded import EncodedCache
from marsam_trainer.run.feed import Feed, TrainingSet
from marsam_trainer.run.loop import Loop, Plan
from marsam_trainer.run.reporter import device_memory
from marsam_trainer.run.work import Stopped, Work

NOT_FINITE_LIMIT = 3
"""Steps in a row without a finite loss after which a run ends: it does not come back by itself."""

SAMPLES = 4
_log = Log(__name__)


def train(work: Work) -> Model:
    """Train, and publish what came out. Raises `Stopped` after a checkpoint when asked to stop."""
    with _scratch(work) as scratch:
        found = work.bridge.call(checkpoint.newest(work.place, work.attempt, scratch))
        with _lanes(work, found[0] if found else None) as lanes:
            return _train(work, scratch, lanes, found)


@contextlib.contextmanager
def _scratch(work: Work) -> Iterator[Path]:
    """A folder of the attempt's own, gone with it. What killed attempts left behind goes now."""
    ours = work.cache / "runs" / work.spec.id / str(work.attempt)
    for attempt in range(1, work.attempt + 1):
        shutil.rmtree(ours.with_name(str(attempt)), ignore_errors=True)
    ours.mkdir(parents=True)
    try:
        yield ours
    finally:
        shutil.rmtree(ours, ignore_errors=True)
        with contextlib.suppress(OSError):
            ours.parent.rmdir()


def _lanes(work: Work, mark: checkpoint.Checkpoint | None) -> Lanes:
    """As many lanes as the cores allow; as many as the checkpoint was made with when the run continues one, because
    sums over another number of pieces round differently. A GPU takes the batch whole."""
    if work.device != "cpu":
        return Lanes(work.cores, count=1)
    if mark is not None and work.lanes is None:
        return Lanes(mark.cores, count=mark.lanes)
    return Lanes(work.cores, count=work.lanes)


def _train(work: Work, scratch: Path, lanes: Lanes, found: tuple[checkpoint.Checkpoint, Path] | None) -> Model:
    began = time.monotonic()
    spec, base = work.spec, work.base
    family = registry.family(base.family)
    params = registry.method_params(spec.method, spec.method_params, family=base.family)
    cache = Cache(work.cache)
    source = work.bridge.call(cache.lay_out(work.jobs.blobs, spec.project, base.files, scratch / "base"))
    facts = registry.read_base_folder(base.family, source)
    facts.check_size(spec.resolution, spec.resolution)
    encoder = Encoder(
        family=family,
        base=base,
        source=source,
        cache=EncodedCache(work.cache),
        precision=Precision(spec.precision),
        device=work.device,
        lanes=lanes,
    )
    samples = _encode(work, encoder, cache)
    prompts = list(spec.preview.prompts if spec.preview else _sample_prompts(work))
    texts = encoder.texts([*prompts, *[""] * len(prompts)])
    encoder.release(Part.TEXT)
    encoder.release(Part.IMAGE)
    work.reporter.phase("loading")
    method = registry.method(spec.method)
    quantisation = method.quantisation(params)
    parts = family.load(
        source,
        parts=frozenset({Part.DENOISER}),
        precision=Precision(spec.precision),
        device=work.device,
        quantisation=quantisation,
    )
    share = quantised_share(parts.denoiser)
    trained = method.attach(_denoiser(parts), family.facts, params, seed=spec.seed)
    loop = _loop(work, family, parts, trained, samples, lanes, dropout=float(params.get("dropout", 0.0)) > 0.0)
    if found is not None:
        _resume(work, loop, *found)
    first = loop.position.step
    drawing = Drawing(
        family=family,
        parts=parts,
        encoder=encoder,
        prompts=prompts,
        texts=texts,
        side=spec.resolution,
        seed=spec.seed,
    )
    seconds = _run(work, loop, drawing, scratch)
    work.reporter.phase("publishing")
    loop.settle()
    artifact = scratch / "artifact"
    header = {
        "base_digest": base.digest,
        "run": spec.name,
        "method": spec.method,
        "code_version": publish.code_version(),
    }
    paths = method.save(_denoiser(parts), artifact, metadata=header)
    publish.check_artifact(method.facts.kind, artifact, trained)
    outcome = publish.Outcome(
        folder=artifact,
        paths=paths,
        samples=drawing.draw() or [],
        prompts=prompts,
        losses=loop.position.losses,
        metrics=_metrics(
            work, loop, share=share, seconds=seconds, first=first, began=began, artifact=artifact, paths=paths
        ),
        quantisation=quantisation.label() if quantisation else "",
        libraries=publish.libraries(),
    )
    return work.bridge.call(
        publish.publish(
            work.jobs.blobs, work.jobs.clock, spec, work.attempt, base=base, version=work.version, outcome=outcome
        )
    )


def _denoiser(parts: Components) -> Any:
    assert parts.denoiser is not None
    return parts.denoiser


def _encode(work: Work, encoder: Encoder, cache: Cache) -> TrainingSet:
    """Every picture and caption of the version, encoded; from the cache where it was before."""
    samples = samples_of(work.version, work.spec.languages)
    files: dict[str, Path] = {}
    for done, sample in enumerate(samples):
        work.caching(done, len(samples))
        if sample.image.digest not in files:
            files[sample.image.digest] = work.bridge.call(
                cache.fetch(work.jobs.blobs, work.spec.project, sample.image.digest, sample.image.size)
            )
    return encoder.training_set(samples, files, work.spec.resolution, progress=work.caching)


def _sample_prompts(work: Work) -> list[str]:
    """Captions that a run without preview prompts is shown by: the first of each of a few samples, languages in
    turn."""
    samples = samples_of(work.version, work.spec.languages)
    spoken = [sample.captions for sample in samples if sample.captions]
    stride = max(1, len(spoken) // SAMPLES)
    return [captions[row % len(captions)] for row, captions in enumerate(spoken[::stride][:SAMPLES])] or [""]


def _loop(
    work: Work,
    family: Family,
    parts: Components,
    trained: dict[str, Any],
    samples: TrainingSet,
    lanes: Lanes,
    *,
    dropout: bool,
) -> Loop:
    spec = work.spec
    feed = Feed(
        samples, parts.schedule, seed=spec.seed, batch_size=spec.batch_size, caption_dropout=spec.caption_dropout
    )
    plan = Plan(
        steps=spec.steps,
        learning_rate=spec.learning_rate,
        warmup_steps=spec.warmup_steps,
        seed=spec.seed,
        snr_gamma=spec.snr_gamma,
        ema_decay=spec.ema_decay,
    )
    return Loop(
        family, parts, registry.objective(parts.facts.objective), trained, feed, plan, lanes=lanes, reseed=dropout
    )


def _spec_digest(work: Work) -> str:
    return digest_of(dump(work.spec))


def _resume(work: Work, loop: Loop, mark: checkpoint.Checkpoint, state: Path) -> None:
    """Continue from a checkpoint of the attempts before."""
    if mark.spec_digest != _spec_digest(work):
        raise Invalid("the checkpoint is of another order", reason="CHECKPOINT_MISMATCH", remedy="start a new run")
    loop.restore(load_file(state), mark.step)
    state.unlink()
    _log.info("run.resumed", step=mark.step, attempt=mark.attempt)
    work.reporter.event("log", level="info", message=f"resumed at step {mark.step} of attempt {mark.attempt}")


def _run(work: Work, loop: Loop, drawing: Drawing, scratch: Path) -> float:
    """Take every step that is left, and return the seconds that steps took. Raises `Stopped`, or when losses stay
    NaN."""
    spec, spent, saved = work.spec, 0.0, loop.position.step
    work.meter.set(metrics.CHECKPOINT_EVERY, spec.checkpoint_every)
    work.meter.begin(metrics.CHECKPOINTS)
    _mark(work, saved)
    while not loop.done:
        if work.stopping():
            if loop.position.step > saved:
                _save(work, loop, scratch)
            raise Stopped
        work.reporter.check()
        began = time.monotonic()
        loss = loop.step()
        seconds = time.monotonic() - began
        spent += seconds
        done = loop.position.step
        work.reporter.step(
            done,
            loss=loss,
            norm=loop.norm,
            images=spec.batch_size,
            seconds=seconds,
            spent=loop.spent,
            learning_rate=loop.plan.rate(done - 1),
        )
        if loop.position.unlearnt() >= NOT_FINITE_LIMIT:
            raise Precondition(
                f"{NOT_FINITE_LIMIT} steps in a row, up to step {done}, gave no finite loss",
                reason=codes.NOT_FINITE_REASON,
                remedy="lower the learning rate, or train in fp32; the last good checkpoint was kept",
            )
        # While losses are not finite there is nothing worth keeping: the checkpoint before is the good one.
        if done % spec.checkpoint_every == 0 and not loop.done and math.isfinite(loss):
            _save(work, loop, scratch)
            saved = done
        if spec.preview and done % spec.preview.every == 0 and not loop.done:
            show(work, drawing, done)
    return spent


def _mark(work: Work, step: int) -> None:
    """Tell that a new attempt would go on from `step`."""
    work.meter.set(metrics.CHECKPOINT_STEP, step)
    work.meter.set(metrics.CHECKPOINT_TIME, work.jobs.clock.now().timestamp())


def _save(work: Work, loop: Loop, scratch: Path) -> None:
    work.reporter.phase("checkpoint")
    began = time.monotonic()
    path = scratch / "checkpoint.safetensors"
    digest, size = checkpoint.write_state(loop.state(), path)
    mark = checkpoint.Checkpoint(
        attempt=work.attempt,
        step=loop.position.step,
        spec_digest=_spec_digest(work),
        state_digest=digest,
        state_size=size,
        cores=loop.lanes.cores,
        lanes=loop.lanes.count,
        code_version=publish.code_version(),
        libraries=publish.libraries(),
    )
    work.bridge.call(checkpoint.save(work.place, mark, path))
    path.unlink()
    work.meter.inc(metrics.CHECKPOINTS)
    work.meter.set(metrics.CHECKPOINT_SECONDS, time.monotonic() - began)
    work.meter.set(metrics.CHECKPOINT_BYTES, size)
    _mark(work, mark.step)
    work.reporter.event("checkpoint", step=mark.step, bytes=size)


def _metrics(
    work: Work,
    loop: Loop,
    *,
    share: float,
    seconds: float,
    first: int,
    began: float,
    artifact: Path,
    paths: tuple[str, ...],
) -> dict[str, float]:
    losses = [loss for loss in loop.position.losses if math.isfinite(loss)]
    last = losses[-max(1, len(losses) // 10) :]
    # Of this attempt: another one's steps took another time.
    taken = loop.position.step - first
    return {
        "steps": float(loop.position.step),
        "samples": float(len(loop.feed.samples)),
        "final_loss": sum(last) / len(last) if last else 0.0,
        "images_per_second": work.spec.batch_size * taken / seconds if seconds else 0.0,
        "train_seconds": seconds,
        "attempt_seconds": time.monotonic() - began,
        "peak_memory_bytes": float(device_memory(work.device).peak),
        "weights_at_rest_bytes": float(bytes_at_rest(loop.parts.denoiser)),
        "trainable_parameters": float(sum(value.numel() for value in loop.trained.values())),
        "artifact_bytes": float(sum((artifact / path).stat().st_size for path in paths)),
        "quantised_share": share,
        "attempts": float(work.attempt),
        "lanes": float(loop.lanes.count),
    }
