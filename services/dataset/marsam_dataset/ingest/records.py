"""What an import tells, as stored and as watched."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from marsam.catalog.imports import ImportSpec
from marsam.core.ids import check_ulid, sha256_hex
from marsam.jobs.states import State, Transition

MOST_REFUSED_SHOWN = 1000
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of one file; `item` is the id of the item it became (or already was), '' for a file beside pictures.

    `of_file` is False for a verdict on a place that is no file: a line of metadata, a file that was described only.
    """

    path: str
    accepted: bool
    reason: str = ""
    message: str = ""
    item: str = ""
    of_file: bool = True

    def event(self) -> dict[str, Any]:
        """The verdict as a job event."""
        return {
            "kind": "verdict",
            "path": self.path,
            "accepted": self.accepted,
            "reason": self.reason,
            "message": self.message,
            "item": self.item,
            "of_file": self.of_file,
        }


@dataclass(kw_only=True)
class Tally:
    """An import as a watcher sees it: folded from its transitions and events."""

    spec: ImportSpec
    state: State = State.PENDING
    message: str = ""
    images_per_second: float = 0.0
    verdicts: dict[str, Verdict] = field(default_factory=dict)

    def transition(self, head: Transition) -> None:
        """Take in where the job stands."""
        self.state, self.message = head.state, head.message

    def events(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Take in events; a verdict that a later attempt repeats counts once."""
        for event in events:
            if event["kind"] == "verdict":
                verdict = Verdict(**{k: v for k, v in event.items() if k != "kind"})
                self.verdicts[verdict.path] = verdict
            elif event["kind"] == "progress":
                self.images_per_second = float(event["images_per_second"])

    @property
    def done(self) -> int:
        """How many of the received files are decided."""
        return sum(verdict.of_file for verdict in self.verdicts.values())

    @property
    def accepted(self) -> int:
        """How many files became items."""
        return sum(bool(verdict.item) for verdict in self.verdicts.values())

    @property
    def refused(self) -> list[Verdict]:
        """Verdicts on what was not taken, by path."""
        return sorted((v for v in self.verdicts.values() if not v.accepted), key=lambda v: v.path)


def item_id(import_id: str, ordinal: int, path: str) -> str:
    """Return the ULID of the item that file number `ordinal` of an import becomes: the same in every attempt.

    The import's time, then 20 bits of the number (so items sort as the folder does), then 60 of the path's hash.
    """
    check_ulid(import_id)
    tail = (ordinal % (1 << 20)) << 60 | int(sha256_hex(f"{import_id} {path}".encode())[:15], 16)
    return import_id[:10] + "".join(_ALPHABET[(tail >> shift) & 31] for shift in range(75, -1, -5))
