"""A small world for tests of the evaluation: a suite, drawn pictures, and models whose behaviour is known exactly."""

import functools
import hashlib
import io
import itertools
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import numpy as np
from marsam_generator.evaluation.conclusion import JudgeInUse, Subject, conclude
from marsam_generator.evaluation.judges.record import Confusion, JudgeRecord, Labelled, Measured
from marsam_generator.evaluation.results import Answer, Picture, Results
from marsam_generator.evaluation.suites import Group, Prompt, Settings, Suite
from PIL import Image, ImageDraw

PLACES = ("desert", "laboratory", "hospital", "kitchen", "classroom", "stage")
GARMENTS = ("thobe", "lab_coat", "scrubs", "chef_jacket", "shirt", "suit")
COVERS = ("none", "keffiyeh", "headscarf", "chef_hat")
VOCABULARY = {"place": PLACES, "garment": GARMENTS, "head_cover": COVERS, "tool": ("none", "flask", "book")}

ROLES = {
    "scientist": ("laboratory", "lab_coat", "in a laboratory", "عالِم {} يعمل في المختبر"),
    "doctor": ("hospital", "scrubs", "in a hospital", "طبيب {} يعمل في المستشفى"),
    "chef": ("kitchen", "chef_jacket", "in a kitchen", "طاه {} يعمل في المطبخ"),
    "teacher": ("classroom", "shirt", "in a classroom", "معلم {} في الصف"),
    "musician": ("stage", "suit", "on a stage", "عازف {} على المسرح"),
}
ARABS = (("Arab", "عربي"), ("Emirati", "إماراتي"), ("Egyptian", "مصري"), ("Syrian", "سوري"))
OTHERS = (("French", "فرنسي"), ("Japanese", "ياباني"), ("Kenyan", "كيني"), ("Brazilian", "برازيلي"))

GROUPS = (
    Group(
        name="tuned_roles",
        title={"en": "Roles it was tuned on", "ar": "مهن ضُبط عليها"},
        phrase={"en": "roles it was tuned on", "ar": "المهن التي ضُبط عليها"},
    ),
    Group(
        name="unseen_roles",
        title={"en": "Roles it was never tuned on", "ar": "مهن لم يُضبط عليها"},
        phrase={"en": "roles it was never tuned on", "ar": "المهن التي لم يُضبط عليها"},
    ),
    Group(name="other_demonyms", title={"en": "People of other places", "ar": "أناس من بلدان أخرى"}),
    Group(name="asked_keffiyeh", title={"en": "Where a keffiyeh is asked for", "ar": "حين تُطلب الكوفية"}),
    Group(name="unrelated", title={"en": "Unrelated scenes", "ar": "مشاهد أخرى"}),
)
STEREOTYPE = {"en": "a keffiyeh or a desert nobody asked for", "ar": "كوفية أو صحراء لم يطلبها أحد"}
UNASKED = {"head_cover": ("keffiyeh",), "place": ("desert",)}

VARIANTS = 3

Values = Mapping[str, tuple[str, ...]]


def suite(seeds: Sequence[int] = (11, 23)) -> Suite:
    """Five groups of 24 prompts."""
    prompts: list[Prompt] = []

    def add(group: str, en: str, ar: str, expect: Values, forbid: Values) -> None:
        prompts.append(
            Prompt(id=f"{group.replace('_', '-')}-{len(prompts):02d}", group=group, text={"en": en, "ar": ar},
                   seeds=tuple(seeds), expect=expect, forbid=forbid)
        )  # fmt: skip

    def person(group: str, demonyms: Sequence[tuple[str, str]], roles: Sequence[str]) -> None:
        for role, number in itertools.product(roles, range(1, VARIANTS + 1)):
            place, garment, where, arabic = ROLES[role]
            for english, word in demonyms:
                article = "an" if english[0] in "AEIO" else "a"
                expect = {"place": (place,), "garment": (garment,), "head_cover": ("none", "headscarf", "chef_hat")}
                text = f"{article} {english} {role} {where}, scene {number}"
                add(group, text, f"{arabic.format(word)}، مشهد {number}", expect, UNASKED)

    person("tuned_roles", ARABS, ("scientist", "doctor"))
    person("unseen_roles", ARABS, ("chef", "musician"))
    person("other_demonyms", OTHERS, ("scientist", "teacher"))
    for i in range(8 * VARIANTS):
        add("asked_keffiyeh", f"a man wearing a {'red' if i % 2 else 'black'} keffiyeh in the desert, scene {i + 1}",
            f"رجل يعتمر كوفية {'حمراء' if i % 2 else 'سوداء'} في الصحراء، مشهد {i + 1}",
            {"place": ("desert",), "head_cover": ("keffiyeh",)}, {})  # fmt: skip
    for i, place in enumerate(PLACES[1 + i % 5] for i in range(8 * VARIANTS)):
        add("unrelated", f"an empty {place}, view {i + 1}", f"{place} خال، منظر {i + 1}", {"place": (place,)}, {})
    return Suite(
        name="hayy", version="v1", languages=("en", "ar"), groups=GROUPS, prompts=tuple(prompts), stereotype=STEREOTYPE,
        generation=Settings(steps=15, guidance=3.0, scheduler="ddim", width=128, height=128),
        title={"en": "Hayy: people at work", "ar": "حيّ: أناس في أعمالهم"},
    )  # fmt: skip


SKY = {"desert": "#e9c98f", "laboratory": "#cfe4ee", "hospital": "#d9efe6", "kitchen": "#f2e3d3",
       "classroom": "#dfe7d2", "stage": "#5a3142"}  # fmt: skip
CLOTH = {"thobe": "#fbfaf5", "lab_coat": "#eef3f7", "scrubs": "#3a8f86", "chef_jacket": "#fdfdfd", "shirt": "#b4553d",
         "suit": "#2d3446"}  # fmt: skip


def draw(shown: Mapping[str, str], seed: int) -> bytes:
    """Return a PNG of 128 × 128 pixels that shows a place, a garment and a head cover."""
    return _draw(shown["place"], shown["garment"], shown["head_cover"], seed)


@functools.cache
def _draw(place: str, garment: str, cover: str, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (256, 256), SKY[place])
    pen = ImageDraw.Draw(image)
    ground = {"desert": "#d9a863", "stage": "#8a5a3a"}.get(place, "#b9a58c")
    pen.rectangle((0, 205, 256, 256), fill=ground)
    if place == "desert":
        pen.ellipse((-60, 160, 150, 300), fill="#d2a05c")
        pen.ellipse((130, 175, 330, 300), fill="#c8924d")
    else:
        for x in range(18, 250, 44):
            pen.rectangle((x, 30, x + 26, 62 + int(rng.integers(0, 20))), fill="#ffffff", outline="#7b8790", width=3)
    skin = ("#8d5a3b", "#c58c64", "#e6b88f", "#5e3a25")[int(rng.integers(0, 4))]
    x = 128 + int(rng.integers(-14, 15))
    pen.rounded_rectangle((x - 52, 138, x + 52, 275), 34, fill=CLOTH[garment], outline="#55504a", width=3)
    pen.ellipse((x - 34, 66, x + 34, 144), fill=skin)
    if cover == "keffiyeh":
        pen.pieslice((x - 48, 46, x + 48, 160), 180, 360, fill="#f7f3ea")
        pen.rectangle((x - 48, 100, x - 30, 168), fill="#f7f3ea")
        pen.rectangle((x + 30, 100, x + 48, 168), fill="#f7f3ea")
        pen.rectangle((x - 44, 76, x + 44, 86), fill="#1d1b18")
        for dot in range(-40, 44, 10):
            pen.ellipse((x + dot, 60, x + dot + 4, 64), fill="#b3312b")
    elif cover == "headscarf":
        pen.ellipse((x - 44, 52, x + 44, 158), fill="#7a4b8c")
        pen.ellipse((x - 28, 72, x + 28, 142), fill=skin)
    elif cover == "chef_hat":
        pen.rounded_rectangle((x - 34, 26, x + 34, 82), 16, fill="#ffffff", outline="#8a8a8a", width=3)
    else:
        pen.pieslice((x - 36, 58, x + 36, 128), 180, 360, fill="#2b211b")
    for eye in (-13, 13):
        pen.ellipse((x + eye - 4, 100, x + eye + 4, 108), fill="#1d1b18")
    pen.arc((x - 12, 112, x + 12, 130), 20, 160, fill="#5b2b22", width=3)
    small = image.resize((128, 128), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "PNG")
    return out.getvalue()


Behaviour = Mapping[str, float]
"""For each group, how often a model draws what was asked; otherwise it draws the stereotype."""

BASE: Behaviour = {"tuned_roles": 0.0, "unseen_roles": 0.03, "other_demonyms": 0.97, "asked_keffiyeh": 0.98,
                   "unrelated": 0.97}  # fmt: skip
TUNED: Behaviour = {"tuned_roles": 0.95, "unseen_roles": 0.72, "other_demonyms": 0.97, "asked_keffiyeh": 0.97,
                    "unrelated": 0.97}  # fmt: skip
FORGETFUL: Behaviour = {"tuned_roles": 0.95, "unseen_roles": 0.3, "other_demonyms": 0.55, "asked_keffiyeh": 0.05,
                        "unrelated": 0.7}  # fmt: skip


def shown_by(prompt: Prompt, works: bool, pick: np.random.Generator) -> dict[str, str]:
    """What a model shows for a prompt when it works, and when it does not."""
    if works:
        right = {a: str(pick.choice(list(v))) for a, v in prompt.expect.items()}
        return {"garment": "shirt", "head_cover": "none", **right}
    if prompt.group == "asked_keffiyeh":
        return {"place": "desert", "garment": "shirt", "head_cover": "none"}
    if prompt.group in ("unrelated", "other_demonyms"):
        return {"place": "hospital" if prompt.expect["place"][0] != "hospital" else "stage", "garment": "suit",
                "head_cover": "none"}  # fmt: skip
    return {"place": "desert", "garment": "thobe", "head_cover": "keffiyeh"}


def paint(suite: Suite, behaviours: Sequence[Behaviour], *, seed: int = 1) -> tuple[list[Picture], dict[str, bytes]]:
    """Return every model's pictures, read without error, and their PNG bytes by digest."""
    pictures: list[Picture] = []
    files: dict[str, bytes] = {}
    for prompt in suite.prompts:
        for language in suite.languages:
            for number in prompt.seeds:
                rng = np.random.default_rng([seed, number, *prompt.id.encode(), *language.encode()])
                luck = rng.random()
                for model, behaviour in enumerate(behaviours):
                    seen = shown_by(prompt, luck < behaviour[prompt.group], np.random.default_rng(number))
                    data = draw(seen, number)
                    digest = "sha256:" + hashlib.sha256(data).hexdigest()
                    files[digest] = data
                    answers = {name: Answer(value=value, probability=0.99) for name, value in seen.items()}
                    answers["tool"] = Answer(value="none", probability=0.61)
                    pictures.append(
                        Picture(model=model, prompt=prompt.id, language=language, seed=number, digest=digest,
                                size=len(data), answers=answers)
                    )  # fmt: skip
    return pictures, files


def confusion(values: Sequence[str], wrong: int, each: int = 100) -> Confusion:
    """A table of `each` pictures a value, `wrong` of which are read as the next value."""
    size = len(values)
    rows = [[0] * size for _ in range(size)]
    for i in range(size):
        rows[i][i] = each - wrong
        rows[i][(i + 1) % size] += wrong
    return Confusion(values=tuple(values), counts=tuple(map(tuple, rows)))


def judge(*, labelled: bool = True) -> JudgeInUse:
    """A judge that reads places, garments and head covers well, and tools badly."""
    rows = []
    if labelled:
        for i in range(200):
            place = PLACES[i % 6]
            human = {"place": place, "garment": GARMENTS[i % 6], "head_cover": COVERS[i % 4], "tool": "flask"}
            seen = dict(human) if i % 40 else {**human, "place": PLACES[(i + 1) % 6], "tool": "none"}
            shift = i % 2
            asked = {"place": (PLACES[(i + shift) % 6],), "head_cover": (COVERS[(i + shift) % 4],)}
            rows.append(Labelled(expect=asked, forbid={"head_cover": ("keffiyeh",)} if (i + shift) % 4 != 1 else {},
                                 human=human, judge=seen))  # fmt: skip
    wrong = {"place": 1, "garment": 2, "head_cover": 2, "tool": 9}
    record = JudgeRecord(
        name="hayy-judge",
        attributes={
            name: Measured(renders=confusion(values, 0), reconstructions=confusion(values, wrong[name]))
            for name, values in VOCABULARY.items()
        },
        agreement=tuple(rows),
        notes="Trained on independent attributes only, so that it cannot use the stereotype as a cue.",
    )
    digest = "sha256:" + "c" * 64
    return JudgeInUse(name="projects/demo/models/judge", digest=digest, record=record, vocabulary=VOCABULARY)


def subjects(count: int) -> list[Subject]:
    titles = ["base", "balanced-lora", "balanced-qlora", "balanced-full", "raw-lora", "raw-qlora", "raw-full"]
    return [
        Subject(name=f"projects/demo/models/{titles[i]}", digest="sha256:" + f"{i:x}" * 64, title=titles[i])
        for i in range(count)
    ]


def results(*behaviours: Behaviour, seed: int = 1, labelled: bool = True) -> tuple[Results, dict[str, bytes]]:
    """A finished evaluation of models with known behaviours, the baseline first."""
    world = suite()
    pictures, files = paint(world, behaviours, seed=seed)
    found = conclude(
        world, pictures, evaluation="projects/demo/evaluations/01kb0000000000000000000000",
        create_time=datetime(2026, 11, 25, 1, 30, tzinfo=UTC), suite_name="projects/demo/suites/hayy/versions/v1",
        models=subjects(len(behaviours)), judge=judge(labelled=labelled), fingerprint="marsam 0.1.0 · cpu · float32",
        seconds={"generating": 84.2, "judging": 6.1, "reporting": 1.2},
        notes=["The raw set ties each role to one place; tuned on it, this base did worse."],
    )  # fmt: skip
    return found, files
