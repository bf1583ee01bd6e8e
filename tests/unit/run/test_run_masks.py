"""From a mask to what cells weigh."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from marsam_trainer.run.masks import read_mask, weights
from PIL import Image

from marsam.core.errors import Corrupt
from marsam.diffusion.buckets import Cut


def _saved(folder: Path, mask: np.ndarray) -> Path:
    Image.fromarray(mask).save(folder / "mask.png")
    return folder / "mask.png"


def test_a_cell_is_the_mean_of_the_area_that_it_stands_for(tmp_path: Path) -> None:
    mask = np.random.default_rng(1).integers(0, 256, (32, 64), dtype=np.uint8)
    found = read_mask(_saved(tmp_path, mask), Cut((64, 32), (32, 32)), (4, 4), name="one.png")
    # The square at the centre, of which each cell is 8×8 px.
    means = mask[:, 16:48].astype(np.float64).reshape(4, 8, 4, 8).mean(axis=(1, 3)) / 255
    np.testing.assert_allclose(found.numpy(), means, atol=1e-6)


def test_colours_are_read_as_their_lightness(tmp_path: Path) -> None:
    colours = np.zeros((16, 16, 3), dtype=np.uint8)
    colours[:, 8:] = 255
    found = read_mask(_saved(tmp_path, colours), Cut((16, 16), (16, 16)), (2, 1), name="one.png")
    assert found.tolist() == [[0.0, 1.0]]


@given(arrays(np.float32, (4, 6), elements=st.floats(0, 1, width=32)), st.floats(0, 0.99))
def test_weights_are_1_on_average_and_outside_is_the_floor_beside_inside(mask: np.ndarray, floor: float) -> None:
    mask[0, 0], mask[0, 1] = 0.0, 1.0
    found = weights(torch.from_numpy(mask), floor)
    assert float(found.mean()) == pytest.approx(1.0, rel=1e-5)
    assert float(found[0, 0]) == pytest.approx(floor * float(found[0, 1]), rel=1e-5, abs=1e-7)


def test_a_white_mask_changes_nothing_and_a_black_one_leaves_nothing() -> None:
    assert torch.equal(weights(torch.ones(8, 8), 0.1), torch.ones(8, 8))
    assert torch.equal(weights(torch.zeros(8, 8), 0.0), torch.zeros(8, 8))


def test_a_mask_of_another_size_or_no_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match=r"one\.png") as caught:
        read_mask(_saved(tmp_path, np.zeros((8, 8), np.uint8)), Cut((16, 8), (8, 8)), (1, 1), name="one.png")
    assert caught.value.reason == "MASK_SIZE"
    (tmp_path / "none.png").write_bytes(b"nothing")
    with pytest.raises(Corrupt) as caught:
        read_mask(tmp_path / "none.png", Cut((16, 8), (8, 8)), (1, 1), name="one.png")
    assert caught.value.reason == "MASK_UNREADABLE"
