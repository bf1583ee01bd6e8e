"""From noise to a picture: plain functions that the generator's engine and a run's previews share.

One `Walk` is one picture: its own scheduler, its own noise, its own step index, so walks at different steps can share
a forward. Noise is drawn on the CPU from the picture's own seed: the same seed gives the same noise on any device and
in any batch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from marsam.core.errors import Cancelled, Invalid, Precondition, unknown_name
from marsam.diffusion import registry, schedule
from marsam.diffusion.guidance import as_long_as, guide
from marsam.diffusion.schedulers import SCHEDULERS, make_scheduler
from marsam.diffusion.spec import BaseFacts, Components, Conditioning, Family


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """What to draw. Sides in pixels; `guidance` 1 means without; `seed` in [0, 2^63); `scheduler` '' is the base's own.

    `embedded` is the guidance that a base with embedded guidance is told; None for others. `strength` in (0, 1] is the
    share of the steps that is taken of a picture that starts from another (`Ground`): the last ones.
    """

    prompt: str
    seed: int
    width: int
    height: int
    negative: str = ""
    steps: int = 20
    guidance: float = 5.0
    guidance_rescale: float = 0.0
    scheduler: str = ""
    embedded: float | None = None
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 1000:
            raise Invalid(
                f"steps must be between 1 and 1000, got {self.steps}", field="steps", reason="STEPS_OUT_OF_RANGE"
            )
        if not 0 <= self.seed < 2**63:
            raise Invalid(
                f"seed must be between 0 and 2^63 - 1, got {self.seed}", field="seed", reason="SEED_OUT_OF_RANGE"
            )
        if not 0.0 <= self.guidance <= 100.0:
            raise Invalid(
                f"guidance must be between 0 and 100, got {self.guidance}",
                field="guidance",
                reason="GUIDANCE_OUT_OF_RANGE",
            )
        if not 0.0 <= self.guidance_rescale <= 1.0:
            raise Invalid(
                "guidance_rescale must be between 0 and 1", field="guidance_rescale", reason="GUIDANCE_OUT_OF_RANGE"
            )
        if not 0.0 < self.strength <= 1.0:
            raise Invalid(
                f"strength must be above 0 and at most 1, got {self.strength:g}",
                field="strength",
                reason="STRENGTH_OUT_OF_RANGE",
            )
        if self.scheduler and self.scheduler not in SCHEDULERS:
            raise unknown_name("scheduler", self.scheduler, SCHEDULERS, field="scheduler")

    @property
    def guided(self) -> bool:
        """Whether a step needs the unconditional prediction too."""
        return self.guidance != 1.0

    @property
    def rows(self) -> int:
        """Rows that it puts into a forward: guidance needs the unconditional prediction too."""
        return 2 if self.guided else 1

    @property
    def taken(self) -> int:
        """The steps that are really taken, at least one."""
        # What 20 · 0.35 is beyond 7 in floating point is no step.
        return max(1, math.ceil(self.steps * self.strength - 1e-9))


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What a picture starts from: the latent `clean` (1, C, h, w), fp32, on the CPU. Where `mask` (1, 1, h, w) is 1 it
    is drawn anew and where it is 0 it stays; without one it is drawn anew everywhere."""

    clean: torch.Tensor
    mask: torch.Tensor | None = None

    def over(self, drawn: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """`drawn` where it is drawn anew, `kept` elsewhere."""
        return drawn if self.mask is None else torch.where(self.mask > 0.5, drawn, kept)


def for_base(picture: Picture, facts: BaseFacts) -> Picture:
    """The picture as its base is asked for it: one with embedded guidance is told it, and predicts once a step."""
    if not facts.embedded_guidance or picture.embedded is not None:
        return picture
    return replace(picture, guidance=1.0, embedded=picture.guidance)


def initial_noise(shape: Sequence[int], seed: int) -> torch.Tensor:
    """Standard normal noise (1, *shape), fp32, on the CPU, from a generator of its own."""
    return _normal(shape, torch.Generator("cpu").manual_seed(seed))


def _normal(shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    return torch.randn((1, *shape), generator=generator, dtype=torch.float32)


class Walk:
    """One picture on its way from noise to a clean latent (1, C, h, w). Not shared between threads.

    With a `ground` it begins as late in the schedule as the picture's strength says, from that with its own noise on
    it; at strength 1 from the noise alone. What a mask keeps is laid on again after every step, at that step's noise.
    Steps that add noise of their own draw it from the picture's generator, after its first noise.
    """

    def __init__(self, facts: BaseFacts, picture: Picture, ground: Ground | None = None) -> None:
        if ground is None and picture.strength != 1.0:
            raise Invalid(
                "strength is for pictures that start from another", field="strength", reason="STRENGTH_WITHOUT_START"
            )
        self.picture = picture
        self.index = picture.steps - picture.taken
        self._ground = ground
        self._facts = facts
        self._train_steps = facts.train_steps
        self._flow = facts.flow is not None
        self._keep_length = facts.patch if facts.guidance_keeps_length else 0
        self._scheduler = make_scheduler(
            facts, picture.scheduler, picture.steps, width=picture.width, height=picture.height
        )
        if hasattr(self._scheduler, "set_begin_index"):
            # Times may repeat where they are whole numbers; looked up, the first would be taken for the second.
            self._scheduler.set_begin_index(self.index)
        self._timesteps: list[float] = [float(step) for step in self._scheduler.timesteps]
        self._generator = torch.Generator("cpu").manual_seed(picture.seed)
        self._noise = _normal(facts.latent_shape(picture.width, picture.height), self._generator)
        self.latent: torch.Tensor
        if ground is not None and self.index:
            self.latent = self._noised(ground.clean)
        else:
            # A flow begins from the noise itself, and takes its latents as they are.
            self.latent = self._noise if self._flow else self._noise * float(self._scheduler.init_noise_sigma)

    @property
    def done(self) -> bool:
        """Whether every step was taken."""
        return self.index == len(self._timesteps)

    @property
    def t(self) -> float:
        """The time in (0, 1] of the coming step."""
        return (self._timesteps[self.index] + (0.0 if self._flow else 1.0)) / self._train_steps

    def model_input(self) -> torch.Tensor:
        """The latent as the denoiser expects it at the coming step, (1, C, h, w)."""
        if self._flow:
            return self.latent
        return self._scheduler.scale_model_input(self.latent, self._scheduler.timesteps[self.index])

    def advance(self, conditional: torch.Tensor, unconditional: torch.Tensor | None = None) -> None:
        """Take the coming step with the denoiser's predictions (1, C, h, w); the second is needed when the picture is
        guided."""
        prediction = self._guided(conditional, unconditional)
        step = self._scheduler.timesteps[self.index]
        self.latent = self._scheduler.step(prediction, step, self.latent, generator=self._generator, return_dict=False)[
            0
        ]
        self.index += 1
        if self._ground is not None and self._ground.mask is not None:
            kept = self._ground.clean if self.done else self._noised(self._ground.clean)
            self.latent = self._ground.over(self.latent, kept)

    def _noised(self, clean: torch.Tensor) -> torch.Tensor:
        """`clean` as far in noise as the coming step begins, scaled as the scheduler holds its latents."""
        step = self._scheduler.timesteps[self.index : self.index + 1]
        if hasattr(self._scheduler, "scale_noise"):
            noised: torch.Tensor = self._scheduler.scale_noise(clean, step, self._noise)
        else:
            noised = self._scheduler.add_noise(clean, self._noise, step)
        return noised

    def clean(self, conditional: torch.Tensor, unconditional: torch.Tensor | None = None) -> torch.Tensor:
        """The clean latent (1, C, h, w) that the predictions for the coming step speak of. Changes nothing."""
        levels = self._schedule.levels(self.t)
        prediction = self._guided(conditional, unconditional)
        clean = registry.objective(self._facts.objective).clean(self.model_input(), prediction, *levels)
        return clean if self._ground is None else self._ground.over(clean, self._ground.clean)

    @cached_property
    def _schedule(self) -> schedule.Schedule:
        return schedule.of(self._facts, self.picture.width, self.picture.height)

    def _guided(self, conditional: torch.Tensor, unconditional: torch.Tensor | None) -> torch.Tensor:
        if not self.picture.guided:
            return conditional
        if unconditional is None:
            raise Precondition("a guided step needs the unconditional prediction", reason="GUIDANCE_MISSING")
        prediction = guide(conditional, unconditional, self.picture.guidance, rescale=self.picture.guidance_rescale)
        if self._keep_length:
            prediction = as_long_as(conditional, prediction, self._keep_length)
        return prediction


def told(cond: Conditioning, pictures: Sequence[Picture]) -> Conditioning:
    """The conditioning of `pictures` with the guidance that their base is told, where it takes one."""
    values = [picture.embedded for picture in pictures]
    if None in values:
        return cond
    return cond.plus(guidance=torch.tensor(values, dtype=torch.float32))


def times(walks: Sequence[Walk]) -> torch.Tensor:
    """Times (B,) float64 of the coming steps of `walks`."""
    return torch.tensor([walk.t for walk in walks], dtype=torch.float64)


@torch.no_grad()
def sample(
    family: Family,
    parts: Components,
    pictures: Sequence[Picture],
    *,
    batch: int = 8,
    texts: Conditioning | None = None,
    ground: Ground | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> torch.Tensor:
    """Draw N pictures of one size, at most `batch` at once: (N, 3, H, W) float32 in [-1, 1] on the CPU.

    `texts` holds the conditionings of all prompts, then of all negatives (2N rows); when None they are encoded here.
    All of them start from `ground`, if there is one.
    `cancelled` is asked before every forward; raises `Cancelled`. Leaves the denoiser's mode and every global generator
    alone.
    """
    pictures = [for_base(picture, parts.facts) for picture in pictures]
    if texts is None:
        wordings = [picture.prompt for picture in pictures] + [picture.negative for picture in pictures]
        texts = family.encode_text(parts, wordings)
    done = []
    for start in range(0, len(pictures), batch):
        chunk = range(start, min(start + batch, len(pictures)))
        walks = [Walk(parts.facts, pictures[row], ground) for row in chunk]
        drawn = [pictures[row] for row in chunk]
        conditioning = told(texts.rows([*chunk, *(len(pictures) + row for row in chunk)]), [*drawn, *drawn])
        while any(not walk.done for walk in walks):
            if cancelled():
                raise Cancelled("the drawing was cancelled")
            _tick(family, parts, walks, conditioning)
        done.append(family.decode(parts, torch.cat([walk.latent for walk in walks])).cpu())
    return torch.cat(done)


def _tick(family: Family, parts: Components, walks: Sequence[Walk], conditioning: Conditioning) -> None:
    """One forward for every unfinished walk; `conditioning` holds the prompts of all walks, then all their
    negatives."""
    live = [row for row, walk in enumerate(walks) if not walk.done]
    guided = [row for row in live if walks[row].picture.guided]
    rows = live + guided
    noisy = torch.cat([walks[row].model_input() for row in rows]).to(parts.device)
    cond = conditioning.rows(live + [len(walks) + row for row in guided])
    t = times([walks[row] for row in rows])
    predicted = family.predict(parts.denoiser, noisy, t, cond, train_steps=parts.facts.train_steps).float().cpu()
    negatives = {row: predicted[len(live) + place : len(live) + place + 1] for place, row in enumerate(guided)}
    for place, row in enumerate(live):
        walks[row].advance(predicted[place : place + 1], negatives.get(row))
