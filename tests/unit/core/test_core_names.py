import pickle
from datetime import UTC, datetime, timedelta

import pytest

from marsam.core.clock import format_time, parse_time
from marsam.core.errors import Invalid, Missing, Violation, nearest, unknown_name
from marsam.core.ids import check_slug, check_ulid, digest_hex, digest_of, is_ulid, new_ulid, sha256_hex
from marsam.core.names import format_name, parse

ULID = "01arz3ndektsv4rrffq69g5fav"


class Stopped:
    """A clock that stands."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()


def test_ulids_are_unique_and_sort_by_time() -> None:
    begin = datetime(2026, 11, 25, tzinfo=UTC)
    made = [new_ulid(Stopped(begin + timedelta(milliseconds=n))) for n in range(200)]
    assert made == sorted(made)
    assert len(set(made)) == 200
    assert all(is_ulid(u) and len(u) == 26 for u in made)
    assert new_ulid(Stopped(datetime(1970, 1, 1, tzinfo=UTC))).startswith("0000000000")
    assert new_ulid(Stopped(datetime(2016, 7, 30, 23, 54, 10, 259000, tzinfo=UTC))).startswith("01arz3ndek")
    assert len({new_ulid(Stopped(begin)) for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    "text", ["", ULID.upper(), ULID[:-1], ULID + "0", "8" + ULID[1:], ULID[:-1] + "u", ULID + "\n"]
)
def test_what_is_no_ulid(text: str) -> None:
    with pytest.raises(Invalid):
        check_ulid(text)


@pytest.mark.parametrize("text", ["a", "a1", "hayy-base", "v1.0", "a_b", "0", "x" * 63])
def test_slugs(text: str) -> None:
    assert check_slug(text) == text


@pytest.mark.parametrize("text", ["", "A", "-a", "a-", ".", "..", "a/b", "a b", "x" * 64, "حي", "a\n"])
def test_what_is_no_slug(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_slug(text, field="model")
    assert caught.value.field == "model"


def test_digests() -> None:
    known = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert sha256_hex(b"") == known
    assert digest_of(b"") == f"sha256:{known}"
    assert digest_hex(f"sha256:{known}") == known
    for bad in ("", known, f"md5:{known}", f"sha256:{known.upper()}", f"sha256:{known[:-1]}", f"sha256:{known}\n"):
        with pytest.raises(Invalid):
            digest_hex(bad)


@pytest.mark.parametrize(
    ("kind", "ids", "name"),
    [
        ("project", (), "projects/p"),
        ("dataset", ("hayy",), "projects/p/datasets/hayy"),
        ("version", ("hayy", "v1"), "projects/p/datasets/hayy/versions/v1"),
        ("item", ("hayy", ULID), f"projects/p/datasets/hayy/items/{ULID}"),
        ("run", (ULID,), f"projects/p/runs/{ULID}"),
        ("model", ("m",), "projects/p/models/m"),
        ("suite_version", ("s", "1"), "projects/p/suites/s/versions/1"),
        ("image", (64 * "a",), f"projects/p/images/{64 * 'a'}"),
    ],
)
def test_names_round_trip(kind: str, ids: tuple[str, ...], name: str) -> None:
    assert format_name(kind, "p", *ids) == name
    parsed = parse(name, kind)
    assert (parsed.project, parsed.ids, str(parsed)) == ("p", ids, name)
    assert parsed.id == (ids[-1] if ids else "p")


@pytest.mark.parametrize(
    "name",
    ["", "m", "projects/p/models", "projects/p/models/", "projects/p/runs/m", "projects//models/m",
     "/projects/p/models/m", "projects/p/models/m/x", "projects/p/models/..", "projects/P/models/m",
     "projects/p/models/m\n"],
)  # fmt: skip
def test_a_name_of_another_shape_is_refused_and_the_right_one_shown(name: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse(name, "model", field="spec.base")
    assert caught.value.field == "spec.base"
    assert caught.value.reason == "NAME_MALFORMED"


@pytest.mark.parametrize("digits", ["", "a", 63 * "a", 65 * "a", 64 * "A", 64 * "g", f"sha256:{64 * 'a'}"])
def test_an_image_is_named_by_the_digits_of_its_content(digits: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse(f"projects/p/images/{digits}", "image", field="init_image")
    assert (caught.value.field, caught.value.reason) == ("init_image", "NAME_MALFORMED")


def test_the_shape_is_shown() -> None:
    with pytest.raises(Invalid, match=r"projects/\{project\}/models/\{model\}"):
        parse("hayy-base", "model")


def test_times() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert format_time(at) == "2026-01-02T03:04:05.000000Z"
    assert parse_time("2026-01-02T05:04:05+02:00") == at == parse_time(format_time(at))
    for naive in ("2026-01-02T03:04:05", "2026"):
        with pytest.raises(ValueError):
            parse_time(naive)
    with pytest.raises(ValueError):
        format_time(datetime(2026, 1, 1))  # that it is naive is the point


def test_nearest_names() -> None:
    known = ["sd1", "sdxl", "sd3", "flux"]
    assert nearest("sdx1", known)[0] in ("sdxl", "sd1")
    assert nearest("zzz", known) == []
    error = unknown_name("family", "flx", known, field="spec.family")
    assert error.reason == "UNKNOWN_FAMILY"
    assert error.field == "spec.family"
    assert "did you mean 'flux'?" in str(error)
    assert "known: flux, sd1, sd3, sdxl" in str(unknown_name("family", "zzz", known))


def test_several_faults_travel_together() -> None:
    error = Invalid("two faults", violations=[("a", "a is bad", "A_BAD"), ("b", "b is bad", "B_BAD")])
    assert error.violations[1] == Violation(field="b", message="b is bad", reason="B_BAD")
    single = Invalid("steps must be ≥ 1, got 0", field="steps", reason="STEPS", remedy="use 1")
    assert single.violations == (Violation(field="steps", message="steps must be ≥ 1, got 0", reason="STEPS"),)
    assert str(single) == "steps must be ≥ 1, got 0 (use 1)"


def test_errors_cross_processes() -> None:
    error = Missing("no", reason="GONE", resource="projects/p", remedy="look elsewhere", retry_after_s=2.0)
    again = pickle.loads(pickle.dumps(error))
    assert (again.message, again.reason, again.resource, again.remedy, again.retry_after_s, again.code) == (
        "no", "GONE", "projects/p", "look elsewhere", 2.0, "NOT_FOUND",
    )  # fmt: skip
