"""Streams that may be cancelled from elsewhere, the device."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from marsam_generator.attended import attended
from marsam_generator.hardware import choose
from marsam_generator.settings import GeneratorSettings

from marsam.core.errors import Cancelled, Invalid, Precondition


class Source:
    """Yields 1, waits for `go`, yields 2; tells when it was unwound."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.unwound = False

    async def events(self) -> AsyncIterator[int]:
        try:
            yield 1
            await self.go.wait()
            yield 2
        finally:
            self.unwound = True


async def test_a_cancel_from_elsewhere_unwinds_the_source() -> None:
    source, cancelled = Source(), asyncio.Event()
    with pytest.raises(Cancelled):
        async for event in attended(source.events(), cancelled):
            assert event == 1
            cancelled.set()
    assert source.unwound


async def test_leaving_early_unwinds_the_source() -> None:
    source = Source()
    stream = attended(source.events(), asyncio.Event())
    assert await anext(stream) == 1
    await stream.aclose()
    assert source.unwound


async def test_what_the_source_raises_is_raised() -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise Invalid("no")

    with pytest.raises(Invalid):
        async for _ in attended(broken(), asyncio.Event()):
            pass


def test_a_fingerprint_names_what_pictures_depend_on() -> None:
    told = choose("cpu", "fp32", 1).fingerprint
    for library in ("marsam", "diffusers", "transformers"):
        assert f"{library} {version(library)}; " in told
    assert f"; cpu {torch.backends.cpu.get_cpu_capability()}; fp32; lanes 1" in told


@pytest.mark.slow
def test_a_processor_with_other_instructions_has_another_fingerprint() -> None:
    # As on a machine without vector instructions: torch then computes with other kernels, and other bits.
    program = "from marsam_generator.hardware import choose; print(choose('cpu', 'fp32', 1).fingerprint)"
    plain = {**os.environ, "ATEN_CPU_CAPABILITY": "default"}
    told = subprocess.run([sys.executable, "-c", program], env=plain, capture_output=True, text=True, check=True)
    assert "; cpu DEFAULT; fp32" in told.stdout


def test_a_missing_gpu_is_refused_by_name() -> None:
    with pytest.raises(Precondition) as caught:
        choose("cuda:9", "fp32", 0)
    assert caught.value.reason == "DEVICE_MISSING" and "cuda:9" in caught.value.message


def test_lanes_follow_the_cores_that_were_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert choose("cpu", "fp32", 0).lanes == 3
    assert choose("cpu", "bf16", 2).lanes == 2
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert 1 <= choose("cpu", "fp32", 0).lanes <= (os.cpu_count() or 1)


@pytest.mark.parametrize("device", ["cuda:one", "cudax", "cpu:0", "gpu", ""])
def test_a_device_that_is_none_is_refused(device: str) -> None:
    with pytest.raises(Invalid) as caught:
        GeneratorSettings(store="/s", cache=Path("/c"), device=device)
    assert caught.value.field == "device"
