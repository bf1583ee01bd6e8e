"""Which samples, captions, noise and times a step sees: a pure function of (seed, step), so resuming is only a
number.

All pictures of a batch are of one size. Where the samples differ in size, an epoch's last batch of a size is smaller
than the others rather than filled with pictures twice (see `turns`). It weighs less in the same proportion, so that
every picture counts the same.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from marsam.core.errors import Invalid
from marsam.diffusion.schedule import Schedule
from marsam.diffusion.spec import Conditioning
from marsam_trainer.run import randomness, turns

EMPTY = 0
"""The row of `TrainingSet.texts` that holds the empty caption."""


ScheduleOf = Callable[[int, int], Schedule]
"""The schedule for latents of so many cells in height and width."""


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """What a run trains on, encoded: N latents (C, h, w), which may differ in h and w, M caption rows, and for each
    sample the rows of its captions.

    Samples are in the order of their keys, which are digests of their content: equal material trains equally. `frames`
    (N, 6) says how each picture was cut (see `Conditioning`); None where nobody knows. Where text encoders train,
    captions cannot be encoded beforehand: `wordings` are the M captions themselves then, and `texts` has no tensor.
    `cells` says of samples by row what the error in each of their cells weighs (h, w), 1 on average (see `masks`);
    those of other rows weigh the same. `pixels` gives a sample's picture (3, H, W) in [-1, 1], where the image decoder
    trains.
    """

    keys: tuple[str, ...]
    latents: torch.Tensor | Sequence[torch.Tensor]
    texts: Conditioning
    captions: tuple[tuple[int, ...], ...]
    frames: torch.Tensor | None = None
    wordings: tuple[str, ...] = ()
    cells: Mapping[int, torch.Tensor] = field(default_factory=dict)
    pixels: Callable[[int], torch.Tensor] | None = None

    def __post_init__(self) -> None:
        if not self.keys:
            raise Invalid(
                "the dataset version has nothing to train on", field="dataset_version", reason="DATASET_EMPTY"
            )
        if not len(self.keys) == len(self.captions) == len(self.latents):
            raise Invalid("a training set needs one latent and one list of captions per sample")

    def __len__(self) -> int:
        return len(self.keys)

    def shape(self, row: int) -> tuple[int, int, int]:
        """(C, h, w) of a sample's latent."""
        channels, height, width = self.latents[row].shape
        return channels, height, width

    def conditioning(self, rows: Sequence[int], texts: Sequence[int]) -> Conditioning:
        """What steers the denoiser for the samples `rows`, each with its row of `texts`."""
        cond = self.texts.rows(texts)
        return cond if self.frames is None else cond.plus(frame=self.frames[list(rows)])

    def weights(self, rows: Sequence[int]) -> torch.Tensor | None:
        """What the cells of samples of one size weigh, (B, 1, h, w); None where all weigh the same in every sample."""
        if not self.cells:
            return None
        even = torch.ones(self.shape(rows[0])[1:])
        return torch.stack([self.cells.get(row, even) for row in rows]).unsqueeze(1)

    def pictures(self, rows: Sequence[int]) -> torch.Tensor | None:
        """The pictures of samples of one size (B, 3, H, W), where the image decoder trains."""
        return None if self.pixels is None else torch.stack([self.pixels(row) for row in rows])

    def said(self, texts: Sequence[int]) -> tuple[str, ...]:
        """The captions of some rows of texts, where they are not encoded."""
        return tuple(self.wordings[row] for row in texts) if self.wordings else ()


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's input: `clean` and `noise` (B, C, h, w), `t` (B,) float64, `signal` and `noise_level` (B, 1, 1, 1).

    `captions` are those that are yet to be encoded, where text encoders train; `weight` is what its loss weighs beside
    that of another step, `cells` (B, 1, h, w) what the error in each cell does beside that in another, if it matters.
    `pixels` (B, 3, H, W) are the pictures themselves, where the image decoder trains.
    """

    clean: torch.Tensor
    noise: torch.Tensor
    t: torch.Tensor
    signal: torch.Tensor
    noise_level: torch.Tensor
    cond: Conditioning
    rows: tuple[int, ...]
    texts: tuple[int, ...]
    weight: float = 1.0
    captions: tuple[str, ...] = ()
    cells: torch.Tensor | None = None
    pixels: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: str) -> "Batch":
        """The same batch on `device`."""
        return self._each(lambda value: value.to(device))

    def part(self, rows: slice) -> "Batch":
        """Some of its rows."""
        part = self._each(lambda value: value[rows] if isinstance(value, torch.Tensor) else value.rows(rows))
        return replace(part, rows=self.rows[rows], texts=self.texts[rows], captions=self.captions[rows])

    def _each(self, change: Callable[[Any], Any]) -> "Batch":
        names = ("clean", "noise", "t", "signal", "noise_level", "cond", "cells", "pixels")
        found = {name: getattr(self, name) for name in names}
        return replace(self, **{name: change(value) for name, value in found.items() if value is not None})


def make_batch(
    samples: TrainingSet,
    schedule: Schedule,
    *,
    rows: Sequence[int],
    texts: Sequence[int],
    times: Sequence[float],
    noise: Sequence[torch.Tensor],
) -> Batch:
    """The samples `rows`, which are of one size, each with its row of texts, its time and its noise (C, h, w)."""
    signal, noise_level = torch.tensor([schedule.levels(t) for t in times], dtype=torch.float32).unbind(1)
    return Batch(
        clean=torch.stack([samples.latents[row] for row in rows]),
        noise=torch.stack(list(noise)),
        t=torch.tensor(times, dtype=torch.float64),
        signal=signal.view(-1, 1, 1, 1),
        noise_level=noise_level.view(-1, 1, 1, 1),
        cond=samples.conditioning(rows, texts),
        rows=tuple(rows),
        texts=tuple(texts),
        captions=samples.said(texts),
        cells=samples.weights(rows),
        pixels=samples.pictures(rows),
    )


class Feed:
    """Batches of a training set by step, of at most `batch_size` samples. `bucketed`: samples differ in size, and no
    batch does."""

    def __init__(
        self,
        samples: TrainingSet,
        schedule: ScheduleOf,
        *,
        seed: int,
        batch_size: int,
        caption_dropout: float,
        bucketed: bool = False,
    ) -> None:
        self.samples = samples
        self.batch_size = batch_size
        self._seed = seed
        self._dropout = caption_dropout
        self._schedule = schedule
        if bucketed:
            sizes = [samples.shape(row)[1:] for row in range(len(samples))]
            self._turns = turns.by_size(samples.keys, sizes, seed=seed, batch_size=batch_size)
        else:
            self._turns = turns.in_a_row(samples.keys, seed=seed, batch_size=batch_size)

    def batch(self, step: int) -> Batch:
        """The input of step `step`, counted from 0."""
        rows = self.rows(step)
        texts = tuple(self._text(step, row) for row in rows)
        shape, keys = self.samples.shape(rows[0]), self.samples.keys
        batch = make_batch(
            self.samples,
            self._schedule(*shape[1:]),
            rows=rows,
            texts=texts,
            times=self.times(step),
            noise=[randomness.normal(shape, self._seed, "noise", step, keys[row]) for row in rows],
        )
        return replace(batch, weight=len(rows) / self.batch_size)

    def rows(self, step: int) -> tuple[int, ...]:
        """The samples of a step."""
        return self._turns(step)

    def times(self, step: int) -> tuple[float, ...]:
        """A time for each row, drawn under the schedule's own law and spread over the batch (stratified), which leaves
        the expectation alone and takes most of the variance between batches away."""
        rows = self.rows(step)
        schedule = self._schedule(*self.samples.shape(rows[0])[1:])
        return tuple(
            schedule.draw((i + randomness.unit(self._seed, "time", step, i)) / len(rows)) for i in range(len(rows))
        )

    def _text(self, step: int, row: int) -> int:
        key, choices = self.samples.keys[row], self.samples.captions[row]
        if not choices or randomness.unit(self._seed, "dropout", step, key) < self._dropout:
            return EMPTY
        return choices[randomness.bits(self._seed, "caption", step, key) % len(choices)]
