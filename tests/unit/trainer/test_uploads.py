"""A folder that arrives in chunks: verified, contained, and honest about what was announced."""

import hashlib
import resource
from pathlib import Path

import pytest
from marsam_trainer.uploads import Upload

from marsam.core.errors import Corrupt, Exhausted, Invalid


async def test_files_arrive_whole_with_their_digests(tmp_path: Path) -> None:
    upload = Upload(tmp_path, limit_bytes=1 << 24)
    big = bytes(range(256)) * (5 << 12)
    await upload.begin("unet/model.safetensors", size=len(big), digest=f"sha256:{hashlib.sha256(big).hexdigest()}")
    for start in range(0, len(big), 1 << 18):
        await upload.write(big[start : start + (1 << 18)])
    await upload.begin("empty.txt", size=0)
    received = await upload.finish()
    assert [(r.path, r.size) for r in received] == [("empty.txt", 0), ("unet/model.safetensors", len(big))]
    assert (tmp_path / "unet/model.safetensors").read_bytes() == big
    assert received[0].digest == f"sha256:{hashlib.sha256(b'').hexdigest()}"


async def test_other_bytes_than_announced_are_refused(tmp_path: Path) -> None:
    upload = Upload(tmp_path, limit_bytes=100)
    await upload.begin("a", size=1, digest=f"sha256:{'0' * 64}")
    await upload.write(b"x")
    with pytest.raises(Corrupt) as caught:
        await upload.finish()
    assert caught.value.reason == "DIGEST_MISMATCH"
    await upload.close()


@pytest.mark.parametrize(("size", "data"), [(3, b"ab"), (1, b"ab")])
async def test_sizes_must_agree(tmp_path: Path, size: int, data: bytes) -> None:
    upload = Upload(tmp_path, limit_bytes=100)
    await upload.begin("a", size=size)
    with pytest.raises(Invalid) as caught:
        await upload.write(data)
        await upload.finish()
    assert caught.value.reason == "SIZE_MISMATCH"
    await upload.close()


@pytest.mark.parametrize("path", ["../up", "/etc/passwd", "a//b", "a\\b", ".git/config", "x/../../y", ""])
async def test_paths_stay_inside(tmp_path: Path, path: str) -> None:
    upload = Upload(tmp_path / "in", limit_bytes=100)
    with pytest.raises(Invalid) as caught:
        await upload.begin(path, size=0)
    assert caught.value.reason == "PATH_UNSAFE"
    assert list(tmp_path.iterdir()) == []


async def test_twice_a_file_that_is_a_folder_too_many_bytes_and_bytes_without_a_file(tmp_path: Path) -> None:
    upload = Upload(tmp_path, limit_bytes=10)
    with pytest.raises(Invalid) as early:
        await upload.write(b"x")
    assert early.value.reason == "STREAM_ORDER"
    await upload.begin("a", size=0)
    await upload.begin("b", size=0)
    for path, reason in (("a", "FILE_TWICE"), ("a/b", "PATH_UNSAFE")):
        with pytest.raises(Invalid) as caught:
            await upload.begin(path, size=0)
        assert caught.value.reason == reason
    with pytest.raises(Exhausted) as full:
        await upload.begin("c", size=11)
    assert full.value.reason == "MODEL_TOO_LARGE"


async def test_a_disk_without_room_is_said_to_be_full(tmp_path: Path) -> None:
    upload = Upload(tmp_path, limit_bytes=1 << 24)
    await upload.begin("a", size=8 << 20)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(Exhausted) as caught:
            for _ in range(32):
                await upload.write(b"x" * (1 << 18))
        await upload.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.reason == "STORE_FULL"
