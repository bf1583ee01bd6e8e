"""Batches are a pure function of (seed, step)."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from marsam_trainer.run import randomness
from marsam_trainer.run.data import read_picture
from marsam_trainer.run.feed import EMPTY, Feed, TrainingSet
from marsam_trainer.run.validation import HeldOut
from PIL import Image

from marsam.core.errors import Invalid
from marsam.diffusion import schedule
from marsam.diffusion.buckets import Cut
from marsam.diffusion.spec import Conditioning

_TABLE = schedule.from_config({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012})


def _always(height: int, width: int) -> schedule.Schedule:
    return _TABLE


def _set(count: int = 10) -> TrainingSet:
    return TrainingSet(
        keys=tuple(f"key-{row}" for row in range(count)),
        latents=torch.arange(count, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 4, 2, 2).clone(),
        texts=Conditioning({"hidden": torch.arange(1 + 2 * count, dtype=torch.float32).view(-1, 1, 1)}),
        captions=tuple((1 + 2 * row, 2 + 2 * row) for row in range(count)),
    )


def _feed(*, seed: int = 1, batch_size: int = 4, dropout: float = 0.0, count: int = 10) -> Feed:
    return Feed(_set(count), _always, seed=seed, batch_size=batch_size, caption_dropout=dropout)


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
    told = Feed(replace(samples, frames=frames), _always, seed=1, batch_size=4, caption_dropout=0.5)
    plain = Feed(samples, _always, seed=1, batch_size=4, caption_dropout=0.5)
    for step in range(5):
        batch, bare = told.batch(step), plain.batch(step)
        assert torch.equal(batch.cond.tensors["frame"], frames[list(batch.rows)])
        assert torch.equal(batch.part(slice(1, 3)).cond.tensors["frame"], frames[list(batch.rows[1:3])])
        assert (batch.rows, batch.texts) == (bare.rows, bare.texts)
        assert torch.equal(batch.noise, bare.noise)
        assert torch.equal(batch.cond.tensors["hidden"], bare.cond.tensors["hidden"])


def test_a_frame_is_how_the_picture_was_cut(tmp_path: Path) -> None:
    """Columns are numbered by their red: the first one that is left is the frame's, in pixels of the scaled picture."""
    columns = np.zeros((50, 200, 3), dtype=np.uint8)
    columns[:, :, 0] = np.arange(200)
    Image.fromarray(columns).save(tmp_path / "wide.png")
    height, width, top, left, side, _ = Cut((200, 50), (25, 25)).frame
    red = (read_picture(tmp_path / "wide.png", (25, 25), name="wide") + 1) * 127.5
    assert (height, width, top, side) == (50, 200, 0, 25)
    assert float(red[0, 10, 0]) * 25 / 50 == pytest.approx(left, abs=1.0)


@pytest.mark.parametrize(("picture", "size"), [((60, 40), (32, 16)), ((40, 60), (16, 32)), ((90, 20), (32, 8))])
def test_what_is_left_of_a_picture_is_its_centre(
    tmp_path: Path, picture: tuple[int, int], size: tuple[int, int]
) -> None:
    """Every pixel tells where it stood: red is its column, green its row."""
    columns, rows = np.meshgrid(np.arange(picture[0]), np.arange(picture[1]))
    Image.fromarray(np.stack([columns, rows, 0 * rows], axis=-1).astype(np.uint8)).save(tmp_path / "one.png")
    pixels = (read_picture(tmp_path / "one.png", size, name="one") + 1) * 127.5
    assert pixels.shape == (3, size[1], size[0])
    left, top, right, bottom = Cut(picture, size).box
    across, down = (right - left) / size[0], (bottom - top) / size[1]
    # Away from the borders, where the filter has less to average over.
    for x, y in ((4, 3), (size[0] // 2, size[1] // 2), (size[0] - 5, size[1] - 4)):
        assert float(pixels[0, y, x]) == pytest.approx(left + (x + 0.5) * across - 0.5, abs=1.0)
        assert float(pixels[1, y, x]) == pytest.approx(top + (y + 0.5) * down - 0.5, abs=1.0)


def _of_two_sizes() -> TrainingSet:
    """Seven pictures of 2×4 cells among five of 4×2."""
    shapes = [(2, 4), (4, 2)] * 5 + [(2, 4)] * 2
    return replace(_set(12), latents=[torch.full((4, *shape), float(row)) for row, shape in enumerate(shapes)])


def test_a_batch_of_buckets_is_of_one_size_and_drawn_by_its_schedule() -> None:
    wide, tall = schedule.Line(shift=1.0), schedule.Line(shift=3.0)
    samples = _of_two_sizes()
    feed = Feed(
        samples,
        lambda height, width: wide if width > height else tall,
        seed=1,
        batch_size=4,
        caption_dropout=0.0,
        bucketed=True,
    )
    epoch = [feed.batch(step) for step in range(4)]
    assert sorted(len(batch) for batch in epoch) == [2, 3, 3, 4]
    assert sorted(row for batch in epoch for row in batch.rows) == list(range(12))
    for step, batch in enumerate(epoch):
        assert batch.clean.shape == batch.noise.shape == (len(batch), *samples.shape(batch.rows[0]))
        assert torch.equal(batch.clean[:, 0, 0, 0], torch.tensor(batch.rows, dtype=torch.float32))
        own = wide if batch.clean.shape[3] == 4 else tall
        uniform = [(i + randomness.unit(1, "time", step, i)) / len(batch) for i in range(len(batch))]
        assert batch.t.tolist() == [own.draw(value) for value in uniform]
        assert batch.signal.flatten().tolist() == pytest.approx([own.levels(t)[0] for t in batch.t.tolist()])


def test_pictures_held_out_are_asked_in_batches_of_one_size() -> None:
    samples = _of_two_sizes()
    asked = list(HeldOut(samples, _always, seed=1, batch_size=5))
    rows = Counter(row for batch in asked for row in batch.rows)
    assert rows == dict.fromkeys(range(12), 4)
    assert all({samples.shape(row) for row in batch.rows} == {tuple(batch.clean.shape[1:])} for batch in asked)
    square = list(HeldOut(_set(), _always, seed=1, batch_size=5))
    assert [row for batch in square for row in batch.rows] == [row for row in range(10) for _ in range(4)]


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
