"""A copy of the cluster's objects of one kind, kept fresh: list, then watch; list again when the watch cannot go on."""

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from marsam.core.errors import Expired, MarsamError, Unavailable
from marsam.launch.kubernetes.cluster import Cluster, Kind, Object, Stream

_log = logging.getLogger(__name__)

WATCH_S = 240
"""A watch is asked to end after so long; what is broken without a word is noticed then."""

RECONCILE_S = 300.0
"""Everything is listed again after so long, however well the watch seems to do."""

_KEPT_S = 3600.0
_PAUSES_S = (0.2, 1.0, 2.0, 5.0, 10.0, 20.0)


class Mirror:
    """Objects by name as of a moment ago, on a thread of its own from `start` to `close`.

    `changed` is called from that thread after each change. Objects that were deleted stay for an hour: their last state
    is what they died of. An absence in here proves nothing; ask the server before you conclude from it.
    """

    def __init__(
        self,
        cluster: Cluster,
        kind: Kind,
        selector: str,
        changed: Callable[[], None],
        *,
        watch_s: int = WATCH_S,
        reconcile_s: float = RECONCILE_S,
    ) -> None:
        self._cluster = cluster
        self._kind: Kind = kind
        self._selector = selector
        self._changed = changed
        self._watch_s = watch_s
        self._reconcile_s = reconcile_s
        self._objects: dict[str, Object] = {}
        self._deleted: dict[str, tuple[float, Object]] = {}
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._stream: Stream | None = None
        self._thread = threading.Thread(target=self._work, name=f"mirror {kind}", daemon=True)
        self.fresh = threading.Event()
        self.relists = 0

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the thread is there."""
        return self._thread.is_alive()

    async def close(self) -> None:
        """End the watch and wait for the thread."""
        self._ending.set()
        with self._lock:
            if self._stream is not None:
                self._stream.close()
        await asyncio.to_thread(self._thread.join, 30.0)

    def get(self, name: str) -> Object | None:
        """The live object of that name, as last seen."""
        with self._lock:
            return self._objects.get(name)

    def labelled(self, label: str, value: str) -> list[Object]:
        """Live objects first, then deleted ones, each newest first, that carry a label."""
        with self._lock:
            live = [thing for thing in self._objects.values() if _label(thing, label) == value]
            deleted = [thing for _, thing in self._deleted.values() if _label(thing, label) == value]
        return sorted(live, key=_age, reverse=True) + sorted(deleted, key=_age, reverse=True)

    def put(self, thing: Object) -> None:
        """Take in an object that a call returned."""
        with self._lock:
            self._store(thing)

    def _work(self) -> None:
        failures = 0
        while not self._ending.is_set():
            try:
                self._round()
                failures = 0
            except MarsamError as error:
                level = logging.INFO if isinstance(error, Expired) else logging.WARNING
                _log.log(level, "kubernetes %s: %s", self._kind, error)
                pause = _PAUSES_S[min(failures, len(_PAUSES_S) - 1)] * random.uniform(0.8, 1.2)
                failures += 0 if isinstance(error, Expired) else 1
                self._ending.wait(pause)
            except Exception:  # a fault of ours in one object must not end the watching of all
                _log.exception("kubernetes %s", self._kind)
                self._ending.wait(5.0)

    def _round(self) -> None:
        """List, then watch until it is time to list again or the watch breaks."""
        things, version = self._cluster.snapshot(self._kind, self._selector)
        self.relists += 1
        self._replace(things)
        due = time.monotonic() + self._reconcile_s
        while not self._ending.is_set() and time.monotonic() < due:
            version = self._watch(version)

    def _watch(self, version: str) -> str:
        """Follow one watch to its end and return the version to go on from. Raises Expired, Unavailable."""
        seconds = max(1, min(self._watch_s, int(self._reconcile_s)))
        began = time.monotonic()
        stream = self._cluster.watch(self._kind, self._selector, version, seconds=seconds)
        with self._lock:
            self._stream = stream
            if self._ending.is_set():
                stream.close()
        try:
            for event in stream:
                version = self._take(event, version)
        except (MarsamError, KeyError):
            raise
        except Exception as error:  # whatever a broken connection raises, of whichever layer
            if not self._ending.is_set():
                raise Unavailable(f"the watch broke: {error}", reason="WATCH_BROKEN") from error
        finally:
            with self._lock:
                self._stream = None
            stream.release()
        if time.monotonic() - began < 0.5:  # a server that ends every watch at once is not asked in a tight loop
            self._ending.wait(0.5)
        return version

    def _take(self, event: dict[str, Any], version: str) -> str:
        thing = event["object"]
        if event["type"] == "ERROR":
            if thing.get("code") == 410:
                raise Expired(str(thing.get("message", "")), reason="WATCH_EXPIRED")
            raise Unavailable(f"the watch said: {thing.get('message', '')}", reason="WATCH_BROKEN")
        if event["type"] != "BOOKMARK":
            with self._lock:
                if event["type"] == "DELETED":
                    self._objects.pop(thing["metadata"]["name"], None)
                    self._deleted[thing["metadata"]["name"]] = (time.monotonic(), thing)
                else:
                    self._store(thing)
            self._changed()
        return str(thing["metadata"]["resourceVersion"])

    def _store(self, thing: Object) -> None:
        """Keep the newer of two states; versions of one object are numbers that grow."""
        name = thing["metadata"]["name"]
        old = self._objects.get(name)
        if old is not None and old["metadata"].get("uid") == thing["metadata"].get("uid"):
            with contextlib.suppress(ValueError, KeyError):
                if int(old["metadata"]["resourceVersion"]) > int(thing["metadata"]["resourceVersion"]):
                    return
        self._objects[name] = thing

    def _replace(self, things: list[Object]) -> None:
        now = time.monotonic()
        with self._lock:
            before, self._objects = self._objects, {thing["metadata"]["name"]: thing for thing in things}
            deleted = {name: (now, thing) for name, thing in before.items() if name not in self._objects}
            self._deleted = {n: kept for n, kept in self._deleted.items() if now - kept[0] < _KEPT_S} | deleted
        self.fresh.set()
        self._changed()


def _label(thing: Object, label: str) -> str | None:
    value = thing["metadata"].get("labels", {}).get(label)
    return None if value is None else str(value)


def _age(thing: Object) -> str:
    return str(thing["metadata"].get("creationTimestamp", ""))
