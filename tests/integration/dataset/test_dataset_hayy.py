"""The example sets of Hayy through the service: every planted fault is found, and nothing else; the cause is told."""

import json
from pathlib import Path

import pytest
from hayy.sets import NUM_SOUND, write

from marsam.api.dataset.v1 import dataset_pb2 as pb
from tests.integration.dataset.harness import Start, bring, create

RAW, BALANCED = "projects/default/datasets/raw", "projects/default/datasets/balanced"
REASON = {
    "exact_duplicate": "SAME_BYTES",
    "near_duplicate": "NEAR_DUPLICATE",
    "blurred": "BLURRED",
    "contradicting_caption": "CAPTION_CONTRADICTS",
    "wrong_language": "CAPTION_LANGUAGE",
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hayy")
    write(folder)
    return folder


def folder(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}


@pytest.mark.slow
async def test_the_raw_set_is_warned_of_and_the_balanced_one_is_cleaned(start: Start, sets: Path) -> None:
    planted: dict[str, str] = json.loads((sets / "planted.json").read_text())
    async with start() as running:
        await create(running, RAW)
        await create(running, BALANCED)

        done = await bring(running, folder(sets / "raw"), dataset=RAW)
        assert (done.items_accepted, list(done.refused)) == (NUM_SOUND, [])
        raw = (await running.stub.CheckDataset(pb.CheckDatasetRequest(name=RAW), timeout=60)).report
        tied = {(a.attribute_a, a.attribute_b): a for a in raw.associations}
        assert tied["place", "role"].cramers_v > 0.99
        assert tied["place", "role"].warns
        assert any("'place' and 'role' go together" in warning for warning in raw.warnings)
        assert (raw.items, raw.kept, list(raw.findings)) == (NUM_SOUND, NUM_SOUND, [])

        done = await bring(running, folder(sets / "balanced"), dataset=BALANCED)
        broken = {name for name, fault in planted.items() if fault == "broken_file"}
        assert {v.path for v in done.refused} == broken
        report = (await running.stub.CheckDataset(pb.CheckDatasetRequest(name=BALANCED), timeout=60)).report
        assert not any(a.warns for a in report.associations)
        assert (
            next(a for a in report.associations if (a.attribute_a, a.attribute_b) == ("place", "role")).cramers_v < 0.5
        )

        failed: dict[str, set[str]] = {}
        partners: dict[str, set[str]] = {}
        for one in report.findings:
            assert one.finding.severity == pb.SEVERITY_FAIL
            failed.setdefault(one.file_name, set()).add(one.finding.reason)
            partners.setdefault(one.file_name, set()).update(one.finding.related)
        for name, fault in planted.items():
            if name in broken:
                continue
            # Of two equal copies either may be the one that is kept.
            copies = {n for n, related in partners.items() if name in related}
            assert REASON[fault] in failed.get(name, set()).union(*(failed[n] for n in copies)), (name, fault)
        innocent = {n for n in failed if n not in planted and not partners[n] & planted.keys()}
        assert innocent == set()
        assert report.kept == NUM_SOUND

        version = (await running.stub.CommitVersion(pb.CommitVersionRequest(parent=BALANCED), timeout=60)).version
        assert version.name == f"{BALANCED}/versions/v1"
        assert version.item_count == NUM_SOUND
        assert list(version.licences) == ["Apache-2.0"]
        counts = {fault: list(planted.values()).count(fault) for fault in REASON}
        assert dict(version.excluded_by_reason) == {REASON[fault]: count for fault, count in counts.items()}
