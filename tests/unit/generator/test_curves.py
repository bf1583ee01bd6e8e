"""Widths are measured once for each device, base and shape, and the next process knows them."""

import json
from pathlib import Path

import pytest
from marsam_generator.engine.curves import Curves
from marsam_generator.engine.slots import Group
from marsam_generator.engine.width import Widths

GROUP = Group("base", (4, 8, 8), (("hidden", (77, 64)),), False)


class Cost:
    """A tick takes a tenth of a second and a hundredth for every row; counted."""

    def __init__(self, room: int = 1000) -> None:
        self.asked: list[int] = []
        self.room = room

    def __call__(self, rows: int) -> float:
        self.asked.append(rows)
        if rows > self.room:
            raise MemoryError
        return 0.1 + 0.01 * rows


def test_the_next_process_measures_nothing(tmp_path: Path) -> None:
    first, second = Cost(), Cost()
    widths = Widths(limit=16, kept=Curves(tmp_path / "curves", "cpu; base"))
    width = widths.of(GROUP, first)
    assert width == widths.of(GROUP, first) == 16 and first.asked
    again = Widths(limit=16, kept=Curves(tmp_path / "curves", "cpu; base"))
    assert again.of(GROUP, second) == width and not second.asked
    assert list(again.curves[GROUP]) == list(widths.curves[GROUP])


def test_another_device_base_or_shape_is_measured_by_itself(tmp_path: Path) -> None:
    Widths(limit=16, kept=Curves(tmp_path, "cpu; base")).of(GROUP, Cost())
    for of, group in (("gpu; base", GROUP), ("cpu; base", GROUP._replace(latent=(4, 16, 16)))):
        cost = Cost()
        Widths(limit=16, kept=Curves(tmp_path, of)).of(group, cost)
        assert cost.asked
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff",
        b"[]",
        b'{"of": "another"}',
        {"curve": []},
        {"curve": [[2, 9.0], [1, 9.0]]},
        {"curve": [[1, float("nan")]]},
        {"curve": [[1, -1.0]]},
        {"curve": [[0, 1.0]]},
        {"curve": [[1]]},
        {"curve": "fast"},
        {"of": "of another file", "curve": [[1, 5.0]]},
    ],
)
def test_what_is_broken_or_of_something_else_is_measured_again_and_replaced(
    tmp_path: Path, content: bytes | dict[str, object]
) -> None:
    Widths(limit=16, kept=Curves(tmp_path, "cpu")).of(GROUP, Cost())
    (file,) = tmp_path.iterdir()
    sound = file.read_bytes()
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(json.loads(sound) | content).encode())
    cost = Cost()
    assert Widths(limit=16, kept=Curves(tmp_path, "cpu")).of(GROUP, cost) == 16
    assert cost.asked and file.read_bytes() == sound
    assert list(tmp_path.iterdir()) == [file]


def test_a_curve_that_memory_cut_short_and_a_lowered_width_are_not_kept(tmp_path: Path) -> None:
    widths = Widths(limit=16, kept=Curves(tmp_path, "cpu"))
    assert widths.of(GROUP, Cost(room=4)) == 4
    assert not list(tmp_path.iterdir())
    whole = Widths(limit=16, kept=Curves(tmp_path, "cpu"))
    whole.of(GROUP, Cost())
    whole.lower(GROUP, 3)
    assert whole.of(GROUP, Cost()) == 3
    whole.lower(GROUP, 0)
    assert whole.of(GROUP, Cost()) == 1
    assert Widths(limit=16, kept=Curves(tmp_path, "cpu")).of(GROUP, Cost()) == 16


def test_a_folder_that_cannot_be_written_only_costs_the_next_measurement(tmp_path: Path) -> None:
    (tmp_path / "curves").write_text("a file")
    assert Widths(limit=16, kept=Curves(tmp_path / "curves", "cpu")).of(GROUP, Cost()) == 16
