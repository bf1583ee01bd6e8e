"""Where nodes meet: none goes on before all are there, whoever else calls, and all are told the same."""

import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from marsam.launch import meeting
from marsam.launch.meeting import Place

Told = Future[tuple[str, int]]


@pytest.fixture
def place() -> Place:
    return Place(host="localhost", port=meeting.free_port())


def nothing(words: str) -> None: ...


@pytest.mark.slow
def test_three_nodes_meet_and_are_told_the_same_port(place: Place) -> None:
    with ThreadPoolExecutor() as pool:
        first: Told = pool.submit(meeting.join, place, 1, turn=nothing)
        time.sleep(0.2)  # it calls before anybody listens
        host: Told = pool.submit(meeting.host, place, 3, address="", turn=nothing)
        time.sleep(0.5)
        assert not host.done()
        assert not first.done()
        second: Told = pool.submit(meeting.join, place, 2, turn=nothing)
        found = [each.result(20) for each in (host, first, second)]
    assert [address for address, _ in found] == ["127.0.0.1"] * 3
    assert len({port for _, port in found}) == 1
    assert 20_000 <= found[0][1] < 32_000


@pytest.mark.slow
def test_strangers_are_not_counted(place: Place) -> None:
    """Not who scans ports, nor a node of another program, nor a number that is none of this one."""
    with ThreadPoolExecutor() as pool:
        host: Told = pool.submit(meeting.host, place, 2, address="", turn=nothing)
        time.sleep(0.2)
        for greeting in (b"", b"GET / HTTP/1.1\r\n", b"another-0.runs 1\n", b"localhost 7\n", b"localhost 0\n"):
            with socket.create_connection(("localhost", place.port)) as call:
                call.sendall(greeting)
        time.sleep(0.3)
        assert not host.done()
        joined: Told = pool.submit(meeting.join, place, 1, turn=nothing)
        assert host.result(20)[1] == joined.result(20)[1]


@pytest.mark.slow
def test_a_node_that_hangs_up_is_waited_for_again(place: Place) -> None:
    with ThreadPoolExecutor() as pool:
        host: Told = pool.submit(meeting.host, place, 3, address="", turn=nothing)
        time.sleep(0.2)
        with socket.create_connection(("localhost", place.port)) as call:
            call.sendall(b"localhost 1\n")
            time.sleep(0.2)
        second: Told = pool.submit(meeting.join, place, 2, turn=nothing)
        time.sleep(0.5)
        assert not host.done()
        again: Told = pool.submit(meeting.join, place, 1, turn=nothing)
        assert len({each.result(20)[1] for each in (host, second, again)}) == 1


@pytest.mark.slow
def test_what_is_waited_for_is_said(place: Place) -> None:
    said: list[str] = []
    with ThreadPoolExecutor() as pool:
        joined: Told = pool.submit(meeting.join, place, 1, turn=said.append)
        time.sleep(1.3)
        host: Told = pool.submit(meeting.host, place, 3, address="", turn=said.append)
        time.sleep(2.5)
        other: Told = pool.submit(meeting.join, place, 2, turn=nothing)
        for each in (joined, host, other):
            each.result(20)
    where = f"localhost:{place.port}"
    assert f"{where} does not answer (Connection refused)" in said
    assert f"node 1, 2 of 3 has not come to {where}" in said
    assert f"node 2 of 3 has not come to {where}" in said
    assert f"{where} waits for other nodes" in said
