"""The demo's sets in a store that already holds others of the same name: reused while unchanged, never mixed."""

from pathlib import Path

from hayy.demo.story import dataset_of
from PIL import Image

from marsam.client import AsyncMarsam
from marsam.client.endpoints import Endpoints
from tests.integration.dataset.harness import starter


def written(folder: Path, *names: str) -> Path:
    """A set of plain pictures, each of its own colour."""
    folder.mkdir()
    for name in names:
        Image.new("RGB", (64, 64), name).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a {name} wall")
    return folder


async def test_a_changed_set_is_imported_into_a_dataset_of_its_own(tmp_path: Path) -> None:
    sets = {
        "a" * 64: written(tmp_path / "old", "red", "green"),
        "b" * 64: written(tmp_path / "new", "blue", "red", "white"),
    }
    async with (
        starter(tmp_path / "store")() as running,
        AsyncMarsam(Endpoints(dataset=running.target, trainer=running.target, generator=running.target)) as marsam,
    ):
        used = []
        for content in ("a" * 64, "a" * 64, "b" * 64, "b" * 64, "a" * 64):
            used.append(await dataset_of(marsam, "hayy-balanced", content))
            started = await marsam.datasets.import_folder(
                sets[content], used[-1], create=False, request_id=f"import {content[:8]}"
            )
            async for _ in marsam.datasets.watch_import(started.name):
                pass
        assert used == [
            "hayy-balanced",
            "hayy-balanced",
            "hayy-balanced-bbbbbbbb",
            "hayy-balanced-bbbbbbbb",
            "hayy-balanced",
        ]
        for dataset, names in (("hayy-balanced", 2), ("hayy-balanced-bbbbbbbb", 3)):
            assert len(await marsam.datasets.items(dataset)) == names
