"""From noise to a picture: plain functions that the generator's engine and a run's previews share.

One `Walk` is one picture: its own scheduler, its own noise, its own step index, so walks at different steps can share
a forward. Noise is drawn on the CPU from the picture's own seed: the same seed gives the same noise on any device and
in any batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from marsam.core.errors import Cancelled, Invalid, Precondition, unknown_name
from marsam.diffusion.guidance import as_long_as, guide
from marsam.diffusion.spec import BaseFacts, Components, Conditioning, Family

_TABLES: Mapping[str, Any] = {"ddim": DDIMScheduler, "euler": EulerDiscreteScheduler}
_FLOWS: Mapping[str, Any] = {"dpm++": DPMSolverMultistepScheduler, "euler": FlowMatchEulerDiscreteScheduler}
SCHEDULERS = tuple(sorted({*_TABLES, *_FLOWS}))
"""Every scheduler there is; a base takes those of its objective (`schedulers`)."""


def schedulers(facts: BaseFacts) -> tuple[str, ...]:
    """The schedulers that a base can be drawn with, its own first."""
    return tuple(sorted(_classes(facts), key=lambda name: (name != own_scheduler(facts), name)))


def own_scheduler(facts: BaseFacts) -> str:
    """The scheduler that the base's own configuration names, or the nearest that there is."""
    named = str(facts.scheduler.get("_class_name"))
    found = [name for name, cls in _classes(facts).items() if cls.__name__ == named]
    return found[0] if found else ("ddim" if facts.flow is None else "euler")


def _classes(facts: BaseFacts) -> Mapping[str, Any]:
    return _TABLES if facts.flow is None else _FLOWS


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """What to draw. Sides in pixels; `guidance` 1 means without; `seed` in [0, 2^63); `scheduler` '' is the base's own.

    `embedded` is the guidance that a base with embedded guidance is told; None for others.
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
        if self.scheduler and self.scheduler not in SCHEDULERS:
            raise unknown_name("scheduler", self.scheduler, SCHEDULERS, field="scheduler")

    @property
    def guided(self) -> bool:
        """Whether a step needs the unconditional prediction too."""
        return self.guidance != 1.0


def for_base(picture: Picture, facts: BaseFacts) -> Picture:
    """The picture as its base is asked for it: one with embedded guidance is told it, and predicts once a step."""
    if not facts.embedded_guidance or picture.embedded is not None:
        return picture
    return replace(picture, guidance=1.0, embedded=picture.guidance)


def make_scheduler(facts: BaseFacts, name: str, steps: int, *, width: int, height: int) -> Any:
    """A fresh diffusers scheduler set to `steps`, configured by the base itself (prediction type, zero terminal SNR,
    spacing, shift for a picture of this size in pixels)."""
    classes = _classes(facts)
    name = name or own_scheduler(facts)
    if name not in classes:
        raise unknown_name("scheduler", name, schedulers(facts), field="scheduler")
    config = dict(facts.scheduler)
    if facts.flow is None:
        scheduler = classes[name].from_config(config)
        scheduler.set_timesteps(steps)
        return scheduler
    tokens = facts.tokens(width, height)
    if name == "dpm++":
        own = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
        scheduler = classes[name].from_config({**config, **own, "flow_shift": facts.flow.factor(tokens, steps)})
        scheduler.set_timesteps(steps)
        return scheduler
    # A base whose own scheduler is of another class calls its shift otherwise.
    scheduler = classes[name].from_config({**config, "shift": facts.flow.shift})
    sigmas = [1.0 - k / steps for k in range(steps)] if facts.flow.even else None
    scheduler.set_timesteps(steps, sigmas=sigmas, mu=facts.flow.mu(tokens, steps) if facts.flow.mu else None)
    return scheduler


def initial_noise(shape: Sequence[int], seed: int) -> torch.Tensor:
    """Standard normal noise (1, *shape), fp32, on the CPU, from a generator of its own."""
    return torch.randn((1, *shape), generator=torch.Generator("cpu").manual_seed(seed), dtype=torch.float32)


class Walk:
    """One picture on its way from noise to a clean latent (1, C, h, w). Not shared between threads."""

    def __init__(self, facts: BaseFacts, picture: Picture) -> None:
        self.picture = picture
        self.index = 0
        self._train_steps = facts.train_steps
        self._flow = facts.flow is not None
        self._keep_length = facts.patch if facts.guidance_keeps_length else 0
        self._scheduler = make_scheduler(
            facts, picture.scheduler, picture.steps, width=picture.width, height=picture.height
        )
        if self._flow:
            # Times may repeat where they are whole numbers; looked up, the first would be taken for the second.
            self._scheduler.set_begin_index(0)
        self._timesteps: list[float] = [float(step) for step in self._scheduler.timesteps]
        noise = initial_noise(facts.latent_shape(picture.width, picture.height), picture.seed)
        # A flow begins from the noise itself, and takes its latents as they are.
        self.latent: torch.Tensor = noise if self._flow else noise * float(self._scheduler.init_noise_sigma)

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
        prediction = conditional
        if self.picture.guided:
            if unconditional is None:
                raise Precondition("a guided step needs the unconditional prediction", reason="GUIDANCE_MISSING")
            prediction = guide(conditional, unconditional, self.picture.guidance, rescale=self.picture.guidance_rescale)
            if self._keep_length:
                prediction = as_long_as(conditional, prediction, self._keep_length)
        step = self._scheduler.timesteps[self.index]
        self.latent = self._scheduler.step(prediction, step, self.latent, return_dict=False)[0]
        self.index += 1


def join(conditionings: Sequence[Conditioning]) -> Conditioning:
    """Conditionings one after the other along the batch; where they differ in length, the shorter are filled up with
    tokens that their masks leave out."""
    names = conditionings[0].tensors
    stack = _stacked if "mask" in names else torch.cat
    return Conditioning({name: stack([one.tensors[name] for one in conditionings]) for name in names})


def filled(cond: Conditioning, multiple: int) -> Conditioning:
    """The same with its tokens filled up to a multiple, masked: so that captions of like length have one shape. Those
    without a mask have a length of their own already."""
    mask = cond.tensors.get("mask")
    if mask is None:
        return cond
    full = mask.shape[1]
    most = -(-full // multiple) * multiple
    return Conditioning(
        {
            name: _filled(value, most) if value.ndim > 1 and value.shape[1] == full else value
            for name, value in cond.tensors.items()
        }
    )


def _stacked(values: Sequence[torch.Tensor]) -> torch.Tensor:
    if values[0].ndim > 1 and (most := max(value.shape[1] for value in values)) > min(v.shape[1] for v in values):
        values = [_filled(value, most) for value in values]
    return torch.cat(list(values))


def _filled(value: torch.Tensor, length: int) -> torch.Tensor:
    missing = value.new_zeros((value.shape[0], length - value.shape[1], *value.shape[2:]))
    return torch.cat([value, missing], dim=1)


def trimmed(cond: Conditioning) -> Conditioning:
    """The same without the tokens that the masks of all its rows leave out."""
    mask = cond.tensors.get("mask")
    if mask is None or not len(cond):
        return cond
    length = max(1, int(mask.sum(dim=1).max()))
    full = mask.shape[1]
    return Conditioning(
        {
            name: value[:, :length] if value.ndim > 1 and value.shape[1] == full else value
            for name, value in cond.tensors.items()
        }
    )


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
    cancelled: Callable[[], bool] = lambda: False,
) -> torch.Tensor:
    """Draw N pictures of one size, at most `batch` at once: (N, 3, H, W) float32 in [-1, 1] on the CPU.

    `texts` holds the conditionings of all prompts, then of all negatives (2N rows); when None they are encoded here.
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
        walks = [Walk(parts.facts, pictures[row]) for row in chunk]
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
