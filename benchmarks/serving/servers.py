"""Three that serve the same requests on one thread: the step loop, a pipeline behind a lock, a static batcher."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from marsam_generator.engine.bank import AdapterBank
from marsam_generator.engine.forwards import Denoiser
from marsam_generator.engine.lanes import Lanes
from marsam_generator.engine.stepper import Stepper
from marsam_generator.engine.width import Widths
from marsam_generator.engine.work import Denoised, Event, Failed, Order

from benchmarks.serving.base import FAMILY, PIXELS, Given, states
from benchmarks.serving.clocks import WorkClock
from benchmarks.serving.workload import Asked
from marsam.diffusion.sampling import Picture, initial_noise

ROWS = 32
"""The widest batch of the step loop, which is the generator's own default, and of the static batcher."""
BASE = "base"
_CLASSES = {"ddim": DDIMScheduler, "euler": EulerDiscreteScheduler, "dpm++": DPMSolverMultistepScheduler}
_EMPTY = states(1_000_000)


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """A request with its times in seconds, and the side of its latent."""

    name: int
    asked: Asked
    side: int
    at: float
    leaves: float | None


class Server(Protocol):
    """Has a clock of its own. `work` does what cannot be parted and gives the latents (1, C, h, w) that came of it."""

    clock: WorkClock

    @property
    def busy(self) -> bool: ...

    def enter(self, arrival: Arrival) -> None: ...

    def leave(self, arrival: Arrival) -> None: ...

    def work(self) -> dict[int, torch.Tensor]: ...


class Stepping:
    """The generator's step loop, driven tick by tick. Raises what fails a picture."""

    def __init__(self, given: Given) -> None:
        self.clock = WorkClock()
        bank = AdapterBank(given.parts.denoiser)
        for name, adapter in given.read().items():
            bank.install(bank.prepare(name, adapter))
        self._stepper = Stepper(
            family=FAMILY,
            denoisers={BASE: Denoiser(module=given.parts.denoiser, bank=bank, facts=given.parts.facts)},
            device="cpu",
            lanes=Lanes(1),
            widths=Widths(limit=ROWS),
            observe=lambda tick: None,
            clock=self.clock.now,
        )
        self._done: dict[int, torch.Tensor] = {}

    @property
    def busy(self) -> bool:
        return self._stepper.busy

    def enter(self, arrival: Arrival) -> None:
        with self.clock.running():
            self._stepper.admit(order(arrival, self._sink(arrival)))

    def leave(self, arrival: Arrival) -> None:
        with self.clock.running():
            self._stepper.cancel({str(arrival.name): self._stepper.ticks})

    def work(self) -> dict[int, torch.Tensor]:
        with self.clock.running():
            self._stepper.expire()
            self._stepper.tick()
        done, self._done = self._done, {}
        return done

    def _sink(self, arrival: Arrival) -> Callable[[Event], None]:
        def sink(event: Event) -> None:
            if isinstance(event, Denoised):
                self._done[arrival.name] = event.latent
            elif isinstance(event, Failed) and arrival.leaves is None:
                raise event.error

        return sink


def order(arrival: Arrival, sink: Callable[[Event], None]) -> Order:
    """What the step loop is asked for."""
    asked = arrival.asked
    side = arrival.side * PIXELS
    return Order(
        id=str(arrival.name),
        denoiser=BASE,
        pictures=[
            Picture(
                prompt="", seed=asked.seed, width=side, height=side, steps=asked.steps, guidance=asked.guidance,
                scheduler=asked.scheduler,
            )
        ],
        conditional=states(asked.seed),
        unconditional=_EMPTY,
        sink=sink,
        adapters={asked.adapter: asked.weight} if asked.adapter else {},
    )  # fmt: skip


class Locked:
    """Diffusers' pipeline: one call at a time, in the order that they came. Adapters are switched only where the next
    call needs another one, and who left is not drawn on."""

    def __init__(self, given: Given) -> None:
        self.clock = WorkClock()
        self._pipe: Any = given.pipeline()
        self._config = self._pipe.scheduler.config
        self._channels = given.parts.facts.latent_channels
        self._waiting: deque[Arrival] = deque()
        self._active: tuple[str, float] | None = None

    @property
    def busy(self) -> bool:
        return bool(self._waiting)

    def enter(self, arrival: Arrival) -> None:
        self._waiting.append(arrival)

    def leave(self, arrival: Arrival) -> None:
        if arrival in self._waiting:
            self._waiting.remove(arrival)

    def work(self) -> dict[int, torch.Tensor]:
        with self.clock.running():
            group = self._next()
            latents = self._call(group)
        return {arrival.name: latent for arrival, latent in zip(group, latents.split(1), strict=True)}

    def _next(self) -> list[Arrival]:
        return [self._waiting.popleft()]

    def _call(self, group: Sequence[Arrival]) -> torch.Tensor:
        first, asked = group[0], group[0].asked
        self._switch(asked)
        side = first.side

        def look(pipe: Any, _step: int, _t: object, values: dict[str, Any]) -> dict[str, Any]:
            if all(one.leaves is not None and one.leaves <= self.clock.now() for one in group):
                pipe._interrupt = True
            return values

        self._pipe.scheduler = _CLASSES[asked.scheduler].from_config(self._config)
        found = self._pipe(
            prompt_embeds=torch.cat([states(one.asked.seed).tensors["hidden"] for one in group]),
            negative_prompt_embeds=torch.cat([_EMPTY.tensors["hidden"]] * len(group)),
            latents=torch.cat([initial_noise((self._channels, side, side), one.asked.seed) for one in group]),
            num_inference_steps=asked.steps,
            guidance_scale=asked.guidance,
            width=side * PIXELS,
            height=side * PIXELS,
            output_type="latent",
            callback_on_step_end=look,
            callback_on_step_end_tensor_inputs=[],
        )
        return found.images

    def _switch(self, asked: Asked) -> None:
        wanted = (asked.adapter, asked.weight)
        if wanted == self._active:
            return
        if not asked.adapter:
            self._pipe.disable_lora()
        else:
            if self._active is None or not self._active[0]:
                self._pipe.enable_lora()
            self._pipe.set_adapters([asked.adapter], [asked.weight])
        self._active = wanted


class Static(Locked):
    """The same pipeline, called with as many waiting requests of equal settings as fit; they end together."""

    def _next(self) -> list[Arrival]:
        wanted = _settings(self._waiting[0])
        group = [one for one in self._waiting if _settings(one) == wanted][: ROWS // 2]
        for one in group:
            self._waiting.remove(one)
        return group


def _settings(arrival: Arrival) -> tuple[object, ...]:
    asked = arrival.asked
    return (arrival.side, asked.steps, asked.scheduler, asked.guidance, asked.adapter, asked.weight)
