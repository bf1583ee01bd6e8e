"""A checkpoint counts when its manifest is there and its state is what the manifest says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from marsam_trainer.checkpoints import list_checkpoints
from marsam_trainer.run import checkpoint
from marsam_trainer.run.encoded import EncodedCache
from safetensors.torch import load_file

from marsam.catalog.checkpoints import MARK, STATE, Checkpoint
from marsam.core.errors import Corrupt
from marsam.core.ids import new_ulid
from marsam.diffusion.weights.net import weight_files
from marsam.store.folder import FolderBlobs


@pytest.fixture
def place(tmp_path: Path) -> checkpoint.Place:
    return checkpoint.Place(blobs=FolderBlobs(tmp_path / "store"), project="hayy", run=new_ulid())


async def _save(place: checkpoint.Place, tmp_path: Path, attempt: int, step: int) -> None:
    path = tmp_path / "state"
    digest, size = checkpoint.write_state({"x": torch.full((3,), float(step))}, path)
    mark = Checkpoint(
        attempt=attempt,
        step=step,
        spec_digest="s",
        state_digest=digest,
        state_size=size,
        cores=1,
        lanes=1,
        code_version="0",
    )
    await checkpoint.save(place, mark, path)


async def _newest(place: checkpoint.Place, tmp_path: Path, before: int) -> tuple[int, int, float] | None:
    found = await checkpoint.newest(place, before, tmp_path / "into")
    if found is None:
        return None
    mark, path = found
    return mark.attempt, mark.step, float(load_file(path)["x"][0])


async def test_the_most_advanced_of_earlier_attempts_wins(place: checkpoint.Place, tmp_path: Path) -> None:
    assert await _newest(place, tmp_path, 3) is None
    await _save(place, tmp_path, 1, 20)
    await _save(place, tmp_path, 2, 10)
    await _save(place, tmp_path, 3, 90)
    assert await _newest(place, tmp_path, 3) == (1, 20, 20.0)
    assert await _newest(place, tmp_path, 4) == (3, 90, 90.0)


async def test_a_crash_before_the_manifest_leaves_the_one_before(place: checkpoint.Place, tmp_path: Path) -> None:
    await _save(place, tmp_path, 1, 10)
    await place.blobs.put(place.key(1, 20, STATE), b"half a state")
    assert await _newest(place, tmp_path, 2) == (1, 10, 10.0)


async def test_a_damaged_state_is_passed_over(place: checkpoint.Place, tmp_path: Path) -> None:
    await _save(place, tmp_path, 1, 10)
    await _save(place, tmp_path, 1, 20)
    state = await place.blobs.get(place.key(1, 20, STATE))
    await place.blobs.put(place.key(1, 20, STATE), state[:-1] + b"\x00")
    assert await _newest(place, tmp_path, 2) == (1, 10, 10.0)


async def test_a_damaged_manifest_is_passed_over(place: checkpoint.Place, tmp_path: Path) -> None:
    await _save(place, tmp_path, 1, 10)
    await place.blobs.put(place.key(1, 30, MARK), b"{}")
    assert await _newest(place, tmp_path, 2) == (1, 10, 10.0)


async def test_the_list_shows_whole_ones_only(place: checkpoint.Place, tmp_path: Path) -> None:
    for step in (10, 20, 30):
        await _save(place, tmp_path, 1, step)
    await _save(place, tmp_path, 2, 25)
    await place.blobs.put(place.key(1, 30, MARK), b"{}")
    await place.blobs.delete([place.key(2, 25, MARK)])
    listed = await list_checkpoints(place.blobs, place.project, place.run, attempts=2)
    size = (await place.blobs.stat(place.key(1, 20, STATE))).size
    assert [(found.attempt, found.step, found.size) for found in listed] == [(1, 20, size)]


async def test_only_the_newest_are_kept(place: checkpoint.Place, tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        await _save(place, tmp_path, 1, step)
    kept = sorted([entry.name async for entry in place.blobs.children(place.folder(1))])
    assert kept == ["00000030", "00000040"]


def test_the_encoded_cache_gives_back_what_it_got(tmp_path: Path) -> None:
    cache = EncodedCache(tmp_path)
    value = {"latent": torch.randn(4, 2, 2)}
    assert cache.get("latent", "digest", "64") is None
    cache.put(value, "latent", "digest", "64")
    found = cache.get("latent", "digest", "64")
    assert found is not None
    assert torch.equal(found["latent"], value["latent"])
    assert cache.get("latent", "digest", "32") is None


def test_entries_that_nobody_used_go_first_and_no_more_than_must(tmp_path: Path) -> None:
    cache = EncodedCache(tmp_path)
    for row in range(4):
        cache.put({"latent": torch.full((100,), float(row))}, f"{row}")
        os.utime(cache.path(f"{row}"), (row, row))
    size = cache.path("0").stat().st_size
    left = cache.path("0").with_name(".0.abcd")
    left.write_bytes(b"of a killed process")
    os.utime(left, (0, 0))
    assert cache.trim(4 * size) == 0
    assert not left.exists()
    assert cache.get("0") is not None
    assert cache.trim(2 * size + 1) == 2 * size
    assert [cache.get(f"{row}") is not None for row in range(4)] == [True, False, False, True]


def test_a_damaged_entry_is_as_good_as_none(tmp_path: Path) -> None:
    cache = EncodedCache(tmp_path)
    cache.put({"latent": torch.zeros(4)}, "k")
    cache.path("k").write_bytes(b"not what it was")
    assert cache.get("k") is None
    assert not cache.path("k").exists()


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "encoded").write_text("a file where a folder belongs")
    cache = EncodedCache(tmp_path)
    cache.put({"latent": torch.zeros(4)}, "k")
    assert cache.get("k") is None


def test_a_full_disk_is_said_and_costs_no_encoding(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys, torch\nfrom pathlib import Path\n"
        "from marsam.core.errors import Exhausted\nfrom marsam_trainer.run import checkpoint\n"
        "from marsam_trainer.run.encoded import EncodedCache\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "state, folder = {'x': torch.zeros(10_000)}, Path(sys.argv[1])\n"
        "cache = EncodedCache(folder)\ncache.put(state, 'key')\nassert cache.get('key') is None\n"
        "try:\n    checkpoint.write_state(state, folder / 'state')\n"
        "except Exhausted as error:\n    assert error.reason == 'STORE_FULL', error.reason\n    print('said')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout == "said\n", done.stderr[-2000:]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "content", ['{"weight_map": {"a": "../../stolen.safetensors"}}', '{"weight_map": 3}', "{}", "["]
)
def test_an_index_of_shards_leads_nowhere_else(tmp_path: Path, content: str) -> None:
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(content)
    with pytest.raises(Corrupt):
        weight_files(tmp_path)
