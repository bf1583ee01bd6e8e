"""Batches are a pure function of (seed, step)."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from marsam_trainer.run import randomness
from marsam_trainer.run.data import frame_of, read_picture
from marsam_trainer.run.feed import EMPTY, Feed, TrainingSet
from PIL import Image

from marsam.core.errors import Invalid
from marsam.diffusion import schedule
from marsam.diffusion.spec import Conditioning

_TABLE = schedule.from_config({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012})


def _set(count: int = 10) -> TrainingSet:
    return TrainingSet(
        keys=tuple(f"key-{row}" for row in range(count)),
        latents=torch.arange(count, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 4, 2, 2).clone(),
        texts=Conditioning({"hidden": torch.arange(1 + 2 * count, dtype=torch.float32).view(-1, 1, 1)}),
        captions=tuple((1 + 2 * row, 2 + 2 * row) for row in range(count)),
    )


def _feed(*, seed: int = 1, batch_size: int = 4, dropout: float = 0.0, count: int = 10) -> Feed:
    return Feed(_set(count), _TABLE, seed=seed, batch_size=batch_size, caption_dropout=dropout)


def test_a_step_is_the_same_whenever_it_is_asked_for() -> None:
    forward, alone = _feed(), _feed()
    batches = [forward.batch(step) for step in range(7)]
    torch.manual_seed(99)
    again = alone.batch(6)
    assert again.rows == batches[6].rows
    assert again.texts == batches[6].texts
    assert torch.equal(again.noise, batches[6].noise)
    assert torch.equal(again.t, batches[6].t)


def test_another_seed_gives_another_step() -> None:
    one, two = _feed(seed=1).batch(0), _feed(seed=2).batch(0)
    assert not torch.equal(one.noise, two.noise)
    assert not torch.equal(one.t, two.t)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 25])
def test_every_epoch_shows_every_sample_once(batch_size: int) -> None:
    feed = _feed(batch_size=batch_size)
    stream = [row for step in range(60) for row in feed.rows(step)]
    for epoch in range(len(stream) // 10):
        assert sorted(stream[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert stream[:10] != stream[10:20]


def test_captions_belong_to_their_samples_and_take_turns() -> None:
    feed = _feed()
    seen: Counter[int] = Counter()
    for step in range(100):
        batch = feed.batch(step)
        assert torch.equal(batch.clean[:, 0, 0, 0], torch.tensor(batch.rows, dtype=torch.float32))
        for row, text in zip(batch.rows, batch.texts, strict=True):
            assert text in (1 + 2 * row, 2 + 2 * row)
            seen[text] += 1
        assert batch.cond.tensors["hidden"].flatten().tolist() == list(batch.texts)
    assert all(10 <= seen[text] <= 30 for text in range(1, 21))


def test_dropout_takes_its_share() -> None:
    feed = _feed(dropout=0.25)
    texts = [text for step in range(250) for text in feed.batch(step).texts]
    assert texts.count(EMPTY) / len(texts) == pytest.approx(0.25, abs=0.04)


def test_times_are_uniform_and_spread_over_the_batch() -> None:
    feed = _feed(batch_size=4)
    steps = [[round(1000 * t) - 1 for t in feed.times(step)] for step in range(500)]
    for row in range(4):
        values = [times[row] for times in steps]
        assert 250 * row <= min(values)
        assert max(values) < 250 * (row + 1)
    everything = [k for times in steps for k in times]
    assert sum(everything) / len(everything) == pytest.approx(499.5, abs=10)


def test_levels_are_the_schedules() -> None:
    batch = _feed().batch(3)
    for row, t in enumerate(batch.t.tolist()):
        k = round(t * 1000) - 1
        assert float(batch.signal[row]) == pytest.approx(_TABLE.signal[k])
        assert float(batch.noise_level[row]) == pytest.approx(_TABLE.noise[k])


def test_a_part_is_some_of_the_rows() -> None:
    batch = _feed().batch(0)
    part = batch.part(slice(1, 3))
    assert len(part) == 2
    assert part.rows == batch.rows[1:3]
    assert torch.equal(part.noise, batch.noise[1:3])
    assert torch.equal(part.cond.tensors["hidden"], batch.cond.tensors["hidden"][1:3])


def test_a_batch_says_how_its_pictures_were_cut_where_that_is_known() -> None:
    assert "frame" not in _feed().batch(0).cond.tensors
    samples = _set()
    frames = torch.arange(60, dtype=torch.float32).view(10, 6)
    told = Feed(replace(samples, frames=frames), _TABLE, seed=1, batch_size=4, caption_dropout=0.5)
    plain = Feed(samples, _TABLE, seed=1, batch_size=4, caption_dropout=0.5)
    for step in range(5):
        batch, bare = told.batch(step), plain.batch(step)
        assert torch.equal(batch.cond.tensors["frame"], frames[list(batch.rows)])
        assert torch.equal(batch.part(slice(1, 3)).cond.tensors["frame"], frames[list(batch.rows[1:3])])
        assert (batch.rows, batch.texts) == (bare.rows, bare.texts)
        assert torch.equal(batch.noise, bare.noise)
        assert torch.equal(batch.cond.tensors["hidden"], bare.cond.tensors["hidden"])


@pytest.mark.parametrize(
    ("size", "side", "frame"),
    [
        ((32, 32), 32, [32, 32, 0, 0, 32, 32]),
        ((1500, 1000), 512, [1000, 1500, 0, 128, 512, 512]),
        ((1000, 1500), 512, [1500, 1000, 128, 0, 512, 512]),
        # 1023 · 512 / 700 = 748.25 px: cut down to 748, half of what is over on either side.
        ((1023, 700), 512, [700, 1023, 0, 118, 512, 512]),
    ],
)
def test_a_frame_tells_the_original_the_cut_and_what_is_left(
    size: tuple[int, int], side: int, frame: list[float]
) -> None:
    assert frame_of(*size, side).tolist() == frame


def test_a_frame_is_how_the_picture_was_cut(tmp_path: Path) -> None:
    """Columns are numbered by their red: the first one that is left is the frame's, in pixels of the scaled picture."""
    columns = np.zeros((50, 200, 3), dtype=np.uint8)
    columns[:, :, 0] = np.arange(200)
    Image.fromarray(columns).save(tmp_path / "wide.png")
    height, width, top, left, side, _ = frame_of(200, 50, 25).tolist()
    red = (read_picture(tmp_path / "wide.png", 25, name="wide") + 1) * 127.5
    assert (height, width, top, side) == (50, 200, 0, 25)
    assert float(red[0, 10, 0]) * 25 / 50 == pytest.approx(left, abs=1.0)


def test_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(Invalid) as caught:
        TrainingSet(keys=(), latents=torch.zeros(0, 4, 2, 2), texts=Conditioning(), captions=())
    assert caught.value.reason == "DATASET_EMPTY"


def test_draws_are_the_same_on_every_machine() -> None:
    assert randomness.bits(1, "noise", 2, "x") == 1378090852828786942
    assert 0.0 <= randomness.unit(1, "a") < 1.0
    values = [randomness.unit(5, "u", n) for n in range(2000)]
    assert sum(values) / len(values) == pytest.approx(0.5, abs=0.02)
    assert randomness.bits(1, "ab", "c") != randomness.bits(1, "a", "bc")
