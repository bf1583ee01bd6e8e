"""Publishing: once per run, however often its last attempt is made."""

from dataclasses import replace
from pathlib import Path

import pytest
from marsam_trainer.run.publish import Outcome, conclude, publish

from marsam.catalog.acceptance import Acceptance
from marsam.catalog.datasets import DatasetVersion
from marsam.catalog.files import FileRef
from marsam.catalog.models import Model
from marsam.catalog.runs import RunSpec
from marsam.core.clock import SystemClock
from marsam.core.errors import Exists
from marsam.core.ids import digest_of, new_ulid
from marsam.core.records import canonical
from marsam.store import keys
from marsam.store.folder import FolderBlobs

CLOCK = SystemClock()
BASE = Model(
    name="projects/p/models/base",
    kind="base",
    create_time=CLOCK.now(),
    files=(FileRef(path="model_index.json", digest=digest_of(b"{}"), size=2),),
    family="sd1",
)
VERSION = DatasetVersion(name="projects/p/datasets/d/versions/v1", create_time=CLOCK.now(), items=())


def spec(run: str) -> RunSpec:
    return RunSpec(
        name=f"projects/p/runs/{run}", base=BASE.name, base_digest=BASE.digest, dataset_version=VERSION.name,
        dataset_digest=VERSION.digest, method="lora", output_model_id="tuned", steps=1, batch_size=1,
        learning_rate=1.0, resolution=64, seed=0,
    )  # fmt: skip


async def published(blobs: FolderBlobs, folder: Path, order: RunSpec, attempt: int, content: bytes) -> Model:
    (folder / "weights.safetensors").write_bytes(content)
    outcome = Outcome(
        model_id=order.output_model_id, folder=folder, paths=["weights.safetensors"], samples=[], shown=[],
        losses=[1.0], validation=[], metrics={"attempts": float(attempt)}, quantisation="", libraries={},
    )  # fmt: skip
    model = await publish(blobs, CLOCK, order, base=BASE, version=VERSION, outcome=outcome)
    await conclude(blobs, order, attempt, model, outcome)
    return model


async def test_an_attempt_takes_what_the_one_before_published_whatever_its_bytes(tmp_path: Path) -> None:
    blobs, order = FolderBlobs(tmp_path / "store"), spec(new_ulid())
    first = await published(blobs, tmp_path, order, 1, b"killed after this")
    assert await published(blobs, tmp_path, order, 2, b"rounded otherwise") == first
    result = await blobs.get(keys.attempt_file("p", "runs", order.id, 2, "result.json"))
    assert canonical({"digest": first.digest})[1:-1] in result and b'"attempts":1.0' in result


async def test_who_accepted_the_licence_goes_with_the_model(tmp_path: Path) -> None:
    accepted = Acceptance(licence="openrail++", by="mona", at=CLOCK.now())
    order = replace(spec(new_ulid()), accepted=accepted)
    model = await published(FolderBlobs(tmp_path / "store"), tmp_path, order, 1, b"weights")
    assert model.accepted == accepted


async def test_another_runs_model_is_never_taken(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path / "store")
    await published(blobs, tmp_path, spec(new_ulid()), 1, b"same")
    with pytest.raises(Exists):
        await published(blobs, tmp_path, spec(new_ulid()), 1, b"same")
