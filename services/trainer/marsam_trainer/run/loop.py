"""The training loop: it knows neither family nor method, and reads like the equation.

    noisy = signal · clean + noise_level · noise
    loss  = mean over rows of weight · ‖predict(noisy, t, caption) - target‖²

Where the image decoder trains, ‖decode(clean) - picture‖² is added: no weight is in both terms.

What counts of a picture, where it is masked, is part of the weight (see `masks`). A step's gradient is that of its
loss times what the step weighs (see `mixture`, and `feed` for batches of fewer rows than others); the loss is told as
it is. What trains is always fp32. AdamW (`optimisers`), linear warm-up, cosine to zero, gradients clipped to norm 1.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import torch

from marsam.core.errors import Invalid
from marsam.diffusion.lanes.net import Lanes, cuts
from marsam.diffusion.objective import Objective
from marsam.diffusion.parts.net import at_rest, networks
from marsam.diffusion.precision import Precision
from marsam.diffusion.spec import Components, Family
from marsam_trainer.run import optimisers, randomness
from marsam_trainer.run.feed import Batch, Feed
from marsam_trainer.run.holding import Holding, Whole
from marsam_trainer.run.mixture import Mixture
from marsam_trainer.run.position import Plan, Position
from marsam_trainer.run.ranks import ALONE

CLIP_NORM = 1.0


class _Piece(NamedTuple):
    """What some rows of a batch gave; `forward` are the seconds until their loss was known."""

    loss: float
    gradients: tuple[torch.Tensor, ...]
    forward: float


def loss_of(family: Family, parts: Components, objective: Objective, batch: Batch, gamma: float | None) -> torch.Tensor:
    """The scalar loss of one batch. Captions that came as words are encoded here, by what trains of the encoders."""
    noisy = objective.noisy(batch.clean, batch.noise, batch.signal, batch.noise_level)
    target = objective.target(batch.clean, batch.noise, batch.signal, batch.noise_level)
    assert parts.denoiser is not None
    cond = batch.cond
    if batch.captions:
        cond = family.encode_text(parts, batch.captions).plus(**cond.tensors)
    predicted = family.predict(parts.denoiser, noisy, batch.t, cond, train_steps=parts.facts.train_steps)
    weight = objective.weight(batch.signal, batch.noise_level, gamma)
    if batch.cells is not None:
        weight = weight * batch.cells
    loss = (weight * (predicted.float() - target).square()).mean()
    return loss if batch.pixels is None else loss + _reconstruction(family, parts, batch)


def _reconstruction(family: Family, parts: Components, batch: Batch) -> torch.Tensor:
    """How far the decoder is from the pictures: the mean squared error in [-1, 1], in fp32, weighed by their masks."""
    with torch.autocast(parts.device, enabled=False):
        error = (family.decode(parts, batch.clean) - batch.pixels).square()
    if batch.cells is not None:  # a cell's weight is that of the pixels it stands for
        error = error * torch.nn.functional.interpolate(batch.cells, size=error.shape[-2:])
    return error.mean()


class Loop:
    """One run in memory: parameters by name, their optimiser, their moving average, and the position."""

    def __init__(
        self,
        family: Family,
        parts: Components,
        objective: Objective,
        trained: Mapping[str, torch.nn.Parameter],
        feed: Feed | Mixture,
        plan: Plan,
        *,
        lanes: Lanes,
        reseed: bool = False,
        holding: Holding | None = None,
    ) -> None:
        """A batch is cut into as many pieces as there are `lanes`, and their gradients are added in order. `holding`
        says which rows are this process' own, where several take a step together; `trained` is then its own.

        `reseed` is for methods that draw from torch's own generator (dropout): it is set anew for every step, and the
        pieces then run one after the other, because the generator is shared.
        """
        self.family, self.parts, self.objective, self.feed, self.plan = family, parts, objective, feed, plan
        self.trained = dict(trained)
        self.holding = holding or Whole(ALONE, self.trained)
        self.world = self.holding.world
        self.position = Position()
        self.lanes = lanes
        self._reseed = reseed
        self._networks = networks(parts)
        if feed.samples.wordings:
            # A tokenizer is set up by its first use, which no two lanes may make at once.
            with torch.no_grad():
                family.encode_text(parts, feed.samples.wordings[:1])
        self.optimiser = optimisers.make(plan.optimiser, list(self.trained.values()), plan.learning_rate)
        self.average = {name: value.detach().clone() for name, value in self.trained.items()} if plan.ema_decay else {}
        self.best: dict[str, torch.Tensor] = {}
        """On the CPU, what would have been published after the step with the lowest loss on what is held out so far,
        the untrained weights apart; empty before one was asked, and where nobody wants to know."""
        self.norm = math.nan
        """The gradient's norm at the last step, before it was clipped."""
        self.spent: Mapping[str, float] = {}
        """Where the last step's seconds went: data, forward, backward, optimiser."""
        self.shown = 0
        """How many pictures this loop's steps were shown, those twice that were shown twice."""

    @property
    def done(self) -> bool:
        """Whether every step was taken."""
        return self.position.step >= self.plan.steps

    def step(self) -> float:
        """Take one step and return its loss. A loss or gradient that is not finite changes nothing and returns NaN."""
        step, plan = self.position.step, self.plan
        began = time.monotonic()
        for group in self.optimiser.param_groups:
            group["lr"] = plan.rate(step)
        if self._reseed:
            # Each rank draws for other rows.
            rank = (self.world.rank,) if self.world.rank else ()
            torch.manual_seed(randomness.bits(plan.seed, "layers", step, *rank))
        for network in self._networks:
            network.train()
        batch = self.feed.batch(step).to(self.parts.device)
        fed = time.monotonic()
        value, forward = self._gradients(batch)
        # Reading the number waits for the device: only now is the backward pass over.
        self.norm = self.holding.clip(CLIP_NORM)
        known = time.monotonic()
        if math.isfinite(value) and math.isfinite(self.norm):
            optimisers.take_step(self.optimiser)
            self._follow()
        else:
            value = math.nan
        self.optimiser.zero_grad(set_to_none=True)
        self.position.step += 1
        self.position.losses.append(value)
        self.shown += len(batch)
        self.spent = {
            "data": fed - began,
            "forward": forward,
            "backward": max(0.0, known - fed - forward),
            "optimiser": time.monotonic() - known,
        }
        return value

    def _gradients(self, batch: Batch) -> tuple[float, float]:
        """Leave the gradient of the batch's loss on the parameters; return the loss and the seconds it took to know."""
        self.optimiser.zero_grad(set_to_none=True)
        parts = [batch.part(rows) for rows in cuts(len(batch), self.plan.accumulate)]
        taken = [self._part(part, len(batch)) for part in parts]
        self.holding.join()
        return self.world.totals([sum(loss for loss, _ in taken)])[0], sum(forward for _, forward in taken)

    def _part(self, part: Batch, of: int) -> tuple[float, float]:
        """Add the gradient of what is in memory at once: this rank's rows, its lanes side by side."""
        pieces = self._own(part)
        run = [self._piece(*piece, of) for piece in pieces] if self._reseed else None
        found = run or self.lanes.map(lambda piece: self._piece(*piece, of), pieces)
        for parameter, *gradients in zip(self.trained.values(), *(piece.gradients for piece in found), strict=True):
            if parameter.grad is None:
                parameter.grad = optimisers.laid_out(gradients.pop(0), parameter)
            for gradient in gradients:
                parameter.grad.add_(gradient)
        forward = sum(piece.forward for piece in found)
        return sum(piece.loss for piece in found), forward if self._reseed else forward / len(found)

    def _own(self, part: Batch) -> list[tuple[Batch, int]]:
        """This rank's rows in a piece for each lane, and how many rows each counts for. A rank without any computes
        one of the others' for nothing, because all ranks must go the same way."""
        mine = self.world.rows(len(part))
        if mine is None:
            return [(part.part(slice(0, 1)), 0)]
        own = part.part(mine)
        pieces = [own.part(rows) for rows in cuts(len(own), self.lanes.count)]
        return [(piece, len(piece)) for piece in pieces]

    def _piece(self, piece: Batch, rows: int, of: int) -> _Piece:
        """Loss and gradients of a piece that counts for `rows` of the `of` rows of the batch."""
        began = time.monotonic()
        with torch.autocast(self.parts.device, torch.bfloat16, enabled=self.parts.precision is Precision.BF16):
            loss = loss_of(self.family, self.parts, self.objective, piece, self.plan.snr_gamma) * (rows / of)
        value, forward = float(loss.detach()), time.monotonic() - began
        return _Piece(value, self.holding.gradients(loss * piece.weight), forward)

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch], *, stopping: Callable[[], bool]) -> float | None:
        """The mean loss of batches that nothing is learnt from, under the weights that would be published; noted beside
        the position when it is a number. None when `stopping`, which is asked before every batch, says so.
        """
        total, count = 0.0, 0
        with self.averaged(), at_rest(self.parts):
            for batch in batches:
                if stopping():
                    return None
                here = batch.to(self.parts.device)
                total += sum(self.lanes.map(lambda piece: self._held_out(*piece), self._own(here)))
                count += len(here)
            total = self.world.totals([total])[0]
            if math.isfinite(total):
                self._note(total / count)
        return total / count

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The weights that would be published are in place meanwhile: the moving average, where there is one."""
        learnt = {name: self.trained[name].detach().clone() for name in self.average}
        self.settle()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in learnt.items():
                    self.trained[name].copy_(value)

    def _note(self, loss: float) -> None:
        """Note the loss on what is held out of the weights that are in place, and keep those if they are the best."""
        step, before = self.position.step, [found for at, found in self.position.validation if at > 0]
        self.position.validation.append((step, loss))
        if self.plan.keep_best and step > 0 and loss < min(before, default=math.inf):
            self.best = {name: value.detach().to("cpu", copy=True) for name, value in self.trained.items()}

    @torch.no_grad()
    def _held_out(self, piece: Batch, rows: int) -> float:
        """The summed loss of a piece that counts for so many rows, unweighted. Whether gradients are kept belongs to
        the thread that asks."""
        with torch.autocast(self.parts.device, torch.bfloat16, enabled=self.parts.precision is Precision.BF16):
            return float(loss_of(self.family, self.parts, self.objective, piece, None)) * rows

    @torch.no_grad()
    def _follow(self) -> None:
        decay = self.plan.ema_decay
        for name, average in self.average.items():
            average.lerp_(self.trained[name], 1.0 - (decay or 0.0))

    @torch.no_grad()
    def settle(self) -> None:
        """Put the moving average, where there is one, in the place of the trained values: what a run publishes."""
        for name, average in self.average.items():
            self.trained[name].copy_(average)

    @property
    def best_step(self) -> int | None:
        """The step whose loss on what is held out is the lowest, the untrained weights apart; None before one was
        asked."""
        found = [(loss, step) for step, loss in self.position.validation if step > 0]
        return min(found)[1] if found else None

    @torch.no_grad()
    def settle_best(self) -> None:
        """Put the best weights in the place of the trained values."""
        for name, value in self.best.items():
            self.trained[name].copy_(value)

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that the next step depends on, as tensors by name."""
        tensors = {
            "losses": torch.tensor(self.position.losses, dtype=torch.float64),
            "validation": torch.tensor(self.position.validation, dtype=torch.float64).view(-1, 2),
        }
        for name, value in self.trained.items():
            tensors[f"param/{name}"] = value.detach()
        tensors.update(optimisers.state(self.optimiser, self.trained))
        tensors.update({f"average/{name}": value for name, value in self.average.items()})
        tensors.update({f"best/{name}": value for name, value in self.best.items()})
        return tensors

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, torch.Tensor], step: int) -> None:
        """Continue from `state`, taken when `step` steps were done. Raises `Invalid` unless exactly this run's names
        are there."""
        wanted = {f"param/{name}" for name in self.trained} | {f"average/{name}" for name in self.average}
        wanted |= {"losses"}
        # Checkpoints of before anything was held out have no word of it.
        validation = tensors.get("validation", torch.zeros(0, 2))
        given = {name for name in tensors if not name.startswith("optimiser/")} - {"validation"}
        if self.plan.keep_best and any(int(at) > 0 for at, _ in validation.tolist()):
            wanted |= {f"best/{name}" for name in self.trained}
        if wanted != given:
            odd = sorted(wanted ^ given)[:3]
            raise Invalid(f"the checkpoint does not fit this run: {odd}", reason="CHECKPOINT_MISMATCH")
        self.position = Position(
            step=step,
            losses=tensors["losses"].tolist(),
            validation=[(int(at), loss) for at, loss in validation.tolist()],
        )
        for name, value in self.trained.items():
            value.copy_(tensors[f"param/{name}"])
        optimisers.restore(self.optimiser, self.trained, tensors)
        for name, average in self.average.items():
            average.copy_(tensors[f"average/{name}"])
        self.best = {name: tensors[f"best/{name}"] for name in self.trained if f"best/{name}" in tensors}
