from datetime import UTC, datetime, timedelta

from marsam.launch.attempt import Pulse


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds


BEAT = datetime(2020, 1, 1, tzinfo=UTC)  # the store's clock may be anything


def test_the_first_beat_may_take_long_and_later_ones_not() -> None:
    clock = Hand()
    pulse = Pulse(clock, start_s=60, silence_s=10)
    clock.seconds += 59
    assert not pulse.silent(None)
    assert not pulse.silent(BEAT)
    clock.seconds += 9
    assert not pulse.silent(BEAT)
    clock.seconds += 2
    assert pulse.silent(BEAT)
    assert not pulse.silent(BEAT + timedelta(microseconds=1))


def test_no_first_beat() -> None:
    clock = Hand()
    pulse = Pulse(clock, start_s=60, silence_s=10)
    clock.seconds += 61
    assert pulse.silent(None)


def test_an_outage_of_the_store_is_excused() -> None:
    clock = Hand()
    pulse = Pulse(clock, start_s=60, silence_s=10)
    pulse.silent(BEAT)
    for _ in range(5):
        clock.seconds += 9
        pulse.excuse()
    clock.seconds += 9
    assert not pulse.silent(BEAT)
    clock.seconds += 2
    assert pulse.silent(BEAT)


def test_where_no_heartbeat_is_expected_there_is_no_silence() -> None:
    clock = Hand()
    pulse = Pulse(clock, start_s=1, silence_s=None)
    clock.seconds += 1e6
    assert not pulse.silent(None)
