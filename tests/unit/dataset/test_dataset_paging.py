"""Pages by count and by bytes."""

import pytest
from marsam_dataset.paging import fit, page

from marsam.api.dataset.v1 import dataset_pb2 as pb
from marsam.core.errors import Invalid

IDS = [f"{n:03d}" for n in range(120)]


def test_pages_follow_each_other_without_gap_or_repetition() -> None:
    seen: list[str] = []
    token = ""
    while True:
        shown, token = page(IDS, size=50, token=token, parent="p")
        seen += shown
        if not token:
            break
    assert seen == IDS
    assert len(page(IDS, size=0, token="", parent="p")[0]) == 50
    assert page(IDS[:50], size=50, token="", parent="p")[1] == ""


def test_a_page_stops_where_its_bytes_do_and_goes_on_there() -> None:
    shown, token = page(IDS, size=100, token="", parent="p")
    messages = [pb.Item(name=id_, file_name="x" * 1000) for id_ in shown]
    fitting, after = fit(messages, shown, token, parent="p", limit=10_000)
    assert [m.name for m in fitting] == IDS[:9]
    assert page(IDS, size=2, token=after, parent="p")[0] == IDS[9:11]
    assert len(fit(messages, shown, token, parent="p", limit=10)[0]) == 1
    assert fit(messages, shown, token, parent="p") == (messages, token)


@pytest.mark.parametrize("token", ["nonsense", "äöü", "AAAA"])
def test_foreign_tokens_are_refused(token: str) -> None:
    with pytest.raises(Invalid, match="page token"):
        page(IDS, size=1, token=token, parent="p")
    with pytest.raises(Invalid, match="another list"):
        page(IDS, size=1, token=page(IDS, size=1, token="", parent="q")[1], parent="p")
