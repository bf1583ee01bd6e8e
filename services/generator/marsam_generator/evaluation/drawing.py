"""Asking the generator for pictures, like any client: one call a picture, many at once, to fill its step loop."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from marsam.catalog.models import Model
from marsam.client.drawing import Done, Image
from marsam.client.generation import Generation
from marsam.core.errors import Corrupt, Deadline, Exhausted, Precondition, Unavailable
from marsam.core.ids import sha256_hex
from marsam.core.records import canonical, to_plain
from marsam_generator.evaluation.suites import Suite

IN_FLIGHT = 24
PICTURE_S = 600.0
"""Deadline of one picture, its wait in the generator's queue included."""

PATIENCE_S = 120.0
"""How long a generator may be away, or full, before an evaluation gives up."""


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One picture to make: which model (its index), which prompt in which language, at which seed of the suite."""

    model: int
    prompt: str
    language: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A finished picture: PNG bytes, their digest, and the build that drew it."""

    data: bytes
    digest: str
    fingerprint: str


def shots(suite: Suite, models: int) -> Iterator[Shot]:
    """Every picture of an evaluation. The models of a scene follow each other, so that a partial result is paired."""
    for prompt in suite.prompts:
        for seed in prompt.seeds:
            for language in suite.languages:
                for model in range(models):
                    yield Shot(model=model, prompt=prompt.id, language=language, seed=seed)


T = TypeVar("T")


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Return what `call` returns; a generator that is away or full is asked again for up to `PATIENCE_S` seconds."""
    loop = asyncio.get_running_loop()
    give_up, pause = loop.time() + PATIENCE_S, 0.5
    while True:
        try:
            return await call()
        except (Unavailable, Exhausted, Deadline) as error:
            wait = error.retry_after_s or pause * (0.5 + random.random())
            if loop.time() + wait > give_up:
                raise
            await asyncio.sleep(wait)
            pause = min(pause * 2, 15.0)


class Drawer:
    """Makes pictures by Generate.

    `build` is the generator's fingerprint. Together with everything that is asked it makes the request id, so the
    generator gives a picture that it drew before, for this evaluation or another one, instead of drawing it again.
    """

    def __init__(
        self, generation: Generation, suite: Suite, models: Sequence[Model], *, seed_offset: int, build: str
    ) -> None:
        self._generation = generation
        self._suite = suite
        self._models = models
        self._seed_offset = seed_offset
        self._build = build
        self._prompts = {prompt.id: prompt for prompt in suite.prompts}

    async def draw(self, shot: Shot) -> Drawn:
        """Return one picture. Raises what the generator answers, after some patience where waiting may help."""
        return await patiently(lambda: self._once(shot))

    async def _once(self, shot: Shot) -> Drawn:
        settings = self._suite.generation
        model = self._models[shot.model]
        root, adapters = (model.base or "", {model.name: 1.0}) if model.kind == "adapter" else (model.name, {})
        if not root:
            raise Precondition(f"{model.name} names no base", reason="MODEL_WITHOUT_BASE", resource=model.name)
        text = self._prompts[shot.prompt].text[shot.language]
        seed = shot.seed + self._seed_offset
        asked = [self._build, model.name, model.digest, model.base_digest, text, seed, to_plain(settings)]
        events = self._generation.generate(
            text,
            model=root,
            adapters=adapters,
            seed=seed,
            steps=settings.steps,
            guidance=settings.guidance,
            scheduler=settings.scheduler,
            width=settings.width,
            height=settings.height,
            request_id=sha256_hex(canonical(asked))[:40],
            seconds=PICTURE_S,
        )
        image: Image | None = None
        fingerprint = ""
        async for event in events:
            if isinstance(event, Image):
                image = event
            elif isinstance(event, Done):
                fingerprint = event.fingerprint
        if image is None:
            raise Corrupt(f"the generator sent no picture for {shot.prompt}", reason="PICTURE_MISSING")
        return Drawn(data=image.data, digest=image.digest, fingerprint=fingerprint)
