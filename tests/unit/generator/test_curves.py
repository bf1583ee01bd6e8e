"""Widths are measured once for each device, base and shape, and the next process knows them."""

import json
from pathlib import Path

import pytest
from marsam_generator.engine.curves import Curves
from marsam_generator.engine.slots import Group
from marsam_generator.engine.width import RECOVERY_S, Widths

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


def settled(widths: Widths, cost: Cost, group: Group = GROUP) -> int:
    """The width when its curve is whole."""
    while group not in widths.curves:
        widths.of(group, cost)
    return widths.of(group, cost)


def test_measuring_pauses_for_those_who_draw_and_the_best_so_far_is_used() -> None:
    cost, widths = Cost(), Widths(limit=16)
    # Twice 0.11, 0.12 and 0.14 s; then twice 0.18 and 0.26, which is half a second each time.
    assert [widths.of(GROUP, cost) for _ in range(4)] == [4, 16, 16, 16]
    assert cost.asked == [1, 1, 2, 2, 4, 4, 8, 8, 16, 16]


def test_the_next_process_measures_nothing(tmp_path: Path) -> None:
    first, second = Cost(), Cost()
    widths = Widths(limit=16, kept=Curves(tmp_path / "curves", "cpu; base"))
    width = settled(widths, first)
    assert width == 16 and first.asked
    again = Widths(limit=16, kept=Curves(tmp_path / "curves", "cpu; base"))
    assert again.of(GROUP, second) == width and not second.asked
    assert list(again.curves[GROUP]) == list(widths.curves[GROUP])


def test_another_device_base_or_shape_is_measured_by_itself(tmp_path: Path) -> None:
    settled(Widths(limit=16, kept=Curves(tmp_path, "cpu; base")), Cost())
    for of, group in (("gpu; base", GROUP), ("cpu; base", GROUP._replace(latent=(4, 16, 16)))):
        cost = Cost()
        settled(Widths(limit=16, kept=Curves(tmp_path, of)), cost, group)
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
    settled(Widths(limit=16, kept=Curves(tmp_path, "cpu")), Cost())
    (file,) = tmp_path.iterdir()
    sound = file.read_bytes()
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(json.loads(sound) | content).encode())
    cost = Cost()
    assert settled(Widths(limit=16, kept=Curves(tmp_path, "cpu")), cost) == 16
    assert cost.asked and file.read_bytes() == sound
    assert list(tmp_path.iterdir()) == [file]


def test_a_curve_that_memory_cut_short_and_a_lowered_width_are_not_kept(tmp_path: Path) -> None:
    widths = Widths(limit=16, kept=Curves(tmp_path, "cpu"))
    assert settled(widths, Cost(room=4)) == 4
    assert not list(tmp_path.iterdir())
    whole = Widths(limit=16, kept=Curves(tmp_path, "cpu"))
    settled(whole, Cost())
    whole.lower(GROUP, 3)
    assert whole.of(GROUP, Cost()) == 3
    whole.lower(GROUP, 0)
    assert whole.of(GROUP, Cost()) == 1
    assert settled(Widths(limit=16, kept=Curves(tmp_path, "cpu")), Cost()) == 16


def test_a_width_that_memory_lowered_is_tried_again_after_a_while() -> None:
    now = 0.0
    widths = Widths(limit=16, clock=lambda: now)
    assert settled(widths, Cost()) == 16
    widths.lower(GROUP, 8)
    now = RECOVERY_S - 1.0
    widths.lower(GROUP, 4)  # still short, so the while begins anew
    assert widths.of(GROUP, Cost()) == 4
    now += RECOVERY_S - 1.0
    assert widths.of(GROUP, Cost()) == 4
    now += 1.0
    assert widths.of(GROUP, Cost()) == 16
    widths.lower(GROUP, 8)
    assert widths.of(GROUP, Cost()) == 8


def test_a_folder_that_cannot_be_written_only_costs_the_next_measurement(tmp_path: Path) -> None:
    (tmp_path / "curves").write_text("a file")
    assert settled(Widths(limit=16, kept=Curves(tmp_path / "curves", "cpu")), Cost()) == 16
