"""Real worker processes: verdicts, limits, crashes, replacement."""

import asyncio
import io
import os
import signal
import time

import numpy as np
import pytest
from PIL import Image

from marsam.core.errors import Precondition
from marsam.imaging import hashes
from marsam.imaging.limits import MIB, Limits
from marsam.imaging.pool import Decoded, DecodePool, Rejected


def png(side: int = 32, seed: int = 0) -> bytes:
    out = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(noise).save(out, "PNG", compress_level=1)
    return out.getvalue()


def heavy() -> bytes:
    """A small file that takes over a second to decode and encode."""
    out = io.BytesIO()
    Image.new("RGB", (7000, 7000), "teal").save(out, "PNG", compress_level=1)
    return out.getvalue()


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_a_picture_comes_back_with_its_facts() -> None:
    async with DecodePool(size=1) as pool:
        verdict = await pool.decode(png(48))
        assert isinstance(verdict, Decoded)
        image = Image.open(io.BytesIO(verdict.png))
        np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(png(48)))))
        assert (verdict.width, verdict.height, verdict.format, verdict.notes) == (48, 48, "PNG", ())
        assert verdict.phash == hashes.phash(image.convert("L"))
        assert verdict.measures.entropy > 6
        (pid,) = pool.pids
    assert gone(pid)


async def test_bad_files_do_not_disturb_good_ones() -> None:
    files = [png(seed=i) if i % 2 else b"\x80\x04" + bytes([i]) for i in range(12)]
    async with DecodePool(size=2) as pool:
        verdicts = await asyncio.gather(*(pool.decode(data) for data in files))
        assert len(pool.pids) == 2
    assert [isinstance(v, Decoded) for v in verdicts] == [bool(i % 2) for i in range(12)]
    assert {v.reason for v in verdicts if isinstance(v, Rejected)} == {"NOT_AN_IMAGE"}


@pytest.mark.slow
async def test_a_worker_killed_from_outside_is_replaced_and_its_file_is_decoded() -> None:
    async with DecodePool(size=1) as pool:
        await pool.decode(png())
        (pid,) = pool.pids
        decoding = asyncio.create_task(pool.decode(heavy()))
        await asyncio.sleep(0.2)
        os.kill(pid, signal.SIGKILL)
        verdict = await decoding
        assert isinstance(verdict, Decoded)
        assert verdict.width == 7000
        assert pool.pids != (pid,)


async def test_a_file_that_takes_every_worker_down_gets_the_verdict() -> None:
    async def assassin(pool: DecodePool) -> None:
        while True:
            await asyncio.sleep(0.05)
            for pid in pool.pids:
                os.kill(pid, signal.SIGKILL)

    async with DecodePool(size=1) as pool:
        await pool.decode(png())
        killing = asyncio.create_task(assassin(pool))
        for _ in range(20):
            verdict = await pool.decode(heavy())
            if isinstance(verdict, Rejected):
                break
        killing.cancel()
        assert isinstance(verdict, Rejected)
        assert verdict.reason == "DECODER_CRASHED"
        assert "SIGKILL" in verdict.message
        assert isinstance(await pool.decode(png()), Decoded)


async def test_too_slow_by_the_clock() -> None:
    async with DecodePool(size=1, limits=Limits(deadline_s=0.3)) as pool:
        started = time.monotonic()
        verdict = await pool.decode(heavy())
        assert isinstance(verdict, Rejected)
        assert verdict.reason == "DECODE_TOO_SLOW"
        assert time.monotonic() - started < 10
        assert isinstance(await pool.decode(png()), Decoded)


async def test_too_much_memory_is_a_verdict_and_not_a_crash() -> None:
    async with DecodePool(size=1, limits=Limits(memory_bytes=500 * MIB)) as pool:
        assert isinstance(await pool.decode(png()), Decoded)
        verdict = await pool.decode(heavy())
        assert isinstance(verdict, Rejected)
        assert verdict.reason == "OUT_OF_MEMORY"
        assert isinstance(await pool.decode(png()), Decoded)


async def test_cancelling_frees_the_worker() -> None:
    async with DecodePool(size=1) as pool:
        await pool.decode(png())
        decoding = asyncio.create_task(pool.decode(heavy()))
        await asyncio.sleep(0.1)
        decoding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await decoding
        assert isinstance(await pool.decode(png()), Decoded)


async def test_oversized_input_never_reaches_a_worker_and_a_closed_pool_says_so() -> None:
    pool = DecodePool(size=1, limits=Limits(max_bytes=1000))
    verdict = await pool.decode(b"\x89PNG\r\n\x1a\n" + b"0" * 2000)
    assert isinstance(verdict, Rejected)
    assert verdict.reason == "FILE_TOO_LARGE"
    assert pool.pids == ()
    await pool.close()
    with pytest.raises(Precondition):
        await pool.decode(b"x")
