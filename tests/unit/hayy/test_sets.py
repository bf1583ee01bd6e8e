"""The written tuning sets: their size, their schema, their planted faults, and that writing is repeatable."""

import hashlib
import json
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hayy import sets
from PIL import Image


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    sets.write(folder)
    return folder


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]


def planted(out: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((out / "planted.json").read_text())
    return found


def test_both_sets_are_equally_large_once_the_faults_are_gone(out: Path) -> None:
    assert len(rows(out / "raw")) == sets.NUM_SOUND
    assert len(rows(out / "balanced")) - len(planted(out)) == sets.NUM_SOUND


def test_every_line_has_a_file_captions_attributes_and_a_split(out: Path) -> None:
    for name in ("raw", "balanced"):
        for row in rows(out / name):
            assert (out / name / row["file_name"]).is_file()
            assert row["split"] == "train"
            assert row["captions"]
            assert {"role", "gender", "demonym", "place", "garment", "head_cover", "tool"} == set(row["attributes"])


def test_sound_pictures_are_256_px_with_two_captions_in_each_language(out: Path) -> None:
    faults = planted(out)
    for row in rows(out / "balanced"):
        if row["file_name"] not in faults:
            with Image.open(out / "balanced" / row["file_name"]) as image:
                assert image.size == (256, 256)
            assert Counter(entry["language"] for entry in row["captions"]) == {"en": 2, "ar": 2}


def test_every_kind_of_fault_is_planted(out: Path) -> None:
    assert Counter(planted(out).values()) == {
        "exact_duplicate": 6,
        "near_duplicate": 6,
        "blurred": 4,
        "contradicting_caption": 4,
        "wrong_language": 3,
        "broken_file": 2,
    }


def test_broken_files_do_not_decode_and_exact_duplicates_do(out: Path) -> None:
    contents = Counter((out / "balanced" / row["file_name"]).read_bytes() for row in rows(out / "balanced"))
    for name, fault in planted(out).items():
        content = (out / "balanced" / name).read_bytes()
        if fault == "exact_duplicate":
            assert contents[content] == 2
        if fault == "broken_file":
            with pytest.raises(OSError):
                Image.open(BytesIO(content)).load()


def test_rights_are_declared(out: Path) -> None:
    for name in ("raw", "balanced"):
        rights = json.loads((out / name / "rights.json").read_text())
        assert rights["licence"] == "Apache-2.0"
        assert {"holder", "source", "consent"} < set(rights)


@pytest.mark.slow
def test_writing_again_gives_the_same_bytes(out: Path, tmp_path: Path) -> None:
    sets.write(tmp_path)

    def digest(folder: Path) -> list[str]:
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()]

    assert digest(tmp_path) == digest(out)
