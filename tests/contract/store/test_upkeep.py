"""Collecting and verifying, over a folder and a real S3 server."""

import asyncio
import json
import os
import random
import re
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from marsam.catalog.aliases import delete_model, resolve, set_alias
from marsam.catalog.models import Model
from marsam.catalog.repository import list_items, list_models, load_model, load_version, save_model
from marsam.core.errors import Corrupt, Invalid, Missing, Precondition
from marsam.core.ids import digest_hex, digest_of, new_ulid
from marsam.jobs.states import State
from marsam.jobs.store import JobStore
from marsam.store import content, keys
from marsam.store.blobs import Blobs
from marsam.store.content import put_blob, read_blob
from marsam.upkeep.collect import GRACE, Collector, Garbage
from marsam.upkeep.verify import AT_ONCE, Finding, Tally, verify
from tests.contract.store.stores import ALL_STORES, open_named
from tests.contract.store.upkept import AT, CLOCK, Aged, P, everything, file, furnish


@pytest.fixture(params=["folder", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    if request.param == "s3":
        request.getfixturevalue("seaweed")
    return open_named(request.param, tmp_path)


async def collected(blobs: Blobs, *, delete: bool) -> list[Garbage]:
    collector = Collector(blobs, older_than=GRACE)
    await collector.look()
    return [each async for each in collector.collect(delete=delete)]


async def found(blobs: Blobs, **options: object) -> list[Finding]:
    return [finding async for finding in verify(blobs, **options)]  # type: ignore[arg-type]


def checkpoints(run: str, *steps: int) -> set[str]:
    return {f"p/p/runs/{run}/attempts/1/checkpoints/{step:08d}" for step in steps}


async def test_a_dry_run_names_and_a_real_one_takes_exactly_what_is_of_no_use(blobs: Blobs) -> None:
    house = await furnish(blobs)
    probe = f"{keys.probe(new_ulid())}/once"
    await blobs.create(probe, b"left by a service that died")
    pulse = keys.pulse("p", new_ulid())
    await blobs.put(pulse, b"left by a generator that died")
    before = await everything(blobs)
    useless = {*house.orphans, *checkpoints(house.done, 2, 4, 6), *checkpoints(house.failed, 2, 8), probe, pulse}

    assert await collected(blobs, delete=True) == []  # all of it is young
    aged = Aged(blobs)
    dry = await collected(aged, delete=False)
    assert {each.name for each in dry} == useless
    assert not any(each.done for each in dry)
    assert sum(each.size for each in dry if each.kind == "blob") == len(b"orphan one" + b"orphan two")
    assert (await everything(blobs), aged.deleted) == (before, [])

    gone = await collected(aged, delete=True)
    assert {each.name for each in gone if each.done} == useless
    after = await everything(blobs)
    assert before.keys() - after.keys() == {key for each in gone for key in each.keys}
    assert after.items() <= before.items()
    assert await collected(aged, delete=True) == []
    # What was there still loads, through the readers of the services.
    assert [model.name for model in await list_models(blobs, "p")] == [house.base, house.tuned]
    assert (await resolve(blobs, f"{P}/aliases/prod")).name == house.tuned
    version = await load_version(blobs, house.version)
    assert [len(await read_blob(blobs, "p", item.image.digest)) for item in version.items] == [9, 9, 9]
    assert len(await list_items(blobs, f"{P}/datasets/hayy")) == 3
    assert await found(blobs) == []


async def test_what_is_young_stays(blobs: Blobs) -> None:
    house = await furnish(blobs)
    aged = Aged(blobs)
    fresh = (await put_blob(aged, "p", b"stored just now")).digest
    again = (await put_blob(aged, "p", b"orphan one")).digest  # bytes that are there, and old
    assert again in house.orphans
    gone = {each.name for each in await collected(aged, delete=True) if each.kind == "blob"}
    assert gone == {house.orphans[1]}
    assert await read_blob(blobs, "p", fresh) == b"stored just now"
    assert await read_blob(blobs, "p", again) == b"orphan one"


async def test_a_run_that_is_resumed_meanwhile_keeps_its_checkpoints(blobs: Blobs) -> None:
    house = await furnish(blobs)
    aged = Aged(blobs)
    collector = Collector(aged, older_than=GRACE)
    await collector.look()
    runs = JobStore(blobs, "p", "runs", CLOCK)

    async def resume(key: str) -> None:
        if house.done in key and (await runs.head(house.failed)).state is State.FAILED:
            await runs.append(house.failed, await runs.head(house.failed), State.PENDING)

    aged.before["delete"] = resume
    outcome = [each async for each in collector.collect(delete=True)]
    kept = {each.name: each.kept for each in outcome if not each.done}
    assert kept == dict.fromkeys(checkpoints(house.failed, 2, 8), "the run was resumed")
    left = {f"{key.rpartition('/')[0]}" for key in await everything(blobs) if "/checkpoints/" in key}
    assert left == checkpoints(house.failed, 2, 4, 6, 8) | checkpoints(house.live, 2, 4, 6)


async def test_a_record_that_comes_between_the_look_and_the_deletion_keeps_its_blob(blobs: Blobs) -> None:
    house = await furnish(blobs)
    aged = Aged(blobs)
    collector = Collector(aged, older_than=GRACE)
    await collector.look()
    size = len(b"orphan one")
    late = next(d for d in house.orphans if d == digest_of(b"orphan one"))
    model = await file(blobs, "x.json", b"other")
    await save_model(
        blobs,
        Model(
            name=f"{P}/models/late", kind="judge", create_time=AT,
            files=(model, type(model)(path="w.json", digest=late, size=size)),
        ),
    )  # fmt: skip
    outcome = {each.name: each async for each in collector.collect(delete=True)}
    assert (outcome[late].done, outcome[late].kept) == (False, "a record refers to it by now")
    assert outcome[house.orphans[1]].done
    assert await read_blob(blobs, "p", late) == b"orphan one"


async def test_bytes_that_are_stored_again_before_they_are_condemned_stay(blobs: Blobs) -> None:
    house = await furnish(blobs)
    aged = Aged(blobs)

    async def store_again(key: str) -> None:
        if key.startswith(keys.condemned("p", house.orphans[0])):
            del aged.before["put"]
            await put_blob(aged, "p", b"orphan one")

    aged.before["put"] = store_again
    outcome = {each.name: each for each in await collected(aged, delete=True)}
    assert (outcome[house.orphans[0]].done, outcome[house.orphans[0]].kept) == (False, "it was stored again")
    assert outcome[house.orphans[1]].done
    assert await read_blob(blobs, "p", house.orphans[0]) == b"orphan one"


async def test_writers_race_the_collector(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers store bytes that are there and old, and refer to them, while collectors work without a pause."""
    monkeypatch.setattr(content, "_MARK_PAUSE_S", 0.01)
    data = [f"old bytes {n}".encode() for n in range(24)]
    for each in data:
        await put_blob(blobs, "p", each)
    aged = Aged(blobs)
    chance = random.Random(7)
    models: list[str] = []
    begun = asyncio.Event()

    async def write(n: int) -> None:
        await begun.wait()
        await asyncio.sleep(chance.uniform(0, 0.6))
        stored = await file(aged, "w.json", data[n])
        await asyncio.sleep(chance.uniform(0, 0.1))
        name = f"{P}/models/m{n}"
        await save_model(aged, Model(name=name, kind="judge", create_time=AT, files=(stored,)))
        models.append(name)

    async def linger(key: str) -> None:
        if key.startswith("p/p/blobs"):  # between the last look and the deletion is where it hurts
            await asyncio.sleep(chance.uniform(0, 0.05))

    async def begin(key: str) -> None:
        if key.startswith(keys.condemned_blobs("p")):
            begun.set()

    aged.before |= {"delete": linger, "put": begin}
    writers = asyncio.gather(*(write(n) for n in range(len(data))))
    gone = 0
    while not writers.done():
        gone += sum(each.done for each in await collected(aged, delete=True))
    await writers
    assert gone > 0
    for name in models:
        for part in (await load_model(blobs, name)).files:
            assert digest_of(await read_blob(blobs, "p", part.digest)) == part.digest
    assert len(models) == len(data)
    assert await found(blobs) == []


async def test_a_writer_waits_for_a_mark_and_not_for_a_dead_one(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = digest_of(b"wanted again")
    mark = keys.condemned_by("p", digest, new_ulid())
    await blobs.create(mark, b"mark")
    storing = asyncio.create_task(put_blob(blobs, "p", b"wanted again"))
    await asyncio.sleep(0.5)
    assert not storing.done()
    await blobs.delete([keys.blob("p", digest)])  # the collector, late
    await blobs.delete([mark])
    await storing
    assert await read_blob(blobs, "p", digest) == b"wanted again"
    await blobs.create(mark, b"left by a dead collector")
    aged = Aged(blobs)
    await asyncio.wait_for(put_blob(aged, "p", b"wanted again"), 10)
    gone = await collected(aged, delete=True)
    assert ("mark", True) in {(each.kind, each.done) for each in gone}
    assert mark not in await everything(blobs)


async def test_two_collectors_and_a_killed_one(blobs: Blobs) -> None:
    house = await furnish(blobs)
    aged = Aged(blobs)
    killed = Collector(aged, older_than=GRACE)
    await killed.look()

    async def die(key: str) -> None:
        if key.startswith("p/p/blobs"):
            raise asyncio.CancelledError

    aged.before["delete"] = die
    with pytest.raises(asyncio.CancelledError):
        [each async for each in killed.collect(delete=True)]
    del aged.before["delete"]
    marks = {key.rpartition("/")[0] for key in await everything(blobs) if key.startswith(keys.condemned_blobs("p"))}
    assert marks == {keys.condemned("p", digest) for digest in house.orphans}
    first, second = await asyncio.gather(collected(aged, delete=True), collected(aged, delete=True))
    assert {each.name for each in (*first, *second) if each.kind == "blob" and each.done} == set(house.orphans)
    later = await collected(Aged(blobs), delete=True)  # another day
    assert ({each.kind for each in later}, len(later)) == ({"mark"}, 2)
    assert not any(key.startswith(keys.condemned_blobs("p")) for key in await everything(blobs))
    assert await found(blobs) == []


@pytest.mark.parametrize("which", ["model", "transition", "events", "pointer", "spec"])
async def test_an_unreadable_record_stops_the_collection(blobs: Blobs, which: str) -> None:
    house = await furnish(blobs)
    broken = {
        "model": keys.model("p", "tuned"),
        "transition": f"{keys.job_log('p', 'runs', house.done)}/{keys.number(2)}",
        "events": f"{keys.events('p', 'runs', house.live, 1)}/{keys.number(1)}",
        "pointer": keys.version("p", "hayy", "v1"),
        "spec": keys.job_spec("p", "runs", house.done),
    }[which]
    if which == "spec":
        await blobs.delete([broken])
    else:
        await blobs.put(broken, b"blob sha256:" + b"0" * 64 if which == "pointer" else b'{"schema": "half')
    before = await everything(blobs)
    with pytest.raises(Corrupt) as caught:
        await collected(Aged(blobs), delete=True)
    assert caught.value.reason == "UPKEEP_UNREADABLE"
    named = {"model": house.tuned, "pointer": house.version, "events": f"{P}/runs/{house.live}"}
    assert caught.value.resource == named.get(which, f"{P}/runs/{house.done}")
    assert await everything(blobs) == before
    assert "unreadable" in {finding.kind for finding in await found(blobs)}


async def test_gaps_strangers_and_deleted_inputs_stop_it_too(blobs: Blobs) -> None:
    house = await furnish(blobs)
    aged = Aged(blobs)
    segments = keys.events("p", "runs", house.live, 1)
    await blobs.put(f"{segments}/{keys.number(3)}", b"{}")
    with pytest.raises(Corrupt, match="entry 2 is lost"):
        await collected(aged, delete=True)
    await blobs.delete([f"{segments}/{keys.number(3)}"])
    await blobs.put("p/p/novelties/one", b"{}")
    with pytest.raises(Precondition) as caught:
        await collected(aged, delete=True)
    assert (caught.value.reason, "p/p/novelties" in caught.value.message) == ("UPKEEP_UNKNOWN", True)
    await blobs.delete(["p/p/novelties/one"])
    await delete_model(blobs, house.base)
    with pytest.raises(Precondition) as caught:
        await collected(aged, delete=True)
    assert (caught.value.reason, caught.value.resource) == ("UPKEEP_INPUT_MISSING", f"{P}/runs/{house.live}")
    assert await read_blob(blobs, "p", house.weights)
    with pytest.raises(Invalid):
        Collector(blobs, older_than=timedelta(minutes=119))


async def test_what_a_deleted_model_held_goes_but_not_what_others_hold(blobs: Blobs) -> None:
    house = await furnish(blobs)
    await set_alias(blobs, f"{P}/aliases/prod", None, clock=CLOCK)
    own = (await load_model(blobs, house.tuned)).files[0].digest
    await delete_model(blobs, house.tuned)
    gone = {each.name for each in await collected(Aged(blobs), delete=True) if each.kind == "blob"}
    assert gone == {*house.orphans, own, digest_of(b"a sample")}


async def test_a_flipped_byte_names_all_that_depends_on_it(blobs: Blobs) -> None:
    house = await furnish(blobs)
    key = keys.blob("p", house.image)
    data = bytearray(await blobs.get(key))
    data[3] ^= 1
    await blobs.put(key, bytes(data))
    tally = Tally()
    (finding,) = await found(blobs, tally=tally)
    assert (finding.kind, finding.name, finding.key, finding.project) == ("damaged", house.image, key, "p")
    assert digest_hex(digest_of(bytes(data))) in finding.message
    assert "backup" in finding.remedy
    runs = {f"{P}/runs/{run}" for run in (house.done, house.failed, house.live)}
    assert {house.version, house.tuned, f"{P}/aliases/prod", house.evaluation, house.generation} | runs < {
        *finding.dependents
    }
    assert house.base not in finding.dependents
    assert finding.dependents.index(house.version) < finding.dependents.index(f"{P}/aliases/prod")
    assert (tally.blobs, tally.findings) == (tally.all_blobs, 1)
    # Under a name: what that needs, and nothing else.
    assert [f.name for f in await found(blobs, under=f"{P}/aliases/prod")] == [house.image]
    assert await found(blobs, under=house.base) == []
    await blobs.put(keys.blob("p", house.kept), b"forgotten")
    (finding,) = [f for f in await found(blobs) if f.name == house.kept]
    assert {house.tuned, f"{P}/aliases/prod", house.evaluation} | runs < {*finding.dependents}
    with pytest.raises(Missing) as caught:
        await found(blobs, under=f"{P}/models/tunde")
    assert caught.value.remedy == f"did you mean '{P}/models/tuned'?" or house.tuned in caught.value.remedy


async def test_missing_short_and_unneeded_blobs(blobs: Blobs) -> None:
    house = await furnish(blobs)
    await blobs.delete([keys.blob("p", house.weights)])
    await blobs.put(keys.blob("p", house.preview), b"a pre")
    await blobs.put(keys.blob("p", house.orphans[0]), b"changed")
    findings = {finding.name: finding for finding in await found(blobs)}
    assert {name: finding.kind for name, finding in findings.items()} == {
        house.weights: "missing", house.preview: "size", house.orphans[0]: "damaged",
    }  # fmt: skip
    assert {house.base, house.tuned, f"{P}/runs/{house.live}"} <= set(findings[house.weights].dependents)
    assert findings[house.preview].dependents[0] == f"{P}/runs/{house.live}"
    assert findings[house.orphans[0]].dependents == ()
    assert "gc" in findings[house.orphans[0]].remedy
    tally = Tally()
    assert {f.kind for f in await found(blobs, sample=1, tally=tally)} >= {"missing"}
    assert tally.all_blobs == 1


@pytest.mark.slow
async def test_slow_blobs_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    at_once: list[int] = []

    class Slow(Aged):
        reading = 0

        async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
            self.reading += 1
            at_once.append(self.reading)
            await asyncio.sleep(1.3)  # longer than it waits for the next one to end
            self.reading -= 1
            return await super().get(key, start=start, length=length)

    slow = Slow(open_named("folder", tmp_path))
    for number in range(3 * AT_ONCE):
        await put_blob(slow, "p", f"weights {number}".encode())
    tally = Tally()
    assert await found(slow, tally=tally) == []
    assert tally.blobs == 3 * AT_ONCE
    assert max(at_once) == AT_ONCE


def upkeep(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "marsam.cli", "upkeep", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
async def test_the_command_line(tmp_path: Path) -> None:
    url = ALL_STORES["folder"](tmp_path)
    blobs = open_named("folder", tmp_path)
    house = await furnish(blobs)
    root = tmp_path / "store"
    assert "all is well" in upkeep("verify", url).stderr
    done = upkeep("gc", url)
    assert (done.returncode, done.stdout.strip()) == (0, "there is nothing to collect")
    past = time.time() - 3 * 86400
    for path in root.rglob("*"):
        os.utime(path, (past, past))
    done = upkeep("gc", url)
    assert re.search(r"blob +would go +2 +20 B", done.stdout)
    assert re.search(r"checkpoint +would go +5 +", done.stdout)
    assert "--delete" in done.stderr
    assert upkeep("gc", url, "--older-than", "4d", "--delete").stdout.strip() == "there is nothing to collect"
    done = upkeep("gc", url, "--delete", "--json")
    *lines, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["name"] for line in lines if line["kind"] == "blob"} == set(house.orphans)
    assert {line["outcome"] for line in lines} == {"deleted"}
    assert last["event"] == "done"
    assert {(s["kind"], s["outcome"], s["count"]) for s in last["sums"]} == {
        ("blob", "deleted", 2), ("checkpoint", "deleted", 5),
    }  # fmt: skip
    for word in ("1h", "soon"):
        assert upkeep("gc", url, "--older-than", word).returncode == 3

    path = root / keys.blob("p", house.image)
    path.chmod(0o644)
    with path.open("r+b") as stored:  # one byte, on the disk
        stored.write(b"P")
    done = upkeep("verify", url)
    assert done.returncode == 12
    (line,) = done.stdout.splitlines()
    assert line.startswith("damaged ")
    assert house.image in line
    assert house.version in line
    assert "restore this object" in line
    done = upkeep("verify", url, "--json")
    assert done.returncode == 12
    finding, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert {house.version, house.tuned, f"{P}/runs/{house.done}"} <= set(finding["dependents"])
    assert (last["event"], last["findings"]) == ("done", 1)
    (root / keys.model("p", "tuned")).chmod(0o644)
    (root / keys.model("p", "tuned")).write_bytes(b"half of it")
    done = upkeep("gc", url, "--delete", "--json")
    assert (done.returncode, json.loads(done.stdout)["error"]["reason"]) == (12, "UPKEEP_UNREADABLE")
