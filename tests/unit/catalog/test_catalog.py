from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from marsam.catalog.aliases import alias_history, delete_model, list_aliases, resolve, set_alias
from marsam.catalog.codec import dump, load
from marsam.catalog.datasets import Caption, Dataset, DatasetVersion, Finding, Item, Rights
from marsam.catalog.evaluations import EvaluationSpec, SuiteVersion
from marsam.catalog.files import FileRef, tree_digest
from marsam.catalog.models import Lineage, Model
from marsam.catalog.repository import (
    list_datasets,
    list_items,
    list_models,
    list_suites,
    list_versions,
    load_dataset,
    load_item,
    load_model,
    load_suite,
    load_version,
    save_dataset,
    save_item,
    save_model,
    save_suite,
    save_version,
)
from marsam.catalog.runs import Preview, RunSpec
from marsam.core.clock import SystemClock
from marsam.core.errors import Conflict, Corrupt, Exists, Invalid, Missing, Precondition
from marsam.core.ids import digest_of, new_ulid
from marsam.store import keys
from marsam.store.blobs import CREATE_LIMIT
from marsam.store.folder import FolderBlobs

CLOCK = SystemClock()
AT = datetime(2026, 11, 25, 1, 2, 3, tzinfo=UTC)
BEST = "projects/p/aliases/best"


@pytest.fixture
def blobs(tmp_path: Path) -> FolderBlobs:
    return FolderBlobs(tmp_path)


def file(path: str, content: bytes = b"x") -> FileRef:
    return FileRef(path=path, digest=digest_of(content), size=len(content))


def base(model_id: str = "hayy-base", **changes: object) -> Model:
    model = Model(
        name=f"projects/p/models/{model_id}", kind="base", family="sd1", create_time=AT, files=(file("unet/w.bin"),)
    )
    return replace(model, digest="", **changes)  # type: ignore[arg-type]


def item(n: int = 0, **changes: object) -> Item:
    made = Item(
        id=new_ulid(),
        file_name=f"{n}.png",
        image=FileRef(path="image.png", digest=digest_of(f"image {n}".encode()), size=7, media_type="image/png"),
        original_digest=digest_of(f"original {n}".encode()),
        pixel_digest=digest_of(f"pixels {n}".encode()),
        width=64,
        height=48,
        phash=(1 << 64) - 1,
        dhash=n,
        captions=(Caption(language="en", text="a nurse"), Caption(language="ar", text="ممرضة")),
        attributes={"role": "nurse", "place": "ward"},
        rights=Rights(licence="CC-BY-4.0", holder="Hayy", consent="model release 7"),
        findings=(Finding(check="duplicates", severity="warn", reason="NEAR", message="close", related=("x",)),),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def version(version_id: str = "v1", items: tuple[Item, ...] = (), **changes: object) -> DatasetVersion:
    made = DatasetVersion(name=f"projects/p/datasets/hayy/versions/{version_id}", create_time=AT, items=items)
    return replace(made, **changes)  # type: ignore[arg-type]


async def test_a_model_is_saved_once(blobs: FolderBlobs) -> None:
    model = base(metrics={"loss": 0.25}, labels={"world": "hayy"}, lineage=Lineage(seed=3, source="shipped"))
    await save_model(blobs, model)
    assert await load_model(blobs, model.name) == model
    await save_model(blobs, model)  # the same again is done already
    with pytest.raises(Exists) as caught:
        await save_model(blobs, replace(model, licence="MIT"))
    assert (caught.value.reason, caught.value.resource) == ("MODEL_EXISTS", model.name)
    assert await load_model(blobs, model.name) == model


async def test_a_missing_model_suggests_the_nearest(blobs: FolderBlobs) -> None:
    await save_model(blobs, base("hayy-base"))
    await save_model(blobs, base("other"))
    with pytest.raises(Missing) as caught:
        await load_model(blobs, "projects/p/models/hay-base")
    assert (caught.value.reason, caught.value.resource) == ("MODEL_NOT_FOUND", "projects/p/models/hay-base")
    assert caught.value.remedy == "did you mean 'hayy-base'?"
    with pytest.raises(Missing) as caught:
        await load_model(blobs, "projects/p/models/zzzzzz")
    assert caught.value.remedy == "known: hayy-base, other"


async def test_models_are_listed_by_id_within_their_project(blobs: FolderBlobs) -> None:
    for n in range(40):
        await save_model(blobs, base(f"m{n:02d}"))
    await save_model(blobs, replace(base(), name="projects/other/models/hayy-base"))
    assert [model.id for model in await list_models(blobs, "p")] == [f"m{n:02d}" for n in range(40)]
    assert await list_models(blobs, "empty") == []


async def test_a_damaged_manifest_is_refused_by_name(blobs: FolderBlobs) -> None:
    await save_model(blobs, base())
    await blobs.put(keys.model("p", "hayy-base"), dump(base()).replace(b'"files"', b'"flies"'))
    with pytest.raises(Corrupt, match="unknown key 'flies'"):
        await load_model(blobs, base().name)


def test_a_models_digest_is_that_of_its_tree() -> None:
    one = base(files=(file("a", b"1"), file("b", b"2")))
    assert one.digest == base(files=(file("b", b"2"), file("a", b"1"))).digest == tree_digest(one.files)
    assert one.digest != base(files=(file("a", b"2"), file("b", b"1"))).digest
    assert one.size == 2
    expected = f"{digest_of(b'1')}  a\n{digest_of(b'2')}  b\n"
    assert one.digest == digest_of(expected.encode())
    with pytest.raises(Invalid, match="hash to"):
        replace(one, files=(file("a", b"other"),))
    with pytest.raises(Invalid, match="two files of one path"):
        base(files=(file("a"), file("a")))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "hayy-base"}, "must look like"),
        ({"files": ()}, "no files"),
        ({"kind": "adapter"}, "names its base"),
        ({"base": "not a name"}, "base must look like"),
        ({"base_digest": "md5:1"}, "base_digest must be"),
    ],
)
def test_models_that_cannot_be(changes: dict[str, object], words: str) -> None:
    with pytest.raises(Invalid, match=words):
        base(**changes)  # type: ignore[arg-type]


async def test_an_alias_moves_and_remembers(blobs: FolderBlobs) -> None:
    for model_id in ("one", "two"):
        await save_model(blobs, base(model_id))
    first = await set_alias(blobs, BEST, "projects/p/models/one", clock=CLOCK, etag="", by="ada", note="first")
    assert (await resolve(blobs, BEST)).id == "one"
    second = await set_alias(blobs, BEST, "projects/p/models/two", clock=CLOCK, etag=first.etag)
    assert (await resolve(blobs, BEST)).id == "two"
    assert (await resolve(blobs, "projects/p/models/one")).id == "one"
    assert await list_aliases(blobs, "p") == {"best": second}
    assert await alias_history(blobs, BEST) == [first, second]
    assert (first.seq, second.seq, first.by, first.note) == (1, 2, "ada", "first")


async def test_an_alias_moves_only_for_who_saw_it(blobs: FolderBlobs) -> None:
    await save_model(blobs, base("one"))
    first = await set_alias(blobs, BEST, "projects/p/models/one", clock=CLOCK)
    second = await set_alias(blobs, BEST, "projects/p/models/one", clock=CLOCK)
    assert first.etag != second.etag
    for stale in (first.etag, ""):
        with pytest.raises(Conflict) as caught:
            await set_alias(blobs, BEST, "projects/p/models/one", clock=CLOCK, etag=stale)
        assert caught.value.reason == "ALIAS_MOVED"


async def test_an_alias_points_at_what_there_is(blobs: FolderBlobs) -> None:
    with pytest.raises(Missing):
        await set_alias(blobs, BEST, "projects/p/models/none", clock=CLOCK)
    with pytest.raises(Invalid):
        await set_alias(blobs, BEST, "projects/other/models/none", clock=CLOCK)
    with pytest.raises(Missing) as caught:
        await resolve(blobs, BEST)
    assert caught.value.reason == "ALIAS_NOT_FOUND"


async def test_an_alias_can_be_taken_away(blobs: FolderBlobs) -> None:
    await save_model(blobs, base("one"))
    await set_alias(blobs, BEST, "projects/p/models/one", clock=CLOCK)
    await set_alias(blobs, BEST, None, clock=CLOCK)
    assert await list_aliases(blobs, "p") == {}
    with pytest.raises(Missing):
        await resolve(blobs, BEST)
    assert len(await alias_history(blobs, BEST)) == 2


async def test_a_deleted_models_id_is_not_used_again(blobs: FolderBlobs) -> None:
    model = base("one")
    await save_model(blobs, model)
    await set_alias(blobs, BEST, model.name, clock=CLOCK)
    with pytest.raises(Precondition) as caught:
        await delete_model(blobs, model.name)
    assert (caught.value.reason, caught.value.resource) == ("MODEL_HAS_ALIAS", BEST)
    await set_alias(blobs, BEST, None, clock=CLOCK)
    await delete_model(blobs, model.name)
    assert await list_models(blobs, "p") == []
    with pytest.raises(Precondition) as caught:
        await save_model(blobs, model)
    assert caught.value.reason == "MODEL_DELETED"
    with pytest.raises(Missing):
        await delete_model(blobs, model.name)


async def test_datasets_items_and_versions(blobs: FolderBlobs) -> None:
    dataset = Dataset(name="projects/p/datasets/hayy", create_time=AT, display_name="حيّ")
    await save_dataset(blobs, dataset)
    assert await load_dataset(blobs, dataset.name) == dataset
    assert await list_datasets(blobs, "p") == [dataset]
    with pytest.raises(Missing, match="did you mean 'hayy'"):
        await load_dataset(blobs, "projects/p/datasets/hay")

    items = [item(n) for n in range(3)]
    for one in items:
        await save_item(blobs, dataset.name, one)
    assert sorted(await list_items(blobs, dataset.name), key=lambda i: i.file_name) == items
    assert await load_item(blobs, f"{dataset.name}/items/{items[0].id}") == items[0]

    first = version("v1", tuple(items), excluded=(("id", "duplicate"),), report={"balance": {"v": 0.8}})
    second = replace(version("a-later-one", tuple(items[:2])), create_time=AT + timedelta(days=1))
    for made in (second, first):
        await save_version(blobs, made)
    assert await load_version(blobs, first.name) == first
    assert await list_versions(blobs, dataset.name) == [first, second]
    assert (first.dataset, first.version, first.dataset_name) == ("hayy", "v1", dataset.name)
    with pytest.raises(Exists) as caught:
        await save_version(blobs, replace(first, report={}))
    assert caught.value.reason == "VERSION_EXISTS"
    with pytest.raises(Missing, match="did you mean 'v1'"):
        await load_version(blobs, "projects/p/datasets/hayy/versions/v11")


def test_a_versions_digest_is_what_training_sees() -> None:
    items = (item(1), item(2))
    digest = version(items=items).digest
    same = tuple(replace(i, id=new_ulid(), rights=Rights(), findings=(), file_name="other") for i in reversed(items))
    assert version("v2", same).digest == digest
    changes: list[dict[str, object]] = [
        {"captions": ()},
        {"attributes": {}},
        {"split": "val"},
        {"image": replace(items[0].image, digest=digest_of(b"other"))},
    ]
    for change in changes:
        assert version(items=(replace(items[0], **change), items[1])).digest != digest  # type: ignore[arg-type]
    with pytest.raises(Invalid, match="hash to"):
        replace(version(items=items), items=items[:1])
    with pytest.raises(Invalid, match="twice"):
        version(items=(items[0], items[0]))


async def test_a_large_version_is_kept_as_a_blob(blobs: FolderBlobs) -> None:
    text = "a nurse writes in the archive " * 40
    large = version(items=tuple(item(n, captions=(Caption(language="en", text=text),)) for n in range(1000)))
    assert len(dump(large)) > CREATE_LIMIT
    await save_version(blobs, large)
    assert await load_version(blobs, large.name) == large
    assert await list_versions(blobs, "projects/p/datasets/hayy") == [large]
    await save_version(blobs, large)
    with pytest.raises(Exists):
        await save_version(blobs, replace(large, report={"other": 1}))


@pytest.mark.parametrize(
    "changes", [{"id": "not-a-ulid"}, {"width": 0}, {"phash": -1}, {"dhash": 1 << 64}, {"pixel_digest": "x"}]
)
def test_items_that_cannot_be(changes: dict[str, object]) -> None:
    with pytest.raises(Invalid):
        item(**changes)  # type: ignore[arg-type]


def run(**changes: object) -> RunSpec:
    spec = RunSpec(
        name=f"projects/p/runs/{new_ulid()}",
        base="projects/p/models/hayy-base",
        base_digest=digest_of(b"base"),
        dataset_version="projects/p/datasets/hayy/versions/v1",
        dataset_digest=digest_of(b"data"),
        method="lora",
        method_params={"rank": 8, "targets": ["to_q"]},
        output_model_id="hayy-lora",
        steps=100,
        batch_size=4,
        learning_rate=1e-3,
        resolution=128,
        seed=7,
        languages=("en", "ar"),
        preview=Preview(prompts=("a nurse",), every=50),
        snr_gamma=5.0,
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


def test_a_run_spec_round_trips() -> None:
    spec = run()
    assert load(RunSpec, dump(spec)) == spec
    assert (spec.project, spec.id) == ("p", spec.name.rpartition("/")[2])


def test_all_faults_of_a_run_spec_are_told_at_once() -> None:
    with pytest.raises(Invalid) as caught:
        run(steps=0, learning_rate=0.0, caption_dropout=1.5, ema_decay=1.0)
    assert [v.field for v in caught.value.violations] == ["steps", "learning_rate", "caption_dropout", "ema_decay"]
    assert "steps must be ≥ 1, got 0" in caught.value.message


def test_an_evaluation_spec() -> None:
    spec = EvaluationSpec(
        name=f"projects/p/evaluations/{new_ulid()}",
        suite="projects/p/suites/hayy/versions/1",
        models=("projects/p/models/hayy-base", "projects/p/models/hayy-lora"),
        judge="projects/p/models/judge",
        generator_target="127.0.0.1:5003",
    )
    assert load(EvaluationSpec, dump(spec)) == spec
    with pytest.raises(Invalid, match=r"models\[1\]"):
        replace(spec, models=("projects/p/models/a", "b"))
    with pytest.raises(Invalid):
        replace(spec, models=())


async def test_suites(blobs: FolderBlobs) -> None:
    made = [
        SuiteVersion(name=f"projects/p/suites/hayy/versions/{n}", create_time=AT, content={"prompts": [f"p{n}"]})
        for n in (1, 2)
    ]
    for one in made:
        await save_suite(blobs, one)
    assert await load_suite(blobs, made[0].name) == made[0]
    assert await list_suites(blobs, "p") == made
    with pytest.raises(Missing) as caught:
        await load_suite(blobs, "projects/p/suites/hayy/versions/3")
    assert caught.value.reason == "SUITE_VERSION_NOT_FOUND"
