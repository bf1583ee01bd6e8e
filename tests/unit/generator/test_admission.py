"""Who may wait and for how long: a bound in predicted seconds, even shares, and the arithmetic of predictions."""

import contextlib
from typing import Any

import pytest
from marsam_generator.engine.admission import DOUBT, FRESH_S, Admission, Place
from marsam_generator.engine.pace import Kind, Pace

from marsam.core.errors import Deadline, Exhausted

KIND = Kind("base", (64, 64), False)


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def admission(*, seconds: float = 1e6, pictures: int = 1000, lanes: int = 1, clock: Time | None = None) -> Admission:
    """One that knows: a tick of 1 row takes 1 s, of 2 also 1, of 4 2: full at 4 rows, half a second a row."""
    made = Admission(seconds=seconds, pictures=pictures, lanes=lanes, clock=clock or Time())
    for rows, cost in ((1, 1.0), (2, 1.0), (4, 2.0)):
        made.observe(KIND, rows=rows, width=4, seconds=cost)
    return made


def place(steps: int = 10, *, pictures: int = 1, tenant: str = "", guided: bool = False, **fields: Any) -> Place:
    rows = pictures * (2 if guided else 1)
    values: dict[str, Any] = {"kind": KIND, **fields}
    return Place(tenant=tenant, pictures=pictures, rows=rows, steps=steps, row_steps=rows * steps, **values)


def test_a_tick_between_known_widths_is_on_the_line_between_them() -> None:
    pace = Pace()
    assert pace.tick(KIND, 3) == 0.0
    pace.learn(KIND, [(1, 1.0), (2, 1.6), (4, 2.0)])
    pace.learn(KIND, [(1, 9.0)])  # what was learnt is not thrown away for another curve
    assert [pace.tick(KIND, rows) for rows in (1, 2, 3, 4, 8)] == pytest.approx([1.0, 1.25, 1.625, 2.0, 4.0])
    pace.observe(KIND, rows=2, width=4, seconds=2.25)
    assert pace.tick(KIND, 2) == pytest.approx(1.45)


def test_a_size_that_never_was_is_predicted_from_the_nearest_of_its_model_by_area() -> None:
    pace = Pace()
    pace.observe(KIND, rows=2, width=8, seconds=1.0)
    pace.observe(Kind("base", (256, 256), False), rows=2, width=2, seconds=40.0)
    assert pace.tick(Kind("base", (128, 64), False), 2) == pytest.approx(2.0)
    assert pace.tick(Kind("base", (256, 192), True), 2) == pytest.approx(30.0)
    assert pace.tick(Kind("other", (64, 64), False), 2) == 0.0


def test_alone_it_begins_at_once_and_takes_its_own_ticks() -> None:
    queue = admission()
    with queue.enter(place(10, guided=True)) as one:
        assert (queue.until_first_step(one), queue.until_last_picture(one)) == (0.0, 10.0)
        assert queue.seconds_of_work == pytest.approx(10.0)
        one.left = 0.5
        assert queue.until_last_picture(one) == pytest.approx(5.0)
    # Six rows where four fit: two ticks a step.
    with queue.enter(place(10, pictures=6)) as many:
        assert queue.until_last_picture(many) == pytest.approx(10 * 2 * 2.0)


def test_decoding_counts_and_lanes_share_it() -> None:
    queue = admission(lanes=2)
    queue.observe_decode(KIND, 3.0)
    with queue.enter(place(10, pictures=4)) as one:
        assert queue.until_last_picture(one) == pytest.approx(10 * 2.0 + 2 * 3.0)


def test_in_one_tick_with_others_it_waits_for_the_running_one() -> None:
    queue = admission()
    with queue.enter(place(100, pictures=2)), queue.enter(place(10, pictures=2)) as one:
        assert queue.until_first_step(one) == pytest.approx(1.0)  # two rows are running
        # Its twenty rows at half a second, and as much of the other's two hundred.
        assert queue.until_last_picture(one) == pytest.approx(20.0)


def test_who_has_less_to_do_goes_before_and_who_has_more_takes_as_much() -> None:
    queue = admission()
    with contextlib.ExitStack() as stack:
        for steps in (5, 5, 100):
            stack.enter_context(queue.enter(place(steps, pictures=4)))
        one = stack.enter_context(queue.enter(place(20, pictures=4)))
        assert queue.until_first_step(one) == pytest.approx(2.0 + 10 + 10)
        assert queue.until_last_picture(one) == pytest.approx(40 + 10 + 10 + 40)


def test_a_hundred_of_another_tenant_count_as_much_as_one() -> None:
    queue = admission()
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(queue.enter(place(50, pictures=4, tenant="many")))
        assert queue.seconds_of_work == pytest.approx(100 * 100)
        one = stack.enter_context(queue.enter(place(10, pictures=4, tenant="one")))
        assert queue.until_last_picture(one) == pytest.approx(20 + 20)


def test_the_queue_is_bounded_in_seconds_and_says_when_to_come_again() -> None:
    queue = admission(seconds=30)
    with queue.enter(place(30, pictures=4)), pytest.raises(Exhausted) as caught, queue.enter(place(1)):
        pass  # sixty seconds are ahead, however little this one asks for
    assert caught.value.reason == "QUEUE_FULL" and caught.value.retry_after_s == pytest.approx(30.0)
    # One that is larger than the bound by itself is drawn when there is nothing before it.
    with queue.enter(place(100, pictures=4)):
        assert queue.pictures == 4
    assert (queue.pictures, queue.seconds_of_work) == (0, 0.0)


def test_before_anything_was_measured_pictures_are_counted() -> None:
    queue = Admission(seconds=1, pictures=4)
    with queue.enter(place(500, pictures=3)) as first:
        assert (first.ahead, queue.waiting, queue.until_last_picture(first)) == (0, 3, 0.0)
        with pytest.raises(Exhausted) as caught, queue.enter(place(1, pictures=2)):
            pass
        assert caught.value.retry_after_s == 0.5
        first.begun = True
        with queue.enter(place(1)) as second:
            assert (second.ahead, queue.waiting) == (3, 1)


def test_a_tenant_that_fills_the_queue_does_not_shut_others_out() -> None:
    queue = admission(seconds=30, pictures=8)
    with queue.enter(place(30, pictures=8, tenant="many")):
        with pytest.raises(Exhausted), queue.enter(place(1, tenant="many")):
            pass
        with queue.enter(place(30, pictures=4, tenant="one")):
            with pytest.raises(Exhausted), queue.enter(place(1, tenant="one")):
                pass  # now it has its half
            with queue.enter(place(1, tenant="two")):
                assert queue.pictures == 13


def test_a_hopeless_deadline_is_refused_at_once_with_the_estimate() -> None:
    clock = Time()
    queue = admission(clock=clock)
    with pytest.raises(Deadline) as caught, queue.enter(place(20), deadline=clock.now + 10):
        pass
    assert caught.value.reason == "DEADLINE_HOPELESS"
    assert "20.0 seconds" in caught.value.message and "10.0 are left" in caught.value.message
    assert queue.pictures == 0
    # A prediction may be wrong by so much: whoever might make it is let in.
    with queue.enter(place(20), deadline=clock.now + 20 / DOUBT + 0.01):
        pass
    # What others do meanwhile counts.
    late = queue.enter(place(20, pictures=4), deadline=clock.now + 45)
    with queue.enter(place(20, pictures=4)), pytest.raises(Deadline), late:
        pass


def test_an_old_measurement_refuses_nobody() -> None:
    clock = Time()
    queue = admission(clock=clock)
    clock.now += FRESH_S + 1
    second = queue.enter(place(20), deadline=clock.now + 1)
    with queue.enter(place(20), deadline=clock.now + 1), pytest.raises(Deadline), second:
        pass
    unknown = Kind("other", (64, 64), False)
    with queue.enter(place(20, kind=unknown), deadline=clock.now + 1):
        pass
