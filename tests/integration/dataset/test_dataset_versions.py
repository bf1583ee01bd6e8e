"""Review, versions, export, takedown and typed refusals, through a real service."""

import io
import json
from dataclasses import replace

import grpc
import numpy as np
import pytest
from PIL import Image

from marsam.api.common.v1 import common_pb2
from marsam.api.dataset.v1 import dataset_pb2 as pb
from marsam.catalog import repository
from marsam.catalog.files import FileRef
from marsam.catalog.models import Lineage, Model
from marsam.core.clock import SystemClock
from marsam.core.errors import Exists, Invalid, MarsamError, Missing, Precondition, Unsupported
from marsam.core.ids import digest_of
from marsam.rpc.wire import error_of
from marsam.store.content import read_blob
from marsam.store.open import open_store
from tests.integration.dataset.harness import DATASET, Running, Start, bring, create, items
from tests.integration.dataset.pictures import metadata, saved, scene

pytestmark = pytest.mark.slow

PAIRS = [("cup", "كوب"), ("chair", "كرسي"), ("lamp", "مصباح"), ("book", "كتاب"), ("door", "باب")]


def some(count: int = 5, **extra: object) -> dict[str, bytes]:
    rows = [
        {
            "file_name": f"{n}.png",
            "text": f"a {PAIRS[n % 5][0]} in a quiet room number {n}",
            "text_ar": f"{PAIRS[n % 5][1]} في غرفة هادئة رقم {n}",
            "attributes": {"thing": PAIRS[n % 5][0]},
            "rights": {"licence": "CC0-1.0", "holder": "Mona Said"},
            **extra,
        }
        for n in range(count)
    ]
    return {"metadata.jsonl": metadata(rows), **{f"{n}.png": saved(scene(n)) for n in range(count)}}


async def refused(call: object) -> MarsamError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return error_of(caught.value)


async def commit(running: Running, **options: str) -> pb.Version:
    request = pb.CommitVersionRequest(parent=DATASET, **options)
    return (await running.stub.CommitVersion(request, timeout=60)).version


async def review(running: Running, *reviews: pb.Review, request_id: str = "") -> list[pb.Item]:
    request = pb.ReviewItemsRequest(parent=DATASET, reviews=reviews, request_id=request_id)
    return list((await running.stub.ReviewItems(request, timeout=30)).items)


async def test_versions_count_up_repeat_by_request_and_never_change(start: Start) -> None:
    async with start() as running:
        await create(running)
        error = await refused(commit(running))
        assert isinstance(error, Precondition)
        assert error.reason == "DATASET_EMPTY"
        await bring(running, some())
        first = await commit(running, request_id="c1", message="the beginning")
        assert (first.name, first.item_count, first.message) == (f"{DATASET}/versions/v1", 5, "the beginning")
        assert first.digest.startswith("sha256:")
        assert await commit(running, request_id="c1", message="the beginning") == first
        error = await refused(commit(running, request_id="c1", message="another"))
        assert isinstance(error, Exists)
        assert error.reason == "REQUEST_ID_REUSED"
        second = await commit(running)
        assert (second.name, second.digest) == (f"{DATASET}/versions/v2", first.digest)
        named = await commit(running, version_id="for-print")
        assert named.digest == first.digest
        error = await refused(commit(running, version_id="for-print"))
        assert isinstance(error, Exists)
        assert error.reason == "VERSION_EXISTS"
        listed = await running.stub.ListVersions(pb.ListVersionsRequest(parent=DATASET, page_size=2), timeout=30)
        rest = await running.stub.ListVersions(
            pb.ListVersionsRequest(parent=DATASET, page_size=2, page_token=listed.next_page_token), timeout=30
        )
        assert [v.name.rpartition("/")[2] for v in (*listed.versions, *rest.versions)] == ["for-print", "v1", "v2"]
        assert rest.next_page_token == ""
        shown = (await running.stub.GetDataset(pb.GetDatasetRequest(name=DATASET), timeout=30)).dataset
        assert (shown.item_count, shown.latest_version) == (5, named.name)


async def test_the_digest_depends_on_the_material_and_not_on_when_it_came(start: Start) -> None:
    other = "projects/default/datasets/other"
    async with start() as running:
        await create(running)
        await create(running, other)
        await bring(running, some())
        await bring(running, some(), dataset=other)
        one = await commit(running)
        two = (await running.stub.CommitVersion(pb.CommitVersionRequest(parent=other), timeout=60)).version
        assert one.digest == two.digest


async def test_reviewers_reject_accept_and_correct_and_a_diff_shows_it(start: Start) -> None:
    files = {**some(), "tiny.png": saved(scene(50, 40)), "tiny.txt": b"a very small picture"}
    async with start() as running:
        await create(running)
        await bring(running, files)
        before = await commit(running)
        assert dict(before.excluded_by_reason) == {"TOO_SMALL": 1}
        found = await items(running)
        new = common_pb2.Caption(language="en", text="a  cup that someone\u200b described anew")
        reviews = (
            pb.Review(item=found["1.png"].name, verdict=pb.REVIEW_VERDICT_REJECT, reviewer="mona", note="private"),
            pb.Review(item=found["tiny.png"].name, verdict=pb.REVIEW_VERDICT_ACCEPT),
            pb.Review(item=found["2.png"].name, captions=[new]),
        )
        answered = await review(running, *reviews, request_id="r")
        assert [i.review for i in answered] == [pb.REVIEW_VERDICT_REJECT, pb.REVIEW_VERDICT_ACCEPT, 0]
        assert answered[2].captions[0].text == "a cup that someone described anew"
        again = await review(running, *reviews, request_id="r")
        assert again == answered
        after = await commit(running)
        assert dict(after.excluded_by_reason) == {"REVIEW_REJECTED": 1}
        diff = await running.stub.DiffVersions(pb.DiffVersionsRequest(old=before.name, new=after.name), timeout=30)
        assert (list(diff.added), list(diff.removed), list(diff.changed)) == (["tiny.png"], ["1.png"], ["2.png"])
        await review(running, pb.Review(item=found["1.png"].name, verdict=pb.REVIEW_VERDICT_ACCEPT))
        assert (await commit(running)).item_count == 6
        unknown = found["1.png"].name[:-4] + "zzzz"
        error = await refused(review(running, pb.Review(item=unknown, verdict=pb.REVIEW_VERDICT_ACCEPT)))
        assert isinstance(error, Missing)
        assert error.reason == "ITEM_NOT_FOUND"


async def test_a_manifest_is_what_a_run_needs(start: Start, tmp_path: object) -> None:
    async with start() as running:
        await create(running)
        await bring(running, some())
        committed = await commit(running)
    blobs = open_store(f"{tmp_path}/store")
    version = await repository.load_version(blobs, committed.name)
    assert version.digest == committed.digest
    assert [i.file_name for i in version.items] == [f"{n}.png" for n in range(5)]
    assert {c.language for c in version.items[0].captions} == {"en", "ar"}
    png = await read_blob(blobs, "default", version.items[3].image.digest)
    assert len(png) == version.items[3].image.size


async def test_an_imagefolder_export_reads_back_as_the_same_set(start: Start) -> None:
    files = {**some(), "test/t.png": saved(scene(77)), "test/t.txt": b"a test picture of shapes"}
    other = "projects/default/datasets/copy"
    async with start() as running:
        await create(running)
        await create(running, other)
        await bring(running, files)
        version = await commit(running)
        request = pb.ExportVersionRequest(name=version.name, format="imagefolder")
        exported = await running.stub.ExportVersion(request, timeout=30)
        received: dict[str, bytearray] = {}
        async for part in running.stub.ReadExport(pb.ReadExportRequest(export=exported.export), timeout=30):
            if part.WhichOneof("part") == "file":
                current = received.setdefault(part.file.path, bytearray())
            else:
                current += part.chunk
        assert {f.path: f.size_bytes for f in exported.files} == {p: len(d) for p, d in received.items()}
        # As readers of this layout do it: the metadata beside the pictures, file names relative to it.
        rows = [json.loads(line) for line in received["train/metadata.jsonl"].splitlines()]
        assert len(rows) == 5
        for row in rows:
            number = int(row["source_file"].removesuffix(".png"))
            assert row["text"] == f"a {PAIRS[number][0]} in a quiet room number {number}"
            assert row["text_ar"] == f"{PAIRS[number][1]} في غرفة هادئة رقم {number}"
            picture = Image.open(io.BytesIO(received[f"train/{row['file_name']}"]))
            np.testing.assert_array_equal(np.asarray(picture), np.asarray(scene(number)))
        await bring(running, {path: bytes(data) for path, data in received.items()}, dataset=other)
        copied = (await running.stub.CommitVersion(pb.CommitVersionRequest(parent=other), timeout=60)).version
        assert copied.digest == version.digest
        error = await refused(
            running.stub.ExportVersion(pb.ExportVersionRequest(name=version.name, format="imagefoldr"), timeout=30)
        )
        assert isinstance(error, Invalid)
        assert "imagefolder" in error.remedy


async def test_a_withdrawn_picture_is_gone_and_its_models_are_named(start: Start, tmp_path: object) -> None:
    async with start() as running:
        await create(running)
        await bring(running, some())
        version = await commit(running)
        model = Model(
            name="projects/default/models/m",
            kind="adapter",
            family="sd1",
            method="lora",
            files=(FileRef(path="adapter.safetensors", digest=digest_of(b"weights"), size=7),),
            base="projects/default/models/base",
            base_digest=digest_of(b"base"),
            lineage=Lineage(dataset_version=version.name, dataset_digest=version.digest),
            create_time=SystemClock().now(),
        )
        store = open_store(f"{tmp_path}/store")
        await repository.save_model(store, model)
        lineage = Lineage(dataset_version=version.name + "0", regularisation_version=version.name)
        await repository.save_model(store, replace(model, name="projects/default/models/n", lineage=lineage))
        name = (await items(running))["2.png"].name
        request = pb.TakedownItemRequest(name=name, reason="the person asked")
        answer = await running.stub.TakedownItem(request, timeout=30)
        assert list(answer.affected_models) == ["projects/default/models/m", "projects/default/models/n"]
        assert list(await items(running)) == ["0.png", "1.png", "3.png", "4.png"]

        async def read() -> None:
            async for _ in running.stub.ReadItem(pb.ReadItemRequest(name=name), timeout=30):
                pass

        error = await refused(read())
        assert isinstance(error, Missing)
        assert error.reason == "ITEM_WITHDRAWN"
        assert (await commit(running)).item_count == 4
        error = await refused(review(running, pb.Review(item=name, verdict=pb.REVIEW_VERDICT_ACCEPT)))
        assert error.reason == "ITEM_WITHDRAWN"


async def test_bad_requests_get_reason_place_and_remedy(start: Start) -> None:
    async with start() as running:
        await create(running)
        stub = running.stub
        error = await refused(create(running))
        assert isinstance(error, Exists)
        assert error.reason == "DATASET_EXISTS"
        error = await refused(stub.GetDataset(pb.GetDatasetRequest(name="projects/default/datasets/sett"), timeout=30))
        assert isinstance(error, Missing)
        assert "set" in error.remedy
        error = await refused(stub.GetDataset(pb.GetDatasetRequest(name="datasets/set"), timeout=30))
        assert isinstance(error, Invalid)
        assert error.reason == "NAME_MALFORMED"
        bad = pb.CreateDatasetRequest(parent="projects/default", dataset_id="No Spaces")
        error = await refused(stub.CreateDataset(bad, timeout=30))
        assert isinstance(error, Invalid)
        assert [v.field for v in error.violations] == ["dataset_id"]
        error = await refused(stub.GetVersion(pb.GetVersionRequest(name=f"{DATASET}/versions/v1"), timeout=30))
        assert error.reason == "VERSION_NOT_FOUND"
        page = pb.ListItemsRequest(parent=DATASET, page_token="nonsense")
        error = await refused(stub.ListItems(page, timeout=30))
        assert error.reason == "PAGE_TOKEN"
        error = await refused(stub.CreateUploads(pb.CreateUploadsRequest(parent=DATASET), timeout=30))
        assert isinstance(error, Unsupported)
        assert "ImportItems" in error.remedy
        error = await refused(stub.DeleteDataset(pb.DeleteDatasetRequest(name=DATASET), timeout=30))
        assert isinstance(error, Unsupported)


async def test_creating_again_with_the_same_request_id_is_the_same(start: Start) -> None:
    async with start() as running:
        request = pb.CreateDatasetRequest(parent="projects/default", dataset_id="d", request_id="x", labels={"a": "b"})
        one = await running.stub.CreateDataset(request, timeout=30)
        two = await running.stub.CreateDataset(request, timeout=30)
        assert one == two
        assert dict(one.dataset.labels) == {"a": "b"}
        listed = await running.stub.ListDatasets(pb.ListDatasetsRequest(parent="projects/default"), timeout=30)
        assert [d.name for d in listed.datasets] == ["projects/default/datasets/d"]
