"""One attempt of a run, from its name to a published model."""

import math
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from marsam.catalog.checkpoints import Checkpoint
from marsam.catalog.models import Model
from marsam.diffusion import registry, schedule, tuned
from marsam.diffusion.lanes.net import Lanes
from marsam.diffusion.nf4.net import quantised_share
from marsam.diffusion.parts.net import draws, encoders, networks
from marsam.diffusion.precision import Precision
from marsam.diffusion.spec import Components, Family, Part
from marsam.diffusion.weights.net import bytes_at_rest
from marsam.store.cache import Cache
from marsam_trainer import times
from marsam_trainer.run import checkpoint, cutting, effect, material, probe, randomness, together
from marsam_trainer.run.bridge import FILES_S
from marsam_trainer.run.data import Encoder
from marsam_trainer.run.drawing import Drawing
from marsam_trainer.run.encoded import EncodedCache
from marsam_trainer.run.ending import Ending
from marsam_trainer.run.estimate import estimate
from marsam_trainer.run.feed import Feed, TrainingSet
from marsam_trainer.run.held import SAMPLES
from marsam_trainer.run.holding import Holding
from marsam_trainer.run.loop import Loop
from marsam_trainer.run.mixture import Mixture
from marsam_trainer.run.position import Plan
from marsam_trainer.run.ranks import ALONE
from marsam_trainer.run.recompute import checkpoint_blocks
from marsam_trainer.run.reporter import device_memory
from marsam_trainer.run.samples import held_out_of, regularisation_of, samples_of
from marsam_trainer.run.saving import Saver
from marsam_trainer.run.stepping import resume, take_steps
from marsam_trainer.run.validation import MOST, HeldOut
from marsam_trainer.run.work import Work


def train(work: Work) -> Model | None:
    """Train, and publish what came out; of several ranks the first does, and the others return None. Raises `Stopped`
    after a checkpoint when asked to stop."""
    with together.scratch(work) as scratch:
        found = work.bridge.call(checkpoint.newest(work.place, work.attempt, scratch, work.world), timeout_s=FILES_S)
        with _lanes(work, found[0] if found else None) as lanes:
            return _train(work, scratch, lanes, found)


def _lanes(work: Work, mark: Checkpoint | None) -> Lanes:
    """As many lanes as the cores allow; as many as the checkpoint was made with when the run continues one, because
    sums over another number of pieces round differently. A GPU takes the batch whole, and so does a model in parts,
    which the lanes of a rank would put together at once."""
    if work.device != "cpu" or work.spec.sharding == "sharded":
        return Lanes(work.cores, count=1)
    if mark is not None and work.lanes is None:
        return Lanes(mark.cores, count=mark.lanes)
    return Lanes(work.cores, count=work.lanes)


def _train(work: Work, scratch: Path, lanes: Lanes, found: tuple[Checkpoint, Path] | None) -> Model | None:
    began = time.monotonic()
    spec, base = work.spec, work.base
    family = registry.family(base.family)
    params = registry.method_params(spec.method, spec.method_params, family=base.family)
    cache = Cache(work.cache, budget=work.cache_bytes)
    with together.one_by_machine(work):
        lay_out = cache.lay_out(work.jobs.blobs, spec.project, base.files, scratch / "base")
        source = work.bridge.call(lay_out, timeout_s=FILES_S)
    facts = registry.read_base_folder(base.family, source).as_said(base.params)
    facts.check_size(spec.resolution, spec.resolution)
    schedule.of(facts, spec.resolution, spec.resolution, times.of(spec))  # refused before anything is loaded
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
    words, pixels = (part in tuned.parts_of(params) for part in (Part.TEXT, Part.IMAGE))
    sizes = cutting.sizes(work, facts)
    encode = partial(
        material.encode,
        encoder=encoder,
        cache=cache,
        folder=scratch / "pictures",
        sizes=sizes,
        words=words,
        pixels=pixels,
    )
    every = held_out_of(work.version, spec.languages)
    apart = every[:MOST]
    kept = regularisation_of(work.regularisation, spec.languages) if work.regularisation is not None else []
    if found is None:
        material.tell_wordless(work, [*learnt, *kept])
        material.tell_unasked(work, len(every), len(apart))
        cutting.tell(work, learnt, sizes)
        cutting.tell(work, kept, sizes, of="the regularisation version")
    reading = together.encode_shares(work, [*learnt, *apart, *kept], lambda share: encode(work, samples=share))
    samples = encode(reading, samples=learnt)
    aside, others = (encode(reading, samples=some) if some else None for some in (apart, kept))
    work.bridge.call(cache.trim())
    if work.cache_bytes is not None and not work.world.local_rank:
        encoder.cache.trim(work.cache_bytes)
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
        # What is cut up comes to the device in parts, unless it is quantised there.
        device="cpu" if spec.sharding == "sharded" and quantisation is None else work.device,
        quantisation=quantisation,
    )
    parts = replace(parts, facts=facts)
    modules = tuned.modules(parts, family.facts, method.facts, params)
    trained = method.attach(modules, family.facts, params, seed=spec.seed)
    weights, names = _weights(parts, trained), list(trained)
    if spec.gradient_checkpointing:
        for module in networks(parts):
            checkpoint_blocks(module)
    parts, holding = together.hold(work, parts, trained)
    del trained  # where the model is cut up, they are replaced
    feed = _feed(work, parts, samples, others)
    dropout = float(params.get("dropout", 0.0)) > 0.0 or draws(parts)
    loop = _loop(work, family, parts, holding, feed, lanes, dropout=dropout)
    start = effect.Start(loop.trained)
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
        world=work.world if holding.sharded else ALONE,
        able=not work.undrawn,
    )
    if work.undrawn:
        message = f"an attempt before ended in a preview ({work.undrawn}): this one draws none, and no samples"
        work.reporter.event("log", level="warning", message=message)
    held_out = _held_out(work, parts, aside) if aside is not None else None
    with Saver(work, scratch, kept=found[0] if found else None) as saver:
        seconds = take_steps(work, loop, start, drawing, held_out, saver)
    work.reporter.phase("publishing")
    ending = Ending(
        work=work,
        loop=loop,
        method=method,
        modules=modules,
        whole=partial(together.whole, holding, parts, modules, family, method, params),
        names=names,
        start=start,
        drawing=drawing,
        quantisation=quantisation.label() if quantisation else "",
        numbers=weights
        | _metrics(work, loop, seconds=seconds, began=began)
        | saver.numbers
        | cutting.numbers(work, learnt, sizes)
        | planned.beside(work, seconds=seconds, steps=loop.position.step - first),
        scratch=scratch,
    )
    return ending.models()


def _weights(parts: Components, trained: dict[str, Any]) -> dict[str, float]:
    held = [parts.denoiser, *encoders(parts), *([parts.image_coder] if parts.image_coder is not None else [])]
    return {
        "weights_at_rest_bytes": float(sum(map(bytes_at_rest, held))),
        "trainable_parameters": float(sum(value.numel() for value in trained.values())),
        "quantised_share": quantised_share(parts.denoiser),
    }


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
            schedule.by_cells(parts.facts, times.of(spec)),
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
    holding: Holding,
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
        keep_best=spec.publish != "last",
    )
    objective = registry.objective(parts.facts.objective)
    return Loop(family, parts, objective, holding.trained, feed, plan, lanes=lanes, reseed=dropout, holding=holding)


def _metrics(
    work: Work,
    loop: Loop,
    *,
    seconds: float,
    began: float,
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
        "attempts": float(work.attempt),
        "lanes": float(loop.lanes.count),
        "processes": float(work.world.size),
    }
