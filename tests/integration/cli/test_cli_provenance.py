"""A picture tells where it comes from, and is made again from itself: through the command line, with real services."""

from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from tests.integration.cli.support import marsam, ok, up, write_walls

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A house that signs, with a base and an adapter that was trained on six pictures."""
    made = tmp_path_factory.mktemp("signing")
    write_walls(made)
    (made / ".marsam").mkdir()
    (made / ".marsam" / "generator.toml").write_text("c2pa_self_made = true\n")
    with up(made):
        ok(marsam("datasets", "import", "pictures", "walls", "--licence", "CC0-1.0", folder=made))
        ok(marsam("datasets", "commit", "walls", folder=made))
        ok(marsam("models", "import", "base", "tiny", "--licence", "Apache-2.0", folder=made))
        words = ("--base", "tiny", "--data", "walls/v1", "--steps", "4", "--set", "rank=2", "--output", "wall-lora")
        ok(marsam("train", *words, "--json", folder=made, timeout=400.0))
        yield made


def drawn(folder: Path, *words: str) -> Any:
    return ok(marsam("generate", *words, "-o", "drawn", "--json", folder=folder)).json


def pixels(folder: Path, answer: Any) -> bytes:
    return PIL.Image.open(folder / answer["images"][0]["path"]).convert("RGB").tobytes()


ASKED = ("جدار رمادي «قديم»", "--model", "tiny", "--adapter", "wall-lora=2", "--steps", "3", "--set", "exact=true")


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_a_picture_is_made_again_from_itself(folder: Path, format: str) -> None:
    first = drawn(folder, *ASKED, "-n", "2", "--set", f"format={format}")
    second = {image["seed"]: image["path"] for image in first["images"]}
    (seed, path) = max(second.items())
    again = drawn(folder, "--from", path)
    assert [image["seed"] for image in again["images"]] == [seed] and again["warnings"] == first["warnings"]
    assert again["request"]["prompt"] == ASKED[0] and again["request"]["format"] == format.upper()
    there = PIL.Image.open(folder / path).convert("RGB").tobytes()
    assert pixels(folder, again) == there
    # What is said on the command line goes before.
    other = drawn(folder, "--from", path, "--seed", str(seed + 1))
    assert other["images"][0]["seed"] == seed + 1 and pixels(folder, other) != there
    bare = drawn(folder, "--from", path, "--adapter", "wall-lora=0")
    assert pixels(folder, bare) != there
    turned = drawn(folder, "--from", path, "--set", "format=webp")
    assert turned["images"][0]["path"].endswith(".webp")
    assert (pixels(folder, turned) == there) == (format != "jpeg")


def test_a_picture_leads_to_the_rights_of_what_was_learnt_from(folder: Path) -> None:
    path = drawn(folder, *ASKED, "--seed", "3")["images"][0]["path"]
    found = ok(marsam("provenance", path, "--json", folder=folder)).json
    assert found["signature"]["state"] == "valid" and found["signature"]["source"] == "trainedAlgorithmicMedia"
    assert found["generation"]["name"] == found["signature"]["generation"]
    assert found["generation"]["images"][0]["file"]["digest"] == found["digest"]
    assert {one["name"].rpartition("/")[2]: one["state"] for one in found["models"]} == {
        "tiny": "same",
        "wall-lora": "same",
    }
    assert (
        found["signature"]["models"]
        == found["stated_models"]
        == {one["name"]: one["digest"] for one in found["models"]}
    )
    kinds = {node["kind"] for node in found["lineage"]}
    assert {"base", "adapter", "run", "dataset_version", "item"} <= kinds
    assert any("CC0-1.0" in node["summary"] for node in found["lineage"] if node["kind"] == "item")
    assert (found["request"]["prompt"], found["seed"]) == (ASKED[0], 3)

    authority = str(folder / ".marsam" / "cache" / "c2pa" / "authority.pem")
    text = ok(marsam("provenance", path, "--trust", authority, folder=folder)).out
    assert "vouch" in text and "walls/v1" in text and "CC0-1.0" in text and ASKED[0] in text


def test_a_changed_picture_is_found_out_and_a_foreign_one_is_nobody_s(folder: Path, tmp_path: Path) -> None:
    path = folder / drawn(folder, *ASKED, "--seed", "4")["images"][0]["path"]
    data = path.read_bytes()
    (tmp_path / "changed.png").write_bytes(
        data.replace(b"Iptc4xmpExt:DigitalSourceType>http", b"Iptc4xmpExt:DigitalSourceType>HTTP")
    )
    said = marsam("provenance", str(tmp_path / "changed.png"), "--json", folder=folder)
    assert said.code == 12 and said.json["signature"]["state"] == "invalid" and said.json["generation"] is None
    said = marsam("provenance", str(tmp_path / "changed.png"), folder=folder)
    assert said.code == 12 and "INVALID" in said.out and "dataHash.mismatch" in said.out

    PIL.Image.open(path).convert("RGB").save(tmp_path / "stripped.png")
    found = ok(marsam("provenance", str(tmp_path / "stripped.png"), "--json", folder=folder)).json
    assert (found["signature"]["state"], found["request"], found["generation"]) == ("none", None, None)
    said = marsam("generate", "--from", str(tmp_path / "stripped.png"), "--json", folder=folder)
    assert said.code == 3 and said.error["reason"] == "PICTURE_SAYS_NOTHING"

    # No service is asked, and none is there.
    found = ok(marsam("provenance", str(path), "--file-only", "--json", folder=tmp_path)).json
    assert found["signature"]["state"] == "valid" and found["request"]["prompt"] == ASKED[0]
    assert marsam("provenance", str(path), "--json", folder=tmp_path).code == 7
