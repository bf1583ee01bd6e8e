"""Streams of small work for a house, each unit checked when it is done: imports, runs, pictures."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from marsam.api.common.v1 import common_pb2
from marsam.api.dataset.v1 import dataset_pb2
from marsam.api.trainer.v1 import trainer_pb2
from marsam.catalog.repository import list_items, load_model
from marsam.client import AsyncMarsam, Image
from marsam.core.ids import digest_of
from marsam.store.open import open_store
from tests.integration.dataset.pictures import saved, scene
from tests.integration.run.endings import tensors
from tests.soak.house import House
from tests.unit.generator.tiny import write_base

METHODS = ("lora", "qlora", "full")
STEPS = 80
PICTURES = 12
BROKEN = "broken.png"
DRAWINGS: tuple[dict[str, Any], ...] = (
    {"prompt": "a wall", "seed": 3, "steps": 40},
    {"prompt": "جدار رمادي", "seed": 4, "steps": 120, "scheduler": "euler"},
    {"prompt": "a wall", "seed": 5, "steps": 60, "adapters": {"calm-lora": 0.8}},
)
GIVEN_UP = {"KILLED", "LOST"}
"""Why a run may fail here: killed as often as an operator allows. It is resumed then, as the operator would."""


@dataclass(kw_only=True)
class Work:
    """The three streams over `house`, and what they need to tell right from wrong."""

    house: House
    done: Counter[str] = field(default_factory=Counter)
    weights: dict[str, str] = field(default_factory=dict)
    drawn: list[str] = field(default_factory=list)

    async def prepare(self) -> None:
        """A base, a dataset version, and everything once while nothing is killed: that is what all later ones equal."""
        folder = await asyncio.to_thread(write_base, self.house.folder / "base")
        await self.house.insist(lambda marsam: marsam.models.import_folder(folder, "tiny", licence="Apache-2.0"))
        await self.bring("walls")
        await self.house.insist(lambda marsam: marsam.datasets.commit("walls"))
        for method in METHODS:
            self.weights[method] = await self.train(method, f"calm-{method}")
        self.drawn = [await self.draw(drawing, "") for drawing in DRAWINGS]

    async def imports(self, over: Callable[[], bool]) -> None:
        """One folder after another, each into a set of its own."""
        for number in itertools.count():
            if over():
                return
            await self.bring(f"set-{number}", seed=number)
            self.done["imports"] += 1

    async def runs(self, over: Callable[[], bool]) -> None:
        """One run after another, by all methods in turn."""
        for number, method in enumerate(itertools.cycle(METHODS)):
            if over():
                return
            assert await self.train(method, f"{method}-{number}") == self.weights[method], f"{method}-{number}"
            self.done["runs"] += 1

    async def pictures(self, over: Callable[[], bool], chance: random.Random) -> None:
        """One drawing after another."""
        for number in itertools.count():
            if over():
                return
            which = chance.randrange(len(DRAWINGS))
            assert await self.draw(DRAWINGS[which], f"draw-{number}") == self.drawn[which], DRAWINGS[which]
            self.done["pictures"] += 1

    async def bring(self, dataset: str, *, seed: int = 1000) -> None:
        """Import a folder of pictures, captions and one broken file; every picture is one item afterwards."""
        folder = self.house.folder / "folders" / dataset
        wanted = await asyncio.to_thread(fill, folder, seed)
        for turn in itertools.count():
            last = await self.house.insist(lambda marsam, turn=turn: sent(marsam, folder, dataset, turn))
            assert last.state == common_pb2.JOB_STATE_SUCCEEDED, last
            self.done["imports sent"] += 1
            refused = {verdict.path: verdict.reason for verdict in last.refused}
            del refused[BROKEN]
            # A file under which two decoders were killed is taken for the cause; what is known is sent again.
            assert set(refused.values()) <= {"DECODER_CRASHED"} and len(refused) <= self.house.kills["decoder"] / 2
            if not refused:
                break
            self.done["files sent again"] += len(refused)
        items = await list_items(open_store(str(self.house.home / "store")), f"projects/default/datasets/{dataset}")
        assert sorted((item.file_name, item.original_digest) for item in items) == wanted
        assert {item.captions[0].text for item in items} == {caption_of(name) for name, _ in wanted}

    async def train(self, method: str, model: str) -> str:
        """Tune the base by a method to its end; returns the digest of the weights that were published."""
        spec = trainer_pb2.RunSpec(
            base="tiny", dataset_version="walls/v1", method=method, steps=STEPS, batch_size=2, seed=11,
            checkpoint_every=5, output_model_id=model, ema_decay=0.9,
        )  # fmt: skip
        if method != "full":
            spec.method_params.update({"rank": 2})
        run = await self.house.insist(lambda marsam: marsam.runs.create(spec, request_id=model))
        while True:
            ended = await self.house.insist(lambda marsam: followed(marsam, run.name))
            if ended.state == common_pb2.JOB_STATE_SUCCEEDED:
                break
            assert ended.state == common_pb2.JOB_STATE_FAILED and ended.reason in GIVEN_UP, ended
            self.done["runs resumed"] += 1
            await self.house.insist(lambda marsam: resumed(marsam, run.name))
        self.done["attempts"] += ended.attempt
        store = open_store(str(self.house.home / "store"))
        return await tensors(store, await load_model(store, ended.model))

    async def draw(self, drawing: dict[str, Any], request_id: str) -> str:
        """Draw one picture; returns its digest."""

        async def drawn(marsam: AsyncMarsam) -> str:
            events = marsam.generation.generate(**drawing, model="tiny", request_id=request_id or None)
            (digest,) = [event.digest async for event in events if isinstance(event, Image)]
            return digest

        return await self.house.insist(drawn)


def caption_of(name: str) -> str:
    """A caption that tells the pictures of a folder apart and is nobody's file name."""
    return f"a wall with window number {int(name.removesuffix('.png')) + 1}"


def fill(folder: Path, seed: int) -> list[tuple[str, str]]:
    """A folder of pictures with captions, and one broken file; returns (name, digest) of each picture, sorted."""
    folder.mkdir(parents=True)
    found = []
    for number in range(PICTURES):
        data = saved(scene(seed * PICTURES + number))
        name = f"{number:02d}.png"
        (folder / name).write_bytes(data)
        (folder / f"{number:02d}.txt").write_text(caption_of(name))
        found.append((name, digest_of(data)))
    (folder / BROKEN).write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    return found


async def sent(marsam: AsyncMarsam, folder: Path, dataset: str, turn: int) -> dataset_pb2.Import:
    """Send a folder, by a request id that makes it one import however often it is tried; returns how it ended."""
    rights = common_pb2.Rights(licence="CC0-1.0")
    imported = await marsam.datasets.import_folder(
        folder, dataset, default_rights=rights, request_id=f"{dataset}-{turn}"
    )
    return [update async for update in marsam.datasets.watch_import(imported.name)][-1]


async def followed(marsam: AsyncMarsam, run: str) -> trainer_pb2.Run:
    """The run when it has ended."""
    messages = [message async for message in marsam.runs.watch(run)]
    return messages[-1].snapshot


async def resumed(marsam: AsyncMarsam, run: str) -> None:
    """Resume a failed run; one that the last try resumed already is left to go on."""
    if (await marsam.runs.get(run)).state == common_pb2.JOB_STATE_FAILED:
        await marsam.runs.resume(run)
