"""The few calls that are made to a cluster, over the official client: plain dicts in and out, our own errors.

Blocking: called from threads. The client's typed models are not used, because they change between its major versions
and drop or refuse fields that the server knows.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config import incluster_config
from kubernetes.config.config_exception import ConfigException

from marsam.core.errors import (
    Denied,
    Exhausted,
    Exists,
    Expired,
    Invalid,
    MarsamError,
    Missing,
    OutcomeUnknown,
    Unavailable,
)
from marsam.launch.kubernetes.reasons import UNSETTLED
from marsam.store.threads import THREADS

Kind = Literal["jobs", "pods"]
Object = dict[str, Any]

_CONNECT_S = 5.0
_READ_S = 20.0
_LOG_LINES = 2000
_LOG_BYTES = 1 << 20
_UNREACHABLE = "KUBERNETES_UNREACHABLE"

_DENIAL = re.compile(r"denied (the )?request")
"""What the server says for a webhook, and for a policy of its own; the status is whatever that one chose."""

_NO_RIGHT = 'is forbidden: User "'
"""What it says for whoever has no right to the call; any other `is forbidden` is about the object."""


class Stream:
    """An open watch. `close` may be called from another thread and ends the iteration."""

    def __init__(self, response: urllib3.HTTPResponse) -> None:
        self._response = response

    def __iter__(self) -> Iterator[Object]:
        rest = b""
        for part in self._response.stream(amt=None, decode_content=True):
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                if line.strip():
                    yield json.loads(line)

    def close(self) -> None:
        """End the watch, now."""
        with contextlib.suppress(Exception):  # it may have ended by itself a moment ago
            self._response.shutdown()

    def release(self) -> None:
        """Give the connection back; only by the thread that reads."""
        with contextlib.suppress(Exception):
            self._response.close()


class Cluster:
    """Jobs, pods, events and logs of one namespace."""

    def __init__(self, settings: client.Configuration, namespace: str) -> None:
        settings.retries = False  # whether a call is made again is ours to decide
        settings.connection_pool_maxsize = THREADS + 2  # each thread that may call, and a watch of each kind
        self.api = client.ApiClient(settings)
        self._jobs = client.CustomObjectsApi(self.api)
        self._core = client.CoreV1Api(self.api)
        self.namespace = namespace

    def create_job(self, manifest: Mapping[str, Any]) -> Object:
        """Create a Job, every field of which the server must know.

        Raises Exists (JOB_EXISTS), Invalid (JOB_INVALID), Exhausted (QUOTA_EXCEEDED), Denied (KUBERNETES_DENIED,
        ADMISSION_REFUSED), Unavailable (KUBERNETES_UNAUTHENTICATED), OutcomeUnknown.
        """
        try:
            create = self._jobs.create_namespaced_custom_object
            return self._one(create, body=dict(manifest), field_validation="Strict", **self._job())
        except Unavailable as error:
            if error.reason != _UNREACHABLE:  # it did answer: nothing was made
                raise
            raise OutcomeUnknown(error.message) from error

    def get_job(self, name: str) -> Object | None:
        """Return a Job, None when there is none."""
        try:
            return self._one(self._jobs.get_namespaced_custom_object, name=name, **self._job())
        except Missing:
            return None

    def patch_job(self, name: str, change: Mapping[str, Any]) -> Object:
        """Merge `change` into a Job. Raises Missing."""
        return self._one(self._jobs.patch_namespaced_custom_object, name=name, body=dict(change), **self._job())

    def delete_job(self, name: str) -> None:
        """Delete a Job; its pods go after it. One that is not there is as good."""
        with contextlib.suppress(Missing):
            self._one(
                self._jobs.delete_namespaced_custom_object,
                name=name,
                body={"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"},
                **self._job(),
            )

    def snapshot(self, kind: Kind, selector: str) -> tuple[list[Object], str]:
        """Return all objects of a kind, and the resource version to watch from."""
        answer = self._one(self._lister(kind), label_selector=selector)
        return list(answer["items"]), str(answer["metadata"]["resourceVersion"])

    def watch(self, kind: Kind, selector: str, version: str, *, seconds: int) -> Stream:
        """Open a watch of at most so many seconds. Raises Expired when `version` is too old."""
        response = self._call(
            self._lister(kind),
            label_selector=selector,
            resource_version=version,
            allow_watch_bookmarks=True,
            timeout_seconds=seconds,
            watch=True,
            _request_timeout=(_CONNECT_S, seconds + _READ_S),
        )
        return Stream(response)

    def events(self, uid: str) -> list[Object]:
        """Return what was reported of one object, oldest first."""
        found = self._one(
            self._core.list_namespaced_event, namespace=self.namespace, field_selector=f"involvedObject.uid={uid}"
        )
        return sorted(found["items"], key=_when)

    def log(self, pod: str, container: str) -> bytes:
        """Return the end of a container's output. Raises Missing when the pod is gone."""
        response = self._call(
            self._core.read_namespaced_pod_log,
            name=pod,
            namespace=self.namespace,
            container=container,
            tail_lines=_LOG_LINES,
            limit_bytes=_LOG_BYTES,
        )
        return bytes(response.data)

    def _job(self) -> dict[str, str]:
        return {"group": "batch", "version": "v1", "namespace": self.namespace, "plural": "jobs"}

    def _lister(self, kind: Kind) -> Any:
        if kind == "jobs":
            return lambda **how: self._jobs.list_namespaced_custom_object(**self._job(), **how)
        return lambda **how: self._core.list_namespaced_pod(namespace=self.namespace, **how)

    def _one(self, call: Any, **how: Any) -> Object:
        return dict(json.loads(self._call(call, **how).data))

    def _call(self, call: Any, **how: Any) -> urllib3.HTTPResponse:
        how.setdefault("_request_timeout", (_CONNECT_S, _READ_S))
        try:
            return call(_preload_content=False, **how)
        except ApiException as error:
            raise stated(error.status or 0, str(error.reason or ""), error.body) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unavailable(f"the Kubernetes API does not answer: {error}", reason=_UNREACHABLE) from error


def connect(namespace: str, kubeconfig: Path | None = None) -> Cluster:
    """Return the cluster of `kubeconfig`, or else the one this program runs in, or else that of KUBECONFIG.

    Raises Invalid (KUBERNETES_CONFIG) when there is none.
    """
    settings = client.Configuration()
    inside = "KUBERNETES_SERVICE_HOST" in os.environ and Path(incluster_config.SERVICE_TOKEN_FILENAME).exists()
    try:
        if inside and kubeconfig is None:
            config.load_incluster_config(client_configuration=settings)
        else:
            file = str(kubeconfig) if kubeconfig is not None else None
            config.load_kube_config(config_file=file, client_configuration=settings)
    except (ConfigException, OSError) as error:
        raise Invalid(
            f"no way to reach a Kubernetes cluster: {error}",
            reason="KUBERNETES_CONFIG",
            remedy="run inside of one, or set KUBECONFIG",
        ) from error
    return Cluster(settings, namespace)


def stated(status: int, words: str, body: str | bytes | None) -> MarsamError:
    """Return what the server's refusal means, in our terms."""
    said, why = words, ""
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        told = json.loads(body or b"")
        said, why = str(told.get("message") or words), str(told.get("reason") or "")
    message = f"Kubernetes refused: {said}"
    if 400 <= status < 500 and status != 429 and _DENIAL.search(said):
        return _unwanted(message)
    match status:
        case 401:  # a token is being rotated, or was never good: neither says anything about what was asked
            remedy = "check the service account"
            return Unavailable(message, reason="KUBERNETES_UNAUTHENTICATED", remedy=remedy)
        case 403 if "exceeded quota" in said:
            return Exhausted(message, reason="QUOTA_EXCEEDED", remedy="raise the quota, then resume the run")
        case 403 if any(words in said for words in UNSETTLED):
            return Unavailable(message, reason="KUBERNETES_UNSETTLED")
        case 403 if "is forbidden: " in said and _NO_RIGHT not in said:
            return _unwanted(message)
        case 403:
            return Denied(message, reason="KUBERNETES_DENIED", remedy="give the trainer's account the chart's Role")
        case 404:
            return Missing(message, reason="KUBERNETES_NOT_FOUND", remedy="does the namespace exist?")
        case 409 if why == "AlreadyExists":
            return Exists(message, reason="JOB_EXISTS")
        case 410:
            return Expired(message, reason="WATCH_EXPIRED")
        case 400 | 422:
            return Invalid(message, reason="JOB_INVALID", remedy="correct the profile in MARSAM_KUBERNETES_FILE")
        case _:
            return Unavailable(f"the Kubernetes API answered {status}: {said}", reason=_UNREACHABLE)


def _unwanted(message: str) -> Denied:
    """The refusal of a policy, which has no quarrel with who asks but with what is asked."""
    remedy = "the namespace's policies must allow the Job that the profile describes"
    return Denied(message, reason="ADMISSION_REFUSED", remedy=remedy)


def _when(event: Object) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or "")
