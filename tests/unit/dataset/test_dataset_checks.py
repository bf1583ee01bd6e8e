"""Each check on items made to break it, and on items that must not."""

import io
from dataclasses import replace

import numpy as np
import pytest
from marsam_dataset.checks import alignment, lookalikes, repetition, suite
from marsam_dataset.checks.alignment import View
from marsam_dataset.checks.batch import Batch
from marsam_dataset.vocabulary import Vocabulary, of_values
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from marsam.catalog.datasets import Rights
from marsam.imaging import hashes
from tests.unit.dataset.factory import item

WORDS = Vocabulary(
    {
        "role": {"painter": {"en": ("painter",), "ar": ("رسام", "رسامة")}, "chef": {"en": ("chef",), "ar": ("طباخ",)}},
        "garment": {"smock": {"en": ("painter's smock",), "ar": ("مريلة رسم",)}, "suit": {"ar": ("بدلة رسمية",)}},
        "hat": {"chef_hat": {"en": ("chef hat",), "ar": ("قبعة طباخ",)}, "none": {"en": ("bareheaded",)}},
        "place": {"field": {"en": ("in a field",), "ar": ("في حقل",)}, "street": {"en": ("in a street",)}},
        "tool": {"dallah": {"en": ("dallah",), "ar": ("دلة",)}, "book": {"en": ("book",)}},
        "coat_colour": {"red": {"en": ("red",)}, "blue": {"en": ("blue",)}},
        "hat_colour": {"red": {"en": ("red",)}, "blue": {"en": ("blue",)}},
    }
)


def reasons(*items: object, vocabulary: Vocabulary = WORDS, **batch: object) -> dict[str, list[str]]:
    found = suite.run(Batch(items=items, vocabulary=vocabulary, **batch))  # type: ignore[arg-type]
    names = {i.id: i.file_name for i in items}  # type: ignore[attr-defined]
    result: dict[str, list[str]] = {}
    for one in found:
        result.setdefault(names[one.item], []).append(one.finding.reason)
    return result


def said(text: str, language: str = "en", **attributes: str) -> list[str]:
    return reasons(item(1, captions={language: text}, attributes=attributes)).get("001.png", [])


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "an Emirati scientist in a laboratory", []),
        ("ar", "عالمة إماراتية في مختبر", []),
        ("en", "عالمة في مختبر", ["CAPTION_LANGUAGE"]),
        ("ar", "a scientist in a laboratory", ["CAPTION_LANGUAGE"]),
        ("en", "une femme dans la rue", ["CAPTION_LANGUAGE"]),
        ("ar", "صورة A القدح على الطاولة", []),
        ("ar", "صورة iPhone على الطاولة", ["CAPTION_MIXED_SCRIPT"]),
        ("en", "طبيب".encode().decode("latin-1") + " x", ["CAPTION_GARBLED"]),
        ("en", "a cup \ufffd", ["CAPTION_GARBLED"]),
        ("en", "001", ["CAPTION_IS_FILE_NAME"]),
        ("en", "IMG_2041", ["CAPTION_IS_FILE_NAME"]),
        ("en", "holiday.JPG", ["CAPTION_IS_FILE_NAME"]),
        ("en", "woman", ["CAPTION_SHORT"]),
        ("en", "word " * 76, ["CAPTION_LONG"]),
        ("en", "a chair, see https://example.com", ["CAPTION_BOILERPLATE"]),
        ("en", "a chair stock photo", ["CAPTION_BOILERPLATE"]),
        ("xx", "qwerty uiop", []),
    ],
)
def test_captions(language: str, text: str, expected: list[str]) -> None:
    assert said(text, language) == expected


def test_no_caption_fails() -> None:
    assert reasons(item(1)) == {"001.png": ["CAPTION_MISSING"]}


@pytest.mark.parametrize(
    ("text", "language", "attributes", "contradicts"),
    [
        ("a painter in a field", "en", {"role": "painter", "place": "field"}, False),
        ("a painter in a street", "en", {"role": "painter", "place": "field"}, True),
        ("a chef in a painter's smock", "en", {"role": "chef", "garment": "smock"}, False),
        ("a chef in a chef hat", "en", {"role": "painter", "hat": "chef_hat"}, True),
        ("a man in a chef hat", "en", {"role": "painter", "hat": "chef_hat"}, False),
        ("رسامة ترتدي قبعة طباخ في حقل", "ar", {"role": "painter", "hat": "chef_hat", "place": "field"}, False),
        ("رجل وقبعة طباخ", "ar", {"hat": "none"}, True),
        ("رجل ببدلة رسمية", "ar", {"garment": "suit", "tool": "book"}, False),
        ("رجل يحمل الدلة", "ar", {"tool": "book"}, True),
        ("a red coat and a blue hat", "en", {"coat_colour": "red", "hat_colour": "blue"}, False),
        ("a red coat", "en", {"coat_colour": "blue", "hat_colour": "blue"}, True),
        ("a painter in a field", "en", {}, False),
        ("a field and a street", "en", {"place": "field"}, False),
        ("from in a field to in a street", "en", {"place": "field"}, False),
    ],
)
def test_contradictions(text: str, language: str, attributes: dict[str, str], contradicts: bool) -> None:
    assert ("CAPTION_CONTRADICTS" in said(text, language, **attributes)) is contradicts


def test_without_a_written_vocabulary_contradictions_are_only_warnings() -> None:
    one = item(1, captions={"en": "a woman with a hard hat"}, attributes={"sex": "woman", "hat": "straw_hat"})
    two = item(2, captions={"en": "a man with a straw hat"}, attributes={"sex": "man", "hat": "hard_hat"})
    found = suite.run(Batch(items=[one, two], vocabulary=of_values([one.attributes, two.attributes])))
    assert [(f.finding.reason, f.finding.severity) for f in found] == [("CAPTION_CONTRADICTS", "warn")] * 2


def test_missing_rights_warn() -> None:
    bare = item(1, captions={"en": "a red cup"}, rights=Rights(holder="Mona Said"))
    assert reasons(bare) == {"001.png": ["RIGHTS_MISSING"]}


def test_of_copies_the_sound_and_best_described_one_is_kept() -> None:
    short = item(1, captions={"en": "a cup"}, pixels="same", original="same")
    wrong = item(2, captions={"en": "فنجان على طاولة خشبية قديمة"}, pixels="same", original="same")
    long = item(3, captions={"en": "a cup of coffee on a table"}, pixels="same", original="other")
    assert reasons(short, wrong, long) == {
        "001.png": ["SAME_PIXELS"],
        "002.png": ["CAPTION_LANGUAGE", "SAME_PIXELS"],
    }


def test_a_later_import_of_the_same_file_replaces_the_earlier() -> None:
    old = item(1, captions={"en": "a very long but wrong caption"}, pixels="p", original="o", file_name="a.png")
    new = item(2, captions={"en": "a cup"}, pixels="p", original="o", file_name="a.png")
    found = suite.run(Batch(items=[old, new], vocabulary=WORDS))
    assert [(f.item, f.finding.reason) for f in found] == [(old.id, "REPLACED")]


def test_shared_fragments_and_repeated_captions_are_told() -> None:
    shared = [item(n, captions={"en": f"photo of ohwx man number {n}"}) for n in range(30)]
    (warning,) = repetition.warnings(shared)
    assert warning.startswith("30 of 30 'en' captions contain “of ohwx man”")
    varied = [item(n, captions={"en": f"{n} cups on {n + 1} red chairs" if n % 2 else f"dog {n}"}) for n in range(30)]
    assert list(repetition.warnings(varied)) == []
    same = [item(n, captions={"en": "a dog" if n < 6 else f"cat {n} sits"}) for n in range(30)]
    assert list(repetition.warnings(same)) == [
        "6 pictures have the same 'en' caption “a dog”: say what tells them apart."
    ]


def scene(seed: int, size: int = 256) -> Image.Image:
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (size, size), tuple(int(v) for v in random.integers(0, 256, 3)))
    draw = ImageDraw.Draw(image)
    for _ in range(14):
        x, y = (int(v) for v in random.integers(-20, size, 2))
        w, h = (int(v) for v in random.integers(20, size // 2, 2))
        shape = draw.ellipse if random.random() < 0.5 else draw.rectangle
        shape((x, y, x + w, y + h), fill=tuple(int(v) for v in random.integers(0, 256, 3)))
    return image


def squeezed(image: Image.Image) -> Image.Image:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=40)
    return Image.open(out).convert("RGB")


ALTERED = {
    "squeezed": squeezed,
    "half": lambda im: im.resize((128, 128), Image.Resampling.LANCZOS),
    "cropped": lambda im: im.crop((6, 5, 250, 251)).resize((256, 256), Image.Resampling.BICUBIC),
    "brighter": lambda im: ImageEnhance.Brightness(im).enhance(1.15),
    "soft": lambda im: im.filter(ImageFilter.GaussianBlur(1)),
    "mirrored": ImageOps.mirror,
}


def pictured(number: int, image: Image.Image) -> object:
    luma = image.convert("L")
    made = item(number, captions={"en": f"a scene number {number}"})
    return replace(made, phash=hashes.phash(luma), dhash=hashes.dhash(luma), width=image.width, height=image.height)


@pytest.mark.parametrize("change", ALTERED)
def test_an_altered_copy_is_found_and_the_larger_one_kept(change: str) -> None:
    for seed in range(6):
        original, copy = scene(seed), ALTERED[change](scene(seed))
        strangers = [scene(100 + seed), scene(200 + seed)]
        images = [original, copy, *strangers]
        items = [pictured(n, image) for n, image in enumerate(images)]
        pairs = lookalikes.candidates(items)  # type: ignore[arg-type]
        views = {i.image.digest: View(image) for i, image in zip(items, images, strict=True)}  # type: ignore[attr-defined]
        assert reasons(*items, alike=pairs, views=views) == {"001.png": ["NEAR_DUPLICATE"]}


def test_scenes_that_differ_in_one_object_are_not_copies() -> None:
    for seed in range(6):
        with_cup = scene(seed)
        ImageDraw.Draw(with_cup).ellipse((100, 100, 150, 160), fill="white", outline="black", width=4)
        found = alignment.apart(View(scene(seed)), View(with_cup))
        assert found.most > 36
