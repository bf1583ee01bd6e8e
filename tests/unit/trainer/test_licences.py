"""What licences ask, what folders state, who accepted."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from marsam_trainer import licences
from marsam_trainer.licences import Stated, Terms
from marsam_trainer.orders import Order, content_of

from marsam.catalog.acceptance import Acceptance
from marsam.core.errors import Invalid

NOW = datetime(2026, 1, 2, tzinfo=UTC)
EARLIER = datetime(2025, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("licence", "asks"),
    [
        ("Apache-2.0", Terms.FREE),
        ("Apache 2.0", Terms.FREE),
        ("MIT", Terms.FREE),
        ("mit-license", Terms.FREE),
        ("flux-1-dev-non-commercial-license", Terms.RESTRICTED),
        ("FLUX.1 [dev] Non-Commercial License", Terms.RESTRICTED),
        ("stabilityai-ai-community", Terms.RESTRICTED),
        ("creativeml-openrail-m", Terms.RESTRICTED),
        ("openrail++", Terms.RESTRICTED),
        ("qwen-research", Terms.RESTRICTED),
        ("cc-by-nc-sa-4.0", Terms.RESTRICTED),
        ("gemma", Terms.RESTRICTED),
        ("the house's own", Terms.UNKNOWN),
        ("", Terms.UNKNOWN),
        ("unknown", Terms.RESTRICTED),
        ("unknown AND MIT", Terms.RESTRICTED),
        ("an unknown one", Terms.UNKNOWN),
        ("MIT OR qwen-research", Terms.FREE),
        ("MIT AND qwen-research", Terms.RESTRICTED),
    ],
)
def test_what_a_licence_asks(licence: str, asks: Terms) -> None:
    assert licences.terms(licence) is asks
    assert bool(licences.restriction(licence)) is ("research" in licence or asks is Terms.RESTRICTED)


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\nlanguage: [en]\n---\n# M", "apache-2.0"),
        ("---\r\nlicense: openrail++\r\n---\r\n", "openrail++"),
        ("---\nlicense: other\nlicense_name: flux-non-commercial-license\n---\n", "flux-non-commercial-license"),
        ("---\nlicense: [mit]\n---\n", "mit"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\nlicense: {a: b}\n---\n", ""),
        ("---\nlicense: [unclosed\n---\n", ""),
        ("---\n- a list\n---\n", ""),
        ("---\ntitle: x\n---\nlicense: mit", ""),
        ("# No front matter\nlicense: mit", ""),
    ],
)  # fmt: skip
def test_a_model_card_states_its_licence(tmp_path: Path, card: str, licence: str) -> None:
    path = tmp_path / "README.md"
    path.write_bytes(card.encode())
    found = licences.stated({"README.md": path})
    assert (found.licence if found else "") == licence


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("\n        Apache License\n   Version 2.0, January 2004\n", "apache-2.0"),
        ("MIT License\n\nCopyright (c) 2026", "mit"),
        ("FLUX.1 [dev] Non-Commercial License v1.1.1", "flux-1-dev-non-commercial-license"),
        ("FLUX Non-Commercial License v2.0", "flux-non-commercial-license"),
        ("STABILITY AI COMMUNITY LICENSE AGREEMENT", "stabilityai-ai-community"),
        ("CreativeML Open RAIL++-M License", "openrail++"),
        ("CreativeML Open RAIL-M", "creativeml-openrail-m"),
        ("Qwen RESEARCH LICENSE AGREEMENT", "qwen-research"),
        ("Do what the house says.", "other (LICENSE)"),
    ],
)
def test_a_licence_file_is_known_by_its_title(tmp_path: Path, text: str, licence: str) -> None:
    path = tmp_path / "LICENSE"
    path.write_text(text)
    found = licences.stated({"LICENSE": path, "unet/LICENSE": path})
    assert found == licences.Stated(licence=licence, file="LICENSE")


def test_the_card_comes_first_then_the_index_then_the_text(tmp_path: Path) -> None:
    card, text = tmp_path / "README.md", tmp_path / "LICENSE.txt"
    card.write_text("# nothing\n")
    text.write_text("MIT License")
    files = {"README.md": card, "LICENSE.txt": text}
    assert licences.stated(files, {"license": "isc"}) == licences.Stated(licence="isc", file="model_index.json")
    assert licences.stated(files, {}) == licences.Stated(licence="mit", file="LICENSE.txt")
    assert licences.stated({"config.json": card, "unet/README.md": card, "licence.safetensors": card}) is None


def test_a_restriction_that_the_folder_states_is_not_talked_away() -> None:
    found = licences.Stated(licence="openrail++", file="README.md")
    assert licences.of_folder("", found, field="f") == "openrail++"
    assert licences.of_folder("OpenRAIL++", found, field="f") == "OpenRAIL++"
    assert licences.of_folder("qwen-research", found, field="f") == "qwen-research"
    with pytest.raises(Invalid) as caught:
        licences.of_folder("MIT", found, field="f")
    assert (caught.value.reason, caught.value.field) == ("LICENCE_CONTRADICTED", "f")
    assert licences.of_folder("MIT", licences.Stated(licence="isc", file="x"), field="f") == "MIT"
    assert licences.of_folder("", None, field="f") == ""
    # Not by calling it unknown either, which asks less of who reads it.
    for vague in ("unknown", "Unknown", "unknown AND MIT"):
        with pytest.raises(Invalid) as caught:
            licences.of_folder(vague, found, field="f")
        assert caught.value.reason == "LICENCE_CONTRADICTED"


def test_a_card_that_says_unknown_does_not_forbid_to_say_what_it_is() -> None:
    found = licences.Stated(licence="unknown", file="README.md")
    assert licences.of_folder("", found, field="f") == "unknown"
    assert licences.of_folder("MIT", found, field="f") == "MIT"
    assert licences.of_folder("openrail++", found, field="f") == "openrail++"
    # It is no word of the file where the rest of a base says it: what that allows nobody has said still.
    with pytest.raises(Invalid) as caught:
        licences.of_made(licences.Stated(licence="MIT", file="one"), found, field="f")
    assert caught.value.reason == "LICENCE_CONTRADICTED"


def accepted(licence: str, *, given: str = "", known: Acceptance | None = None) -> Acceptance | None:
    return licences.accepted(licence, given=given, known=known, by="mona", at=lambda: NOW, field="f")


@pytest.mark.parametrize(
    ("said", "licence"),
    [
        ("CreativeML Open RAIL++-M License", "openrail++"),
        ("Apache-2.0", "Apache-2.0"),
        ("Apache License, Version 2.0", "apache-2.0"),
        ("the author's own", "the author's own"),
        ("  ", ""),
        ("Unknown", ""),
    ],
)
def test_a_file_states_its_licence_in_its_header(said: str, licence: str) -> None:
    found = licences.of_metadata({"modelspec.license": said, "format": "pt"}, file="one.safetensors")
    assert found == (Stated(licence=licence, file="one.safetensors") if licence else None)
    assert licences.of_metadata({"format": "pt"}, file="one.safetensors") is None


@pytest.mark.parametrize(
    ("own", "rest", "licence"),
    [
        ("mit", "apache-2.0", "mit"),
        ("mit", "", "mit"),
        ("cc-by-nc-4.0", "openrail++", "cc-by-nc-4.0"),
        ("", "apache-2.0", "unknown"),
        ("", "", "unknown"),
        ("", "openrail++", "unknown AND openrail++"),
        ("", "unknown", "unknown"),
        ("", "unknown AND openrail++", "unknown AND openrail++"),
    ],
)
def test_what_has_the_rest_of_a_base_does_not_say_its_licence(own: str, rest: str, licence: str) -> None:
    file, other = (Stated(licence=said, file="x") if said else None for said in (own, rest))
    assert licences.of_made(file, other, field="licence") == licence


def test_what_restricts_must_be_accepted_by_whoever_uses_it() -> None:
    with pytest.raises(Invalid) as caught:
        accepted("openrail++")
    assert (caught.value.reason, caught.value.field) == ("LICENCE_NOT_ACCEPTED", "f")
    assert "openrail++" in caught.value.message
    assert "--accept-licence 'openrail++'" in caught.value.remedy
    mine = Acceptance(licence="openrail++", by="mona", at=EARLIER)
    assert accepted("openrail++", given="OpenRAIL++") == Acceptance(licence="openrail++", by="mona", at=NOW)
    assert accepted("openrail++", known=mine) == mine
    for known in (Acceptance(licence="openrail++", by="ali", at=EARLIER), Acceptance(licence="mit", by="mona", at=NOW)):
        with pytest.raises(Invalid):
            accepted("openrail++", known=known)


def test_what_does_not_restrict_needs_nothing() -> None:
    assert accepted("MIT") is accepted("the house's own") is accepted("") is None
    assert accepted("MIT", given="mit") == Acceptance(licence="MIT", by="mona", at=NOW)
    for licence in ("MIT", ""):
        with pytest.raises(Invalid) as caught:
            accepted(licence, given="isc")
        assert caught.value.reason == "LICENCE_OTHER"


def test_an_order_that_accepts_nothing_is_the_one_it_was_before_there_was_such_a_field() -> None:
    order = Order(base="b", dataset_version="v", method="lora")
    assert b"accept_licence" not in content_of(order)
    assert b"allow_distilled" not in content_of(order)
    assert b'"accept_licence":"mit"' in content_of(
        Order(base="b", dataset_version="v", method="lora", accept_licence="mit")
    )
    assert content_of(Order(base="b", dataset_version="v", method="lora", learning_rate=float("nan"))) == b""
