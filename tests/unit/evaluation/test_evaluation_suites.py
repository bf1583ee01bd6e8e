"""The suite format: what is read, what is refused, and that a suite's name is its content."""

import json
from typing import Any

import pytest
from marsam_generator.evaluation.suites import parse_suite, suite_bytes, suite_digest

from marsam.core.errors import Invalid
from tests.unit.evaluation.synthetic import suite


def small() -> dict[str, Any]:
    return {
        "schema": "marsam.suite/1",
        "name": "small",
        "version": "v1",
        "languages": ["en", "ar"],
        "generation": {"steps": 15, "guidance": 3.0, "scheduler": "ddim", "width": 128, "height": 128},
        "groups": [{"name": "tuned_roles", "title": {"en": "Tuned", "ar": "مضبوطة"}}],
        "prompts": [
            {
                "id": "lab-01",
                "group": "tuned_roles",
                "text": {"en": "an Arab scientist in a laboratory", "ar": "عالِمة عربية في مختبر"},
                "seeds": [11],
                "expect": {"place": ["laboratory"], "head_cover": ["none", "headscarf"]},
                "forbid": {"head_cover": ["keffiyeh"], "place": ["desert"]},
            }
        ],
    }


def test_reads_the_format() -> None:
    found = parse_suite(json.dumps(small()).encode())
    assert found.pictures == 2
    assert found.judged == ("place", "head_cover")
    assert found.group("tuned_roles").asks == "taught"
    assert found.prompts[0].expect["head_cover"] == ("none", "headscarf")
    assert found.attribute_title("place")["en"] == "right place"
    assert found.attribute_title("hat_colour")["en"] == "right hat colour"


def test_equal_suites_have_equal_digests_whatever_their_spelling() -> None:
    tidy = parse_suite(json.dumps(small(), indent=4).encode())
    turned = parse_suite(json.dumps(dict(reversed(small().items())), ensure_ascii=False).encode())
    assert suite_digest(tidy) == suite_digest(turned)
    assert parse_suite(suite_bytes(tidy)) == tidy
    other = small()
    other["prompts"][0]["seeds"] = [12]
    assert suite_digest(parse_suite(json.dumps(other).encode())) != suite_digest(tidy)


def broken(**changes: Any) -> bytes:
    plain = small()
    for path, value in changes.items():
        place: Any = plain
        *above, last = path.split("__")
        for step in above:
            place = place[int(step)] if step.isdigit() else place[step]
        place[last] = value
    return json.dumps(plain).encode()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"{", "not JSON"),
        (broken(colour="red"), "unknown key 'colour'"),
        (broken(schema="marsam.suite/2"), "schema"),
        (broken(generation__steps=0), "steps must be 1 to 1000"),
        (broken(prompts__0__group="tuned_role"), "unknown group 'tuned_role'"),
        (broken(prompts__0__text={"en": "only English"}), "has no text in ar"),
        (broken(prompts__0__seeds=[]), "needs at least one seed"),
        (broken(prompts__0__seeds=[1, 1]), "each only once"),
        (broken(prompts__0__expect={}, prompts__0__forbid={}), "cannot be judged"),
        (broken(prompts__0__expect={"place": ["desert"]}), "both expects and forbids place:desert"),
        (broken(groups=[{"name": "dances", "title": {"en": "Dances"}}]), "needs a purpose"),
        (broken(prompts=[]), "has no prompt"),
        (broken(languages=["en", "en"]), "each only once"),
    ],
)
def test_says_what_is_wrong(data: bytes, words: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_suite(data)
    assert words in caught.value.message
    assert caught.value.reason == "SUITE_INVALID"


def test_names_every_fault_of_the_prompts_at_once() -> None:
    plain = small()
    twin = json.loads(json.dumps(plain["prompts"][0]))
    twin["group"] = "nobody"
    del twin["text"]["ar"]
    plain["prompts"].append(twin)
    with pytest.raises(Invalid) as caught:
        parse_suite(json.dumps(plain).encode())
    assert [v.reason for v in caught.value.violations] == ["DUPLICATE", "UNKNOWN_GROUP", "LANGUAGE_MISSING"]


def test_refuses_a_suite_that_nobody_could_draw() -> None:
    plain = small()
    plain["prompts"][0]["seeds"] = list(range(10_001))
    with pytest.raises(Invalid, match="at most 20000"):
        parse_suite(json.dumps(plain).encode())


def test_the_synthetic_suite_has_five_purposes() -> None:
    assert [g.asks for g in suite().groups] == ["taught", "held_out", "bleed", "kept", "unrelated"]
