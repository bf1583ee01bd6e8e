"""What the files of a folder are taken to mean."""

import json

import pytest
from marsam_dataset.ingest.folder import Plan, plan, sidecar
from marsam_dataset.ingest.records import item_id
from marsam_dataset.vocabulary import Vocabulary

from marsam.catalog.datasets import Caption, Rights
from marsam.catalog.imports import Received
from marsam.core.errors import Invalid
from marsam.core.ids import digest_of, is_ulid
from tests.unit.dataset.factory import IMPORT


def planned(files: dict[str, str | bytes], default: Rights | None = None) -> Plan:
    contents = {path: data.encode() if isinstance(data, str) else data for path, data in files.items()}
    received = [Received(path=p, size=len(d), digest=digest_of(d)) for p, d in contents.items()]
    texts = {path: data for path, data in contents.items() if sidecar(path)}
    return plan(received, texts, default_rights=default or Rights())


def line(**values: object) -> str:
    return json.dumps(values, ensure_ascii=False) + "\n"


def test_sidecar_texts_bring_captions_in_the_language_of_their_name_or_letters() -> None:
    result = planned({"a/x.png": "", "a/x.txt": "a cup\n", "a/x.ar.txt": "فنجان", "y.jpg": "", "y.txt": "فنجان"})
    assert {e.path: e.captions for e in result.entries} == {
        "a/x.png": (Caption(language="ar", text="فنجان"), Caption(language="en", text="a cup")),
        "y.jpg": (Caption(language="ar", text="فنجان"),),
    }
    assert result.problems == ()


def test_metadata_is_relative_to_its_folder_and_sets_the_split() -> None:
    rows = line(file_name="p/1.png", text="a cup", text_ar="فنجان", attributes={"k": 1.5, "b": True, "gone": None})
    result = planned(
        {"train/metadata.jsonl": rows, "train/p/1.png": "", "test/2.png": "", "val/3.png": "", "4.png": ""}
    )
    assert {e.path: e.split for e in result.entries} == {
        "train/p/1.png": "train",
        "test/2.png": "test",
        "val/3.png": "validation",
        "4.png": "train",
    }
    entry = next(e for e in result.entries if e.path == "train/p/1.png")
    assert dict(entry.attributes) == {"k": "1.5", "b": "true"}
    assert [c.language for c in entry.captions] == ["en", "ar"]


def test_masks_belong_to_the_pictures_that_they_are_named_after() -> None:
    result = planned(
        {
            "a/cat.jpg": "1", "a/cat-masklabel.png": "2", "a/cat.txt": "a cat", "dog.png": "3", "dog.mask.webp": "4",
            "dog-masklabel.png": "5", "bare.png": "6", "gas.mask.png": "7", "cat-masklabel.png": "8",
        }
    )  # fmt: skip
    assert {e.path: e.mask and e.mask.path for e in result.entries} == {
        "a/cat.jpg": "a/cat-masklabel.png",
        "bare.png": None,
        "dog.png": "dog-masklabel.png",
    }
    assert [c.text for e in result.entries for c in e.captions] == ["a cat"]
    assert {p.path: p.reason for p in result.problems} == {
        "cat-masklabel.png": "MASK_WITHOUT_PICTURE",
        "dog.mask.webp": "MASKED_TWICE",
        "gas.mask.png": "MASK_WITHOUT_PICTURE",
    }
    assert result.beside == ("a/cat.txt",)


def test_the_same_words_twice_are_one_caption() -> None:
    rows = line(file_name="a.png", text="A cup.", captions=["a cup", {"language": "ar", "text": "كوب"}], text_ar="كُوب")
    (entry,) = planned({"metadata.jsonl": rows, "a.png": ""}).entries
    assert [c.text for c in entry.captions] == ["a cup", "كوب"]


def test_rights_of_the_file_before_rights_of_the_folder_before_those_of_the_import() -> None:
    default = Rights(licence="MIT")
    rows = line(file_name="a.png", rights={"license": "CC0-1.0"}) + line(file_name="b.png") + line(file_name="c.png")
    folder = json.dumps({"default": {"licence": "CC-BY-4.0"}, "files": {"b.png": {"licence": "ODbL-1.0"}}})
    files = {"a.png": "", "b.png": "", "c.png": "", "metadata.jsonl": rows}
    stated = planned({**files, "rights.json": folder}, default)
    assert [e.rights.licence for e in stated.entries] == ["CC0-1.0", "ODbL-1.0", "CC-BY-4.0"]
    assert [e.rights.licence for e in planned(files, default).entries] == ["CC0-1.0", "MIT", "MIT"]


@pytest.mark.parametrize(
    ("files", "place", "reason"),
    [
        ({"metadata.jsonl": "{not json}"}, "metadata.jsonl:1", "METADATA_LINE"),
        ({"metadata.jsonl": "\n" + line(text="no name")}, "metadata.jsonl:2", "METADATA_LINE"),
        ({"metadata.jsonl": line(file_name="a.png", text=3)}, "metadata.jsonl:1", "METADATA_LINE"),
        ({"metadata.jsonl": line(file_name="a.png", attributes={"k": []})}, "metadata.jsonl:1", "METADATA_LINE"),
        ({"metadata.jsonl": line(file_name="a.png", captions=[7])}, "metadata.jsonl:1", "METADATA_LINE"),
        ({"metadata.jsonl": '{"file_name": "a.png", "text": "\\ud83d"}'}, "metadata.jsonl:1", "METADATA_LINE"),
        ({"metadata.jsonl": '{"file_name": "\\udc00.png"}'}, "metadata.jsonl:1", "METADATA_LINE"),
        ({"metadata.jsonl": "[" * 100_000}, "metadata.jsonl:1", "METADATA_LINE"),
        (
            {"metadata.jsonl": line(file_name="a.png", attributes={"k": "x" * 300_000})},
            "metadata.jsonl:1",
            "METADATA_LINE",
        ),
        ({"metadata.jsonl": line(file_name="a.png", split="../up")}, "metadata.jsonl:1", "METADATA_LINE"),
        ({"rights.json": '{"holder": "\\ud83d"}'}, "rights.json", "RIGHTS_INVALID"),
        ({"rights.json": json.dumps({"holder": "x" * 3000})}, "rights.json", "RIGHTS_INVALID"),
        ({"rights.json": "[" * 100_000}, "rights.json", "RIGHTS_INVALID"),
        ({"vocabulary.json": "[" * 100_000}, "vocabulary.json", "VOCABULARY_INVALID"),
        ({"metadata.jsonl": line(file_name="a.png") * 2}, "metadata.jsonl:2", "DESCRIBED_TWICE"),
        ({"metadata.jsonl": line(file_name="../a.png")}, "../a.png", "FILE_MISSING"),
        ({"metadata.jsonl": b"\xff\xfe"}, "metadata.jsonl", "TEXT_NOT_UTF8"),
        ({"a.txt": b"caf\xe9"}, "a.txt", "TEXT_NOT_UTF8"),
        ({"classes.txt": "cat"}, "classes.txt", "CAPTION_WITHOUT_PICTURE"),
        ({"rights.json": "[]"}, "rights.json", "RIGHTS_INVALID"),
        ({"rights.json": '{"licence": 3}'}, "rights.json", "RIGHTS_INVALID"),
        ({"vocabulary.json": '{"place": []}'}, "vocabulary.json", "VOCABULARY_INVALID"),
    ],
)
def test_what_cannot_be_used_is_told_by_place_and_stops_nothing(
    files: dict[str, str | bytes], place: str, reason: str
) -> None:
    result = planned({"a.png": "", **files})
    assert [(p.path, p.reason) for p in result.problems] == [(place, reason)]
    assert [e.path for e in result.entries] == ["a.png"]


def test_files_about_the_folder_and_hidden_ones_are_no_pictures() -> None:
    result = planned(
        {"README.md": "", "LICENSE": "", ".DS_Store": "", "__MACOSX/a.png": "", "a.png": "", "odd.bin": ""}
    )
    assert [e.path for e in result.entries] == ["a.png", "odd.bin"], "an unknown file gets a verdict, not silence"


def test_a_vocabulary_is_taken_and_unclosed_direction_marks_are_told() -> None:
    words = json.dumps({"place": {"field": {"en": ["in a field"], "ar": "في حقل"}}})
    result = planned({"vocabulary.json": words, "a.png": "", "a.txt": "\u202eelif a"})
    assert result.vocabulary == digest_of(words.encode())
    assert [f.reason for f in result.entries[0].findings] == ["CAPTION_BIDI"]
    (mention,) = Vocabulary.parse(words.encode()).mentions("رجل في الحقل", "ar")
    assert mention.names == {("place", "field")}
    with pytest.raises(Invalid, match="not JSON"):
        Vocabulary.parse(b"{")


def test_item_ids_are_ulids_in_the_order_of_the_folder_and_the_same_each_time() -> None:
    ids = [item_id(IMPORT, n, f"{n}.png") for n in range(300)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 300
    assert all(is_ulid(i) for i in ids)
    assert ids[7] == item_id(IMPORT, 7, "7.png") != item_id(IMPORT, 7, "8.png")


def test_a_line_ends_where_json_says_and_splits_have_other_names_too() -> None:
    rows = line(file_name="a.png", split="training", attributes={"k": "one\u2028two"})
    (entry,) = planned({"metadata.jsonl": rows, "a.png": ""}).entries
    assert (entry.split, entry.attributes) == ("train", {"k": "one\u2028two"})
