"""The objects of the fake API server: versions, history, watches. Answers as a real kube-apiserver does."""

import copy
import random
import string
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

Object = dict[str, Any]


class Refusal(Exception):
    """An error status of the API."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message

    def status(self) -> Object:
        return {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        }  # fmt: skip


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def merge(target: Object, patch: Mapping[str, Any]) -> Object:
    """RFC 7386."""
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        elif isinstance(value, Mapping):
            under = target.get(name)
            target[name] = merge(under if isinstance(under, dict) else {}, value)
        else:
            target[name] = copy.deepcopy(value)
    return target


class Objects:
    """Every object by (resource, name), one namespace; one counter of versions for all of them."""

    def __init__(self, *, history: int = 1000) -> None:
        self._objects: dict[tuple[str, str], Object] = {}
        self._history: deque[tuple[int, str, str, Object]] = deque(maxlen=history)
        self._forgotten = 0
        self._version = 1
        self.changed = threading.Condition(threading.RLock())

    @property
    def version(self) -> int:
        return self._version

    def create(self, resource: str, thing: Object) -> Object:
        with self.changed:
            thing = copy.deepcopy(thing)
            meta = thing["metadata"]
            if not meta.get("name") and meta.get("generateName"):
                meta["name"] = meta["generateName"] + "".join(random.choices(string.ascii_lowercase, k=5))
            if (resource, meta["name"]) in self._objects:
                raise Refusal(409, "AlreadyExists", f'{resource} "{meta["name"]}" already exists')
            meta |= {"uid": str(uuid.uuid4()), "creationTimestamp": now()}
            return self._write("ADDED", resource, thing)

    def get(self, resource: str, name: str) -> Object:
        with self.changed:
            if (resource, name) not in self._objects:
                raise Refusal(404, "NotFound", f'{resource} "{name}" not found')
            return copy.deepcopy(self._objects[resource, name])

    def all(self, resource: str) -> list[Object]:
        with self.changed:
            return [copy.deepcopy(o) for (kind, _), o in sorted(self._objects.items()) if kind == resource]

    def update(self, resource: str, name: str, change: Callable[[Object], None]) -> Object:
        """Change an object in place; one that is being deleted goes with its last finalizer."""
        with self.changed:
            thing = self.get(resource, name)
            before = copy.deepcopy(thing)
            change(thing)
            if thing == before:
                return thing
            if thing["metadata"].get("deletionTimestamp") and self._free(thing):
                return self._drop(resource, thing)
            return self._write("MODIFIED", resource, thing)

    def delete(self, resource: str, name: str, *, grace: int = 0) -> Object:
        """Delete now, or mark for deletion where there is a grace period or a finalizer."""
        with self.changed:
            thing = self.get(resource, name)
            meta = thing["metadata"]
            if grace and meta.get("deletionTimestamp"):
                return thing
            if not grace and not meta.get("finalizers"):
                return self._drop(resource, thing)
            meta |= {"deletionTimestamp": now(), "deletionGracePeriodSeconds": grace}
            return self._write("MODIFIED", resource, thing)

    def watch(self, resource: str, version: int, deadline: float) -> Iterator[tuple[str, Object] | None]:
        """Changes after `version`; None now and then, so that the caller can look after its connection."""
        while True:
            with self.changed:
                if version < self._forgotten:
                    raise Refusal(410, "Expired", f"too old resource version: {version} ({self._version})")
                news = [entry for entry in self._history if entry[0] > version]
                version = self._version
                if not news:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        return
                    self.changed.wait(min(left, 0.2))
            for _, event, kind, thing in news:
                if kind == resource:
                    yield event, thing
            if not news:
                yield None

    def expire(self) -> None:
        """Forget the whole history, as after a restart of the server."""
        with self.changed:
            self._version += 100
            self._forgotten = self._version
            self._history.clear()
            self.changed.notify_all()

    def _free(self, thing: Object) -> bool:
        meta = thing["metadata"]
        return not meta.get("finalizers") and not meta.get("deletionGracePeriodSeconds")

    def _write(self, event: str, resource: str, thing: Object) -> Object:
        self._version += 1
        thing["metadata"]["resourceVersion"] = str(self._version)
        self._objects[resource, thing["metadata"]["name"]] = thing
        self._note(event, resource, thing)
        return copy.deepcopy(thing)

    def _drop(self, resource: str, thing: Object) -> Object:
        self._version += 1
        thing["metadata"]["resourceVersion"] = str(self._version)
        del self._objects[resource, thing["metadata"]["name"]]
        self._note("DELETED", resource, thing)
        return thing

    def _note(self, event: str, resource: str, thing: Object) -> None:
        if len(self._history) == self._history.maxlen:
            self._forgotten = self._history[0][0]
        self._history.append((self._version, event, resource, copy.deepcopy(thing)))
        self.changed.notify_all()
