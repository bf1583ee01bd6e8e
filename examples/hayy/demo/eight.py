"""`python -m hayy.demo.eight`: eight people ask one generator for eight different things at once, in one batch.

Over the store of `make demo`, whose adapters it takes, or tunes where they are not there yet. Writes `eight.html`, and
where there is a Chromium `eight.png`, beside the store.
"""

import argparse
import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from hayy.demo import platform, sheet
from hayy.demo.screen import Screen
from hayy.demo.story import BASE, JUDGE, SUITE, Options, Variant, curate, import_base, tune
from marsam.client import AsyncMarsam, Image, Progress
from marsam.core.errors import Internal, MarsamError

BALANCED, RAW = "balanced-lora", "raw-lora"
VARIANTS = (Variant(dataset="hayy-balanced", method="lora"), Variant(dataset="hayy-raw", method="lora"))


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What somebody asks for; `adapters` by the names of the variants."""

    who: str
    prompt: str
    seed: int
    steps: int
    scheduler: str
    guidance: float
    adapters: Mapping[str, float] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows of a forward that one step of it takes: with guidance the prompt and its absence, else the prompt."""
        return 1 if self.guidance == 1.0 else 2


WISHES = (
    Wish(
        who="ليلى", prompt="عالمة عربية في مختبر",
        seed=11, steps=20, scheduler="ddim", guidance=4.0, adapters={BALANCED: 1.0},
    ),
    Wish(
        who="Omar", prompt="an Arab man scientist in a laboratory",
        seed=11, steps=12, scheduler="ddim", guidance=5.0,
    ),
    Wish(
        who="طارق", prompt="مهندس عربي في موقع بناء",
        seed=33, steps=28, scheduler="euler", guidance=3.0, adapters={RAW: 0.9},
    ),
    Wish(
        who="Aiko", prompt="a Japanese woman painter wearing a painter's smock in an art studio",
        seed=7, steps=14, scheduler="dpm++", guidance=3.5,
    ),
    Wish(
        who="مريم", prompt="طبيبة سورية ترتدي بدلة جراحة في مستشفى",
        seed=25, steps=18, scheduler="dpm++", guidance=4.0, adapters={RAW: 1.0},
    ),
    Wish(
        who="Youssef", prompt="an Egyptian man chef in a kitchen",
        seed=121, steps=24, scheduler="euler", guidance=5.0, adapters={BALANCED: 1.0},
    ),
    Wish(
        who="سلمى", prompt="معلمة إماراتية ترتدي قميصا في فصل دراسي",
        seed=114, steps=30, scheduler="euler_a", guidance=3.0, adapters={BALANCED: 0.7, RAW: 0.3},
    ),
    Wish(
        who="Wanjiru", prompt="a Kenyan woman musician wearing a suit on a stage",
        seed=5, steps=40, scheduler="ddim", guidance=1.0,
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Granted:
    """A picture, and how many of its steps shared their forward with a step of everybody else's."""

    wish: Wish
    picture: bytes
    together: int


async def ask(marsam: AsyncMarsam, base: str, models: Mapping[str, str], wishes: Sequence[Wish]) -> list[Granted]:
    """All at once. A forward whose rows are those of all wishes is one that all have part in: nobody else asks."""
    everybody = sum(wish.rows for wish in wishes)

    async def one(wish: Wish) -> Granted:
        together, picture = 0, b""
        async for event in marsam.generation.generate(
            wish.prompt, model=base, adapters={models[name]: weight for name, weight in wish.adapters.items()},
            seed=wish.seed, steps=wish.steps, scheduler=wish.scheduler, guidance=wish.guidance,
        ):  # fmt: skip
            if isinstance(event, Progress):
                together += event.step > 0 and event.rows == everybody
            elif isinstance(event, Image):
                picture = event.data
        return Granted(wish=wish, picture=picture, together=together)

    return await asyncio.gather(*(one(wish) for wish in wishes))


async def run(home: Path, steps: int | None, screen: Screen) -> Path:
    """From the demo's store to the sheet; gives its path."""
    options = Options(home=home, base=str(BASE), judge=JUDGE, variants=VARIANTS, steps=steps, suite=SUITE)
    async with platform.running(home / "store") as endpoints, AsyncMarsam(endpoints) as marsam:
        base = await import_base(marsam, options.base, screen)
        versions = await curate(marsam, options, screen)
        models = {
            variant.name: (await tune(marsam, base, versions[variant.dataset], variant, steps, screen)).model
            for variant in VARIANTS
        }
        with screen.work("Drawing once, so that everything is in memory and the width of a tick is measured"):
            await ask(marsam, base.name, models, WISHES)
        with screen.work("Eight people ask for eight different things"):
            granted = await ask(marsam, base.name, models, WISHES)
    together = max(one.together for one in granted)
    if not together:
        raise Internal(
            "no forward had the rows of all eight: this machine is full with fewer",
            reason="NO_COMMON_BATCH",
            remedy="try again when it is idle",
        )
    rows = sum(one.wish.rows for one in granted)
    screen.note(f"all eight shared {together} forwards of {rows} rows")
    page = home / "eight.html"
    page.write_text(sheet.page(granted, together=together, rows=rows), encoding="utf-8")
    return page


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m hayy.demo.eight", description=__doc__)
    parser.add_argument("--home", type=Path, default=Path(".demo"), help="folder of the demo's store and of the sheet")
    parser.add_argument("--steps", type=int, help="optimiser steps of each adapter (default: the demo's recipe)")
    chosen = parser.parse_args()
    console = Console()
    home = chosen.home.absolute()
    home.mkdir(parents=True, exist_ok=True)
    try:
        page = asyncio.run(run(home, chosen.steps, Screen(console)))
    except MarsamError as error:
        console.print(f"[red]{error.message}[/]\n{error.remedy}", highlight=False)
        return 1
    console.print(page.as_uri(), highlight=False)
    if (picture := sheet.photograph(page)) is not None:
        console.print(picture.as_uri(), highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
