"""A run that trains DoRA: what it publishes is what it was shown by."""

import asyncio
from pathlib import Path

import pytest
from marsam_trainer.run import codes

from marsam.catalog.runs import Preview
from marsam.diffusion.adapter import net as adapters
from marsam.store.cache import Cache
from tests.integration.run.endings import card
from tests.integration.run.store import PROJECT, Shelf
from tests.integration.run.test_run_program import Program

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_lengths_are_trained_published_and_told_of(
    shelf: Shelf, cache: Path, program: Program, tmp_path: Path, method: str
) -> None:
    params = {"dora": True, "rank": 2, "alpha": 2.0}
    preview = Preview(prompts=("a kite",), every=4)
    job_id = asyncio.run(
        shelf.order(method=method, method_params=params, preview=preview, learning_rate=0.01, steps=12, ema_decay=0.5)
    )
    assert program(shelf.arguments(job_id, 1, cache)) == codes.DONE
    model = asyncio.run(shelf.model(job_id))
    assert model.params["dora"] is True
    folder = asyncio.run(Cache(tmp_path / "c").lay_out(shelf.blobs, PROJECT, model.files, tmp_path / "a"))
    adapter = adapters.read(folder)
    assert set(adapter.magnitudes) == set(adapter.pairs)
    halves = sum(half.numel() for pair in adapter.every_pair() for half in pair)
    lengths = sum(value.numel() for value in adapter.magnitudes.values())
    assert model.metrics["trainable_parameters"] == halves + lengths
    told = asyncio.run(card(shelf.blobs, model))
    assert "| `dora` | yes |" in told
    assert f"`marsam generate PROMPT --model base --adapter {model.name.rpartition('/')[2]}`" in told
