"""Who refers to what: blobs to the records that hold them, and those to whatever was made from them."""

from collections.abc import Iterable

from marsam.core.errors import Corrupt, Precondition
from marsam.core.ids import digest_hex
from marsam.store.blobs import Blobs
from marsam.upkeep.records import Record, Unreadable, gathered, manifests, strangers
from marsam.upkeep.work import jobs


class Graph:
    """The references of one project. `read` looks at the store; once more reads only what is new or may have changed.

    Nothing is ever taken out: a record that was deleted since still holds what it held.
    """

    def __init__(self, blobs: Blobs, project: str) -> None:
        self.project = project
        self.unreadable: list[Unreadable] = []
        self.strangers: list[str] = []
        self.records = 0
        self._blobs = blobs
        self._settled: set[str] = set()
        self._names: set[str] = set()
        self._holders: dict[bytes, dict[str, None]] = {}
        self._sizes: dict[bytes, int] = {}
        self._above: dict[str, dict[str, None]] = {}
        self._below: dict[str, dict[str, None]] = {}
        self._held: dict[str, dict[bytes, None]] = {}
        self._needs: dict[str, tuple[str, ...]] = {}

    async def read(self) -> None:
        """Take in every record that was not taken in for good. Raises what the store says."""
        self.unreadable = []
        self.strangers = await strangers(self._blobs, self.project)
        for source in (jobs, manifests):  # in this order every input of a job that was read is read too
            async for found in gathered(self._blobs, source(self._blobs, self.project, self._settled)):
                if isinstance(found, Unreadable):
                    self.unreadable.append(found)
                else:
                    self._take(found)

    def check(self) -> None:
        """Raise unless every reference is known: Corrupt (UPKEEP_UNREADABLE) for a record that cannot be read,
        Precondition for records of an unknown kind (UPKEEP_UNKNOWN) and for a live job whose input was deleted
        (UPKEEP_INPUT_MISSING): what that input held, the job may be about to refer to.
        """
        for bad in self.unreadable:
            raise Corrupt(
                f"nothing is collected in project '{self.project}': {bad.name} ({bad.key}) cannot be read, so what it"
                f" refers to is not known: {bad.error.message}",
                reason="UPKEEP_UNREADABLE",
                resource=bad.name,
                remedy="'marsam upkeep verify' lists all of them; restore it from a backup, or delete that object",
            )
        for key in self.strangers:
            raise Precondition(
                f"nothing is collected in project '{self.project}': this version does not know what '{key}' is",
                reason="UPKEEP_UNKNOWN",
                remedy="use the version of Marsam that the services have",
            )
        for job, needs in self._needs.items():
            for name in needs:
                if name not in self._names:
                    raise Precondition(
                        f"nothing is collected in project '{self.project}': {job} is not over, and {name}, which it"
                        " works with, was deleted",
                        reason="UPKEEP_INPUT_MISSING",
                        resource=job,
                        remedy="cancel that job, or wait for its end",
                    )

    def holds(self, digest: str) -> bool:
        """Whether any record refers to the blob."""
        return _key(digest) in self._holders

    def size(self, digest: str) -> int | None:
        """The size in bytes that records give the blob; None when none does."""
        return self._sizes.get(_key(digest))

    def digests(self) -> Iterable[str]:
        """Every blob that a record refers to."""
        return (f"sha256:{key.hex()}" for key in self._holders)

    def dependents(self, digest: str) -> tuple[str, ...]:
        """The names that refer to the blob, then what was made from those or points at them, nearest first."""
        return self.above(self._holders.get(_key(digest), ()))

    def above(self, names: Iterable[str]) -> tuple[str, ...]:
        """`names` and all that depends on them, nearest first."""
        return _closure(names, self._above)

    def knows(self, name: str) -> bool:
        """Whether a record of that name was read."""
        return name in self._names

    def names(self) -> list[str]:
        """The names of all records."""
        return sorted(self._names)

    def under(self, name: str) -> set[str]:
        """The blobs that `name` needs: its own, and those of what it was made from."""
        return {f"sha256:{key.hex()}" for each in _closure([name], self._below) for key in self._held.get(each, ())}

    def _take(self, record: Record) -> None:
        self.records += 1
        self._names.add(record.name)
        self._needs.pop(record.name, None)
        if record.settled:
            self._settled.add(record.key)
        elif record.needs:
            self._needs[record.name] = record.needs
        for digest, size in record.digests.items():
            key = _key(digest)
            self._holders.setdefault(key, {})[record.name] = None
            self._held.setdefault(record.name, {})[key] = None
            if size is not None:
                self._sizes[key] = size
        for used in record.uses:
            self._above.setdefault(used, {})[record.name] = None
            self._below.setdefault(record.name, {})[used] = None


def _key(digest: str) -> bytes:
    return bytes.fromhex(digest_hex(digest))


def _closure(names: Iterable[str], edges: dict[str, dict[str, None]]) -> tuple[str, ...]:
    found = dict.fromkeys(names)
    queue = list(found)
    for name in queue:
        for following in edges.get(name, ()):
            if following not in found:
                found[following] = None
                queue.append(following)
    return tuple(found)
