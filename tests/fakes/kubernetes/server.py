"""The fake API server itself: a small real HTTP server over `Objects`, for what Marsam asks of Kubernetes."""

import io
import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.fakes.kubernetes import rules
from tests.fakes.kubernetes.store import Object, Objects, Refusal, merge

_PATH = re.compile(
    r"/(?:api/v1|apis/(?P<group>[a-z0-9.]+)/v1)"
    r"(?:/namespaces/(?P<namespace>[a-z0-9-]+))?/(?P<resource>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[a-z]+))?"
)
_KINDS = {"jobs": "Job", "pods": "Pod", "events": "Event", "nodes": "Node"}
_GROUPS = {"jobs": "batch", "pods": "", "events": "", "nodes": ""}

Rules = Sequence[Mapping[str, Any]]
Trouble = Callable[["Handler"], bool]
"""Does something bad to one request; False lets it pass as if nothing was."""


class Server(ThreadingHTTPServer):
    """Listens on a free loopback port. `accounts` are tokens and what their Role grants; None grants all."""

    daemon_threads = True

    def __init__(self, objects: Objects, namespace: str, accounts: Mapping[str, Rules | None]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects = objects
        self.namespace = namespace
        self.accounts = dict(accounts)
        self.logs: Callable[[str], bytes | None] = lambda pod: None
        self.quota: Callable[[Object], str | None] = lambda job: None
        self.seen: list[tuple[str, str, str]] = []
        self.ending = threading.Event()
        self._troubles: list[tuple[str, re.Pattern[str], Trouble, int]] = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.ending.set()
        self.shutdown()
        self._thread.join(10)
        self.server_close()

    def trouble(self, method: str, path: str, what: Trouble, *, times: int = 1) -> None:
        """Let `what` happen to the next requests whose method and path (with query) match."""
        with self._lock:
            self._troubles.append((method, re.compile(path), what, times))

    def calm(self) -> None:
        """No more troubles."""
        with self._lock:
            self._troubles.clear()

    def take_trouble(self, method: str, path: str) -> Trouble | None:
        with self._lock:
            for index, (verb, pattern, what, times) in enumerate(self._troubles):
                if verb == method and pattern.search(path):
                    self._troubles[index : index + 1] = [(verb, pattern, what, times - 1)] if times > 1 else []
                    return what
        return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Callers that hang up are part of the game."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        """Tests look at `Server.seen` instead."""

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = json.loads(self.rfile.read(length)) if length else {}
        split = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(split.query).items()}
        self.server.seen.append((self.command, split.path, split.query))
        trouble = self.server.take_trouble(self.command, self.path)
        try:
            if trouble is not None and trouble(self):
                return
            self._route(split.path)
        except Refusal as refusal:
            self.answer(refusal.code, refusal.status())

    def _route(self, path: str) -> None:
        match = _PATH.fullmatch(path)
        if match is None or match["resource"] not in _KINDS or (match["group"] or "") != _GROUPS[match["resource"]]:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        resource, name, sub = match["resource"], match["name"], match["sub"]
        self._authorise(resource, name, sub)
        if match["namespace"] not in (None, self.server.namespace):
            if self.command == "POST":
                raise Refusal(404, "NotFound", f'namespaces "{match["namespace"]}" not found')
            raise Refusal(404, "NotFound", f'{resource} "{name}" not found') if name else Refusal(404, "NotFound", "")
        getattr(self, f"_{self.command.lower()}")(resource, name, sub)

    def _authorise(self, resource: str, name: str | None, sub: str | None) -> None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in self.server.accounts:
            raise Refusal(401, "Unauthorized", "Unauthorized")
        verb = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}.get(self.command)
        if verb is None:
            verb = "get" if name else "watch" if self.query.get("watch", "").lower() == "true" else "list"
        granted, what = self.server.accounts[token], f"{resource}/{sub}" if sub else resource
        if granted is not None and not rules.allowed(granted, verb=verb, group=_GROUPS[resource], resource=what):
            raise Refusal(
                403, "Forbidden",
                f'{resource} is forbidden: User "system:serviceaccount:{self.server.namespace}:{token}" cannot {verb} '
                f'resource "{what}" in API group "{_GROUPS[resource]}" in the namespace "{self.server.namespace}"',
            )  # fmt: skip

    def _get(self, resource: str, name: str | None, sub: str | None) -> None:
        if sub == "log" and name:
            self.server.objects.get(resource, name)
            text = self.server.logs(name)
            if text is None:
                raise Refusal(400, "BadRequest", f'container "run" in pod "{name}" is waiting to start')
            lines = text.splitlines(keepends=True)[-int(self.query.get("tailLines", 1 << 30)) :]
            self.send(200, b"".join(lines)[: int(self.query.get("limitBytes", 1 << 30))], "text/plain")
        elif name:
            self.answer(200, self.server.objects.get(resource, name))
        elif self.query.get("watch", "").lower() == "true":
            self._watch(resource)
        else:
            with self.server.objects.changed:
                items = [thing for thing in self.server.objects.all(resource) if self._wanted(thing)]
                version = str(self.server.objects.version)
            group = _GROUPS[resource]
            self.answer(200, {
                "kind": f"{_KINDS[resource]}List", "apiVersion": f"{group}/v1" if group else "v1",
                "metadata": {"resourceVersion": version}, "items": items,
            })  # fmt: skip

    def _wanted(self, thing: Object) -> bool:
        labels = rules.label_matcher(self.query.get("labelSelector", ""))
        return labels(thing) and rules.field_matcher(self.query.get("fieldSelector", ""))(thing)

    def _watch(self, resource: str) -> None:
        version = int(self.query.get("resourceVersion") or self.server.objects.version)
        deadline = time.monotonic() + float(self.query.get("timeoutSeconds", 1800))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for change in self.server.objects.watch(resource, version, deadline):
                if self.server.ending.is_set():
                    self.close_connection = True
                    return
                if change is not None and self._wanted(change[1]):
                    self.chunk({"type": change[0], "object": change[1]})
            if self.query.get("allowWatchBookmarks", "").lower() == "true":
                at = {"resourceVersion": str(self.server.objects.version), "name": "", "creationTimestamp": None}
                self.chunk({"type": "BOOKMARK", "object": {"kind": _KINDS[resource], "metadata": at}})
        except Refusal as refusal:
            self.chunk({"type": "ERROR", "object": refusal.status()})
        self.wfile.write(b"0\r\n\r\n")

    def _post(self, resource: str, name: str | None, sub: str | None) -> None:
        thing = self.body
        if resource == "jobs":
            if self.query.get("fieldValidation") == "Strict":
                rules.check_strictly(thing)
            rules.check_job(thing)
            if (refusal := self.server.quota(thing)) is not None:
                said = f'jobs.batch "{thing["metadata"]["name"]}" is forbidden: {refusal}'
                raise Refusal(403, "Forbidden", said)
            thing["status"] = {}
        if self.query.get("dryRun") == "All":
            self.answer(201, thing)
            return
        made = self.server.objects.create(resource, thing)
        # A Job whose pods will be refused is taken all the same, with a warning in a header.
        warning = rules.restricted(thing["spec"]["template"]["spec"]) if resource == "jobs" else None
        self.answer(201, made, warning=f"would {warning}" if warning else None)

    def _put(self, resource: str, name: str, sub: str | None) -> None:
        version = self.body["metadata"].get("resourceVersion")

        def change(thing: Object) -> None:
            if version and version != thing["metadata"]["resourceVersion"]:
                said = f'Operation cannot be fulfilled on {resource} "{name}": the object has been modified'
                raise Refusal(409, "Conflict", said)
            if resource == "jobs":
                rules.check_change(thing, self.body)
            thing["spec"] = self.body["spec"]

        self.answer(200, self.server.objects.update(resource, name, change))

    def _patch(self, resource: str, name: str, sub: str | None) -> None:
        if self.headers.get("Content-Type") != "application/merge-patch+json":
            raise Refusal(415, "UnsupportedMediaType", "the fake knows merge patches only")

        def change(thing: Object) -> None:
            patch = {key: value for key, value in self.body.items() if (key == "status") == (sub == "status")}
            after = merge(json.loads(json.dumps(thing)), patch)
            if resource == "jobs":
                rules.check_change(thing, after)
                rules.check_job(after)
            thing.update(after)

        self.answer(200, self.server.objects.update(resource, name, change))

    def _delete(self, resource: str, name: str, sub: str | None) -> None:
        if resource == "pods":
            pod = self.server.objects.get(resource, name)
            default = pod["spec"].get("terminationGracePeriodSeconds", 30) if pod["spec"].get("nodeName") else 0
            grace = int(self.body.get("gracePeriodSeconds", default))
            self.answer(200, self.server.objects.delete(resource, name, grace=grace))
            return
        self.server.objects.delete(resource, name)
        self.answer(200, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})

    def chunk(self, event: Object) -> None:
        line = json.dumps(event).encode() + b"\n"
        self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        self.wfile.flush()

    def answer(self, code: int, thing: Object, *, warning: str | None = None) -> None:
        self.send(code, json.dumps(thing).encode(), "application/json", warning=warning)

    def send(self, code: int, data: bytes, kind: str, *, warning: str | None = None) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        if warning:
            quoted = warning.replace('"', '\\"')
            self.send_header("Warning", f'299 - "{quoted}"')
        self.end_headers()
        self.wfile.write(data)


def hang_up(handler: Handler) -> bool:
    """The connection breaks before anything was done."""
    handler.close_connection = True
    return True


def swallow(handler: Handler) -> bool:
    """The request is carried out and its answer lost."""
    handler.wfile = io.BytesIO()
    handler._route(urlsplit(handler.path).path)
    handler.close_connection = True
    return True


def fail(code: int, reason: str, message: str) -> Trouble:
    """The server answers with an error."""

    def trouble(handler: Handler) -> bool:
        raise Refusal(code, reason, message)

    return trouble
