"""Pages by count and by bytes."""

import pytest

from marsam.api.dataset.v1 import dataset_pb2 as pb
from marsam.core.errors import Invalid
from marsam.rpc.server.paging import DEFAULT_SIZE, LARGEST_SIZE, Page, leading, page

IDS = [f"{n:03d}" for n in range(120)]


def ask(size: int = 50, token: str = "", parent: str = "p") -> Page:
    return page(size=size, token=token, question=("List", parent))


@pytest.mark.parametrize("descending", [False, True])
def test_pages_follow_each_other_without_gap_or_repetition(descending: bool) -> None:
    ids = IDS[::-1] if descending else IDS
    seen: list[str] = []
    token = ""
    while True:
        shown, token = ask(token=token).cut(ids, descending=descending)
        seen += shown
        if not token:
            break
    assert seen == ids
    assert ask().cut(ids[:50], descending=descending)[1] == ""


def test_ids_need_not_come_in_order() -> None:
    # As a folder lists "a-b.json" before "a.json".
    files = ["a-b", "a", "b"]
    shown, token = ask(1).cut(files)
    assert [*shown, *ask(2, token).cut(files)[0]] == ["a", "a-b", "b"]


def test_what_comes_and_goes_meanwhile_shifts_nothing() -> None:
    token = ask(3).cut(IDS)[1]
    assert ask(3, token).cut(["000", "001x", *IDS[4:]])[0] == IDS[4:7]
    down = ask(3).cut(IDS[::-1], descending=True)[1]
    assert ask(3, down).cut(["new", *IDS[::-1]][1:], descending=True)[0] == ["116", "115", "114"]


def test_the_size_has_a_default_and_a_bound() -> None:
    assert (ask(0).size, ask(10**6).size) == (DEFAULT_SIZE, LARGEST_SIZE)


def test_a_page_stops_where_its_bytes_do_and_goes_on_there() -> None:
    asked = ask(100)
    shown, token = asked.cut(IDS)
    messages = [pb.Item(name=id_, file_name="x" * 1000) for id_ in shown]
    fitting, after = asked.fit(messages, shown, token, limit=10_000)
    assert [m.name for m in fitting] == IDS[:9]
    assert ask(2, after).cut(IDS)[0] == IDS[9:11]
    assert len(asked.fit(messages, shown, token, limit=10)[0]) == 1
    assert asked.fit(messages, shown, token) == (messages, token)


def test_a_list_in_memory_is_paged_by_id_or_by_place() -> None:
    def say(text: str) -> pb.Item:
        return pb.Item(name=text)

    grown = ["c", "a", "b"]
    shown, token = ask(2).of(grown, say)
    assert [m.name for m in shown] == ["c", "a"]
    shown, token = ask(2, token).of([*grown, "d"], say)
    assert ([m.name for m in shown], token) == (["b", "d"], "")
    shown, token = ask(1).of(["x", "z"], say, ids=["1", "3"])
    assert [m.name for m in ask(1, token).of(["x", "y", "z"], say, ids=["1", "2", "3"])[0]] == ["y"]
    assert ask(1).of([], say) == ([], "")


def test_a_bounded_list_keeps_its_beginning() -> None:
    assert leading(["ab", "ج", "x"], limit=4) == ["ab", "ج"]
    assert leading([pb.Item(name="x" * 98)] * 5, limit=250) == [pb.Item(name="x" * 98)] * 2
    assert leading(["abc"], limit=2) == []


@pytest.mark.parametrize("token", ["nonsense", "x", "äöü", "AAAA", "bnVsbA==", "WyJhIiwgMV0="])
def test_foreign_tokens_are_refused(token: str) -> None:
    with pytest.raises(Invalid, match="page token") as caught:
        ask(1, token)
    assert caught.value.reason == "PAGE_TOKEN"


def test_a_token_belongs_to_its_question() -> None:
    token = ask(1).cut(IDS)[1]
    with pytest.raises(Invalid, match="another list"):
        ask(1, token, parent="q")
