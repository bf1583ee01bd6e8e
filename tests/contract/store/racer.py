"""One of several processes that write to a store at the same time. Run by the race tests:

python racer.py log URL NAME COUNT    win COUNT entries of the one log 'race/log'; print their numbers
python racer.py once URL NAME COUNT   try to create 'race/once/N' for every N below COUNT; print those won
python racer.py put URL NAME COUNT    overwrite 'race/put' COUNT times
python racer.py read URL NAME COUNT   read 'race/put' and the log until a line comes on stdin; print torn reads
"""

import asyncio
import json
import sys

from marsam.core.errors import Conflict, Exists, Missing
from marsam.core.ids import sha256_hex
from marsam.store.blobs import Blobs
from marsam.store.numbered import NumberedLog
from marsam.store.open import open_store

FILLER = "x" * 20_000


def record(name: str, n: int) -> bytes:
    body = f"{name} {n} {FILLER}"
    return json.dumps({"body": body, "sha256": sha256_hex(body.encode())}).encode()


def whole(data: bytes) -> bool:
    try:
        read = json.loads(data)
        return bool(read["sha256"] == sha256_hex(read["body"].encode()))
    except ValueError:
        return False


async def log(blobs: Blobs, name: str, count: int) -> list[int]:
    shared = NumberedLog(blobs, "race/log")
    won: list[int] = []
    known = 0
    while len(won) < count:
        head = await shared.head(known)
        known = head[0] if head else 0
        try:
            won.append(await shared.append(known, record(name, len(won))))
        except Conflict:
            continue
    return won


async def once(blobs: Blobs, name: str, count: int) -> list[int]:
    won = []
    for n in range(count):
        try:
            await blobs.create(f"race/once/{n}", record(name, n))
        except Exists:
            continue
        won.append(n)
    return won


async def put(blobs: Blobs, name: str, count: int) -> list[int]:
    for n in range(count):
        await blobs.put("race/put", record(name, n))
    return []


async def read(blobs: Blobs, name: str, count: int) -> list[int]:
    stop = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
    shared = NumberedLog(blobs, "race/log")
    torn, reads, known = 0, 0, 0
    while not stop.done():
        try:
            torn += not whole(await blobs.get("race/put"))
            reads += 1
        except Missing:
            await asyncio.sleep(0.01)
        head = await shared.head(known)
        if head is not None:
            known = head[0]
            torn += not whole(head[1])
            reads += 1
    return [torn, reads]


def main() -> None:
    kind, url, name, count = sys.argv[1:]
    act = {"log": log, "once": once, "put": put, "read": read}[kind]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    if kind != "read":
        sys.stdin.readline()
    sys.stdout.write(json.dumps(asyncio.run(act(open_store(url), name, int(count)))))


if __name__ == "__main__":
    main()
