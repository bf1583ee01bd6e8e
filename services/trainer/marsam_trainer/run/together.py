"""What ranks do together before and after a run's steps: files fetched once, pictures shared out, parts put
together."""

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from marsam.diffusion.method import Kind, Method
from marsam.diffusion.precision import Precision
from marsam.diffusion.spec import Components, Family
from marsam_trainer.run.holding import Holding, Shards, Whole
from marsam_trainer.run.ranks import checksums
from marsam_trainer.run.samples import Sample
from marsam_trainer.run.work import Stopped, Work


@contextlib.contextmanager
def scratch(work: Work) -> Iterator[Path]:
    """A folder of the attempt's and the rank's own, gone with it. What killed attempts left behind goes now."""
    attempts = work.cache / "runs" / work.spec.id
    ours = attempts / str(work.attempt) / str(work.world.rank)
    for attempt in range(1, work.attempt):
        shutil.rmtree(attempts / str(attempt), ignore_errors=True)
    shutil.rmtree(ours, ignore_errors=True)
    ours.mkdir(parents=True)
    try:
        yield ours
    finally:
        shutil.rmtree(ours, ignore_errors=True)
        with contextlib.suppress(OSError):
            ours.parent.rmdir()
            attempts.rmdir()


@contextlib.contextmanager
def one_by_machine(work: Work) -> Iterator[None]:
    """One rank of each machine goes through first; the others find in the machine's cache what it fetched."""
    if work.world.local_rank:
        work.world.meet()
    yield
    if not work.world.local_rank:
        work.world.meet()


def encode_shares(work: Work, samples: Sequence[Sample], encode: Callable[[Sequence[Sample]], object]) -> Work:
    """Let every rank of a machine `encode` its share of the samples into the machine's cache, and wait until all have.

    Returns the work for reading everything from there, which no rank breaks off alone. Raises `Stopped` when any was
    asked to stop.
    """
    world, stopped = work.world, False
    if world.size == 1:
        return work
    try:
        share = samples[world.local_rank :: world.local_size]
        if share:
            encode(share)
    except Stopped:
        stopped = True
    if world.any_prepared(stopped):
        raise Stopped
    return replace(work, stopping=lambda: False)


def hold(work: Work, parts: Components, trained: dict[str, Any]) -> tuple[Components, Holding]:
    """The model as this rank is to hold it, on its device. Raises `Corrupt` (RANKS_DIFFER) unless all begin with the
    same weights."""
    work.world.same("starting weights", checksums(trained))
    if work.spec.sharding == "replicated":
        return parts, Whole(work.world, trained)
    for part in (*parts.text.values(), parts.image_coder):
        if isinstance(part, nn.Module):
            part.to(work.device)
    precision = Precision(work.spec.precision)
    holding = Shards(work.world, parts.denoiser, trained, device=work.device, precision=precision)
    return replace(parts, device=work.device), holding


def whole(
    holding: Holding,
    parts: Components,
    modules: Mapping[str, nn.Module],
    family: Family,
    method: Method,
    params: Mapping[str, Any],
) -> Mapping[str, nn.Module]:
    """What was tuned, as `Method.save` takes it. A denoiser in parts is put together on the first rank's CPU, as far as
    it is saved; the other ranks get nothing."""
    if not isinstance(holding, Shards):
        return modules
    folder = family.facts.denoiser_folder
    names = holding.named if method.facts.kind is Kind.FULL else holding.cut
    kept = {name: value for name, value in holding.whole(names) if holding.world.first}
    if not holding.world.first:
        return {}
    kept |= {name: value.cpu() for name, value in modules[folder].named_buffers()}
    empty = family.empty_denoiser(parts.source)
    method.attach({folder: empty}, family.facts, params, seed=0)
    empty.load_state_dict(kept, strict=False, assign=True)
    return {**modules, folder: empty}
