"""One attempt of a run, from its name to a published model."""

import contextlib
import math
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from marsam.catalog.checkpoints import Checkpoint
from marsam.catalog.models import Model
from marsam.diffusion import registry, schedule, tuned
from marsam.diffusion.lanes.net import Lanes
from marsam.diffusion.nf4.net import quantised_share
from marsam.diffusion.parts.net import draws, networks
from marsam.diffusion.spec import Components, Family, Part, Precision
from marsam.diffusion.weights.net import bytes_at_rest
from marsam.store.cache import Cache
from marsam_trainer.run import checkpoint, cutting, material, probe, publish, randomness
from marsam_trainer.run.data import Encoder
from marsam_trainer.run.drawing import Drawing
from marsam_trainer.run.encoded import EncodedCache
from marsam_trainer.run.estimate import estimate
from marsam_trainer.run.feed import Feed, TrainingSet
from marsam_trainer.run.footprint import SAMPLES
from marsam_trainer.run.loop import Loop, Plan
from marsam_trainer.run.mixture import Mixture
from marsam_trainer.run.recompute import checkpoint_blocks
from marsam_trainer.run.reporter import device_memory
from marsam_trainer.run.samples import held_out_of, regularisation_of, samples_of
from marsam_trainer.run.stepping import resume, take_steps
from marsam_trainer.run.validation import MOST, HeldOut
from marsam_trainer.run.work import Work


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


def _lanes(work: Work, mark: Checkpoint | None) -> Lanes:
    """As many lanes as the cores allow; as many as the checkpoint was made with when the run continues one, because
    sums over another number of pieces round differently. A GPU takes the batch whole."""
    if work.device != "cpu":
        return Lanes(work.cores, count=1)
    if mark is not None and work.lanes is None:
        return Lanes(mark.cores, count=mark.lanes)
    return Lanes(work.cores, count=work.lanes)


def _train(work: Work, scratch: Path, lanes: Lanes, found: tuple[Checkpoint, Path] | None) -> Model:
    began = time.monotonic()
    spec, base = work.spec, work.base
    family = registry.family(base.family)
    params = registry.method_params(spec.method, spec.method_params, family=base.family)
    cache = Cache(work.cache, budget=work.cache_bytes)
    source = work.bridge.call(cache.lay_out(work.jobs.blobs, spec.project, base.files, scratch / "base"))
    facts = registry.read_base_folder(base.family, source)
    facts.check_size(spec.resolution, spec.resolution)
    if found is None:
        # Again, because a run may be recorded where nobody could ask in time.
        for remark in probe.check(source, facts, (work.version, work.regularisation), spec.languages):
            work.reporter.event("log", level="warning", message=remark)
    planned = estimate(work, source, facts, lanes=lanes.count)
    encoder = Encoder(
        family=family,
        base=base,
        source=source,
        cache=EncodedCache(work.cache),
        precision=Precision(spec.precision),
        device=work.device,
        lanes=lanes,
    )
    learnt = samples_of(work.version, spec.languages)
    method = registry.method(spec.method)
    words = Part.TEXT in tuned.parts_of(params)
    sizes = cutting.sizes(work, facts)
    encode = partial(material.encode, work, encoder, cache, scratch / "pictures", sizes, words=words)
    apart = held_out_of(work.version, spec.languages)[:MOST]
    kept = regularisation_of(work.regularisation, spec.languages) if work.regularisation is not None else []
    if found is None:
        cutting.tell(work, learnt, sizes)
        cutting.tell(work, kept, sizes, of="the regularisation version")
    samples = encode(learnt)
    aside, others = (encode(some) if some else None for some in (apart, kept))
    work.bridge.call(cache.trim())
    prompts = list(spec.preview.prompts if spec.preview else _sample_prompts(work))
    texts = None if words else encoder.texts([*prompts, *[""] * len(prompts)])
    encoder.release(Part.TEXT)
    encoder.release(Part.IMAGE)
    work.reporter.phase("loading")
    quantisation = method.quantisation(params)
    parts = family.load(
        source,
        parts=tuned.parts_of(params),
        precision=Precision(spec.precision),
        device=work.device,
        quantisation=quantisation,
    )
    share = quantised_share(parts.denoiser)
    modules = tuned.modules(parts, family.facts, method.facts, params)
    trained = method.attach(modules, family.facts, params, seed=spec.seed)
    if spec.gradient_checkpointing:
        for module in modules.values():
            checkpoint_blocks(module)
    feed = _feed(work, parts, samples, others)
    dropout = float(params.get("dropout", 0.0)) > 0.0 or draws(parts)
    loop = _loop(work, family, parts, trained, feed, lanes, dropout=dropout)
    if found is not None:
        resume(work, loop, *found)
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
    held_out = _held_out(work, parts, aside) if aside is not None else None
    seconds = take_steps(work, loop, drawing, held_out, scratch)
    work.reporter.phase("publishing")
    loop.settle()
    artifact = scratch / "artifact"
    header = {
        "base_digest": base.digest,
        "run": spec.name,
        "method": spec.method,
        "code_version": publish.code_version(),
    }
    paths = method.save(modules, family.facts, artifact, metadata=header)
    publish.check_artifact(method.facts.kind, artifact, trained)
    pictures = drawing.draw() or []
    outcome = publish.Outcome(
        folder=artifact,
        paths=paths,
        samples=pictures,
        shown=drawing.shown() if pictures else [],
        losses=loop.position.losses,
        validation=loop.position.validation,
        metrics=_metrics(work, loop, share=share, seconds=seconds, began=began, artifact=artifact, paths=paths)
        | cutting.numbers(work, learnt, sizes)
        | planned.beside(work, seconds=seconds, steps=loop.position.step - first),
        quantisation=quantisation.label() if quantisation else "",
        libraries=publish.libraries(),
        device=work.device,
    )
    return work.bridge.call(
        publish.publish(
            work.jobs.blobs, work.jobs.clock, spec, work.attempt, base=base, version=work.version, outcome=outcome
        )
    )


def _held_out(work: Work, parts: Components, aside: TrainingSet) -> HeldOut:
    spec = work.spec
    return HeldOut(aside, schedule.by_cells(parts.facts), seed=spec.seed, batch_size=spec.batch_size)


def _sample_prompts(work: Work) -> list[str]:
    """Captions that a run without preview prompts is shown by: the first of each of a few samples, languages in
    turn."""
    samples = samples_of(work.version, work.spec.languages)
    spoken = [sample.captions for sample in samples if sample.captions]
    stride = max(1, len(spoken) // SAMPLES)
    return [captions[row % len(captions)] for row, captions in enumerate(spoken[::stride][:SAMPLES])] or [""]


def _feed(work: Work, parts: Components, samples: TrainingSet, others: TrainingSet | None) -> Feed | Mixture:
    """Batches of what is to be learnt, among them those of `others`: what must not be forgotten."""
    spec = work.spec

    def feed(of: TrainingSet, seed: int) -> Feed:
        return Feed(
            of,
            schedule.by_cells(parts.facts),
            seed=seed,
            batch_size=spec.step_size,
            caption_dropout=spec.caption_dropout,
            bucketed=spec.aspect_buckets,
        )

    learnt = feed(samples, spec.seed)
    if others is None:
        return learnt
    apart = feed(others, randomness.bits(spec.seed, "regularisation"))
    return Mixture(learnt, apart, share=spec.regularisation_share, weight=spec.regularisation_weight)


def _loop(
    work: Work,
    family: Family,
    parts: Components,
    trained: dict[str, Any],
    feed: Feed | Mixture,
    lanes: Lanes,
    *,
    dropout: bool,
) -> Loop:
    spec = work.spec
    plan = Plan(
        steps=spec.steps,
        learning_rate=spec.learning_rate,
        warmup_steps=spec.warmup_steps,
        seed=spec.seed,
        snr_gamma=spec.snr_gamma,
        ema_decay=spec.ema_decay,
        optimiser=spec.optimiser,
        accumulate=spec.accumulate,
    )
    return Loop(
        family, parts, registry.objective(parts.facts.objective), trained, feed, plan, lanes=lanes, reseed=dropout
    )


def _metrics(
    work: Work,
    loop: Loop,
    *,
    share: float,
    seconds: float,
    began: float,
    artifact: Path,
    paths: tuple[str, ...],
) -> dict[str, float]:
    losses = [loss for loss in loop.position.losses if math.isfinite(loss)]
    last = losses[-max(1, len(losses) // 10) :]
    validation = {}
    if loop.position.validation:
        best = min(loop.position.validation, key=lambda point: point[1])
        validation = {
            "validation_loss_first": loop.position.validation[0][1],
            "validation_loss": loop.position.validation[-1][1],
            "validation_loss_best": best[1],
            "validation_best_step": float(best[0]),
        }
    return validation | {
        "steps": float(loop.position.step),
        "samples": float(len(loop.feed.samples)),
        **({"regularisation_samples": float(len(loop.feed.apart.samples))} if isinstance(loop.feed, Mixture) else {}),
        "final_loss": sum(last) / len(last) if last else 0.0,
        # Of this attempt: another one's steps took another time.
        "images_per_second": loop.shown / seconds if seconds else 0.0,
        "train_seconds": seconds,
        "attempt_seconds": time.monotonic() - began,
        "peak_memory_bytes": float(device_memory(work.device).peak),
        "weights_at_rest_bytes": float(sum(bytes_at_rest(network) for network in networks(loop.parts))),
        "trainable_parameters": float(sum(value.numel() for value in loop.trained.values())),
        "artifact_bytes": float(sum((artifact / path).stat().st_size for path in paths)),
        "quantised_share": share,
        "attempts": float(work.attempt),
        "lanes": float(loop.lanes.count),
    }
