"""Masks from the folder to the version: beside their pictures all the way, and as they were drawn."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from marsam.api.dataset.v1 import dataset_pb2 as pb
from marsam.catalog.datasets import DatasetVersion
from marsam.catalog.repository import load_version
from marsam.store.content import read_blob
from marsam.store.open import open_store
from marsam.upkeep.records import manifests
from tests.integration.dataset.harness import DATASET, Running, Start, bring, create, items
from tests.integration.dataset.pictures import saved, scene

pytestmark = pytest.mark.slow


def _half() -> np.ndarray:
    """White on the left, grey beside it, black on the right."""
    mask = np.zeros((160, 160), dtype=np.uint8)
    mask[:, :80] = 255
    mask[:, 80:120] = 128
    return mask


def _files(**masks: bytes) -> dict[str, bytes]:
    pictures = {f"{name}.png": saved(scene(number)) for number, name in enumerate(("cat", "dog", "bare"))}
    captions = {f"{name}.txt": f"a {name} of many shapes".encode() for name in ("cat", "dog", "bare")}
    return {**pictures, **captions, **{f"{name}-masklabel.png": data for name, data in masks.items()}}


async def _commit(running: Running, store: Path, dataset: str = DATASET) -> DatasetVersion:
    made = (await running.stub.CommitVersion(pb.CommitVersionRequest(parent=dataset), timeout=60)).version
    return await load_version(open_store(str(store)), made.name)


async def test_a_mask_stays_with_its_picture_and_one_of_another_size_is_refused_alone(
    start: Start, tmp_path: Path
) -> None:
    blobs = open_store(str(tmp_path / "store"))
    async with start() as running:
        await create(running)
        small = saved(Image.new("L", (80, 80), 255))
        done = await bring(running, _files(cat=saved(Image.fromarray(_half())), dog=small))
        assert (done.files_received, done.files_done, done.items_accepted) == (8, 8, 3)
        (refused,) = done.refused
        assert (refused.path, refused.reason) == ("dog-masklabel.png", "MASK_SIZE")
        assert "80×80" in refused.message
        shown = await items(running)
        assert list(shown) == ["bare.png", "cat.png", "dog.png"]
        told = {
            name: [(f.reason, f.message) for f in item.findings if f.check == "mask"] for name, item in shown.items()
        }
        assert told["bare.png"] == []
        assert told["cat.png"] == [("MASKED", "63% of the picture counts.")]
        assert [reason for reason, _ in told["dog.png"]] == ["MASK_SIZE"]
        version = await _commit(running, tmp_path / "store")
        masks = {item.file_name: item.mask for item in version.items}
        assert (masks["bare.png"], masks["dog.png"]) == (None, None)
        mask = masks["cat.png"]
        assert mask is not None
        stored = Image.open(io.BytesIO(await read_blob(blobs, "default", mask.image.digest)))
        np.testing.assert_array_equal(np.asarray(stored.convert("L")), _half())
        # Whoever collects and verifies the store sees it, from the item and from the version.
        holding = [
            record.name
            async for _, _, read in manifests(blobs, "default", ())
            if mask.image.digest in (record := await read()).digests
        ]
        assert len(holding) == 2


async def test_what_is_transparent_is_masked_unless_a_mask_says_otherwise(start: Start, tmp_path: Path) -> None:
    blobs = open_store(str(tmp_path / "store"))
    files = _files(dog=saved(Image.new("L", (160, 160), 255)))
    for number, name in enumerate(("cat", "dog")):
        clear = scene(number).convert("RGBA")
        clear.putalpha(Image.fromarray(_half()))
        files[f"{name}.png"] = saved(clear)
    async with start() as running:
        await create(running)
        await bring(running, files)
        version = await _commit(running, tmp_path / "store")
        masks = {}
        for item in version.items:
            if item.mask is not None:
                stored = Image.open(io.BytesIO(await read_blob(blobs, "default", item.mask.image.digest)))
                masks[item.file_name] = np.asarray(stored.convert("L"))
        assert list(masks) == ["cat.png", "dog.png"]
        np.testing.assert_array_equal(masks["cat.png"], _half())
        assert masks["dog.png"].min() == 255
        before = {item.name for item in (await items(running)).values()}
        await bring(running, files)
        assert {item.name for item in (await items(running)).values()} == before


async def test_a_mask_that_comes_later_makes_another_version(start: Start, tmp_path: Path) -> None:
    white = saved(Image.new("L", (160, 160), 255))
    async with start() as running:
        await create(running)
        await bring(running, _files())
        bare = await _commit(running, tmp_path / "store")
        await bring(running, _files(cat=white))
        masked = await _commit(running, tmp_path / "store")
        assert [item.file_name for item in masked.items if item.mask] == ["cat.png"]
        assert len(masked.items) == len(bare.items) == 3
        assert masked.digest != bare.digest
        # The same again is nothing new.
        before = {item.name for item in (await items(running)).values()}
        again = await bring(running, _files(cat=white))
        assert again.files_done == 7
        assert {item.name for item in (await items(running)).values()} == before


async def test_an_exported_set_comes_back_with_its_masks(start: Start, tmp_path: Path) -> None:
    other = "projects/default/datasets/copy"
    async with start() as running:
        await create(running)
        await create(running, other)
        await bring(running, _files(cat=saved(Image.fromarray(_half()))))
        version = await _commit(running, tmp_path / "store")
        request = pb.ExportVersionRequest(name=version.name, format="imagefolder")
        exported = await running.stub.ExportVersion(request, timeout=30)
        received: dict[str, bytearray] = {}
        async for part in running.stub.ReadExport(pb.ReadExportRequest(export=exported.export), timeout=30):
            if part.WhichOneof("part") == "file":
                current = received.setdefault(part.file.path, bytearray())
            else:
                current += part.chunk
        await bring(running, {path: bytes(data) for path, data in received.items()}, dataset=other)
        copied = await _commit(running, tmp_path / "store", other)
        assert copied.digest == version.digest
        assert sum(item.mask is not None for item in copied.items) == 1
