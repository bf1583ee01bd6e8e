"""A real Prometheus, a real Alertmanager and somebody who is told of alerts, on loopback."""

import contextlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import yaml

ALERTS = Path(__file__).parents[3] / "deploy/helm/marsam/alerts"
PATIENCE_S = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, kw_only=True)
class Prometheus:
    """A running server, asked over HTTP."""

    url: str

    def ask(self, path: str, **parameters: str) -> Any:
        """The `data` of an answer; what the server refuses fails the test with its words."""
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30)
        assert answer.status_code == 200, f"{parameters}: {answer.text}"
        return answer.json()["data"]

    def wait_until(self, expr: str) -> None:
        """Return when an expression has an answer."""
        deadline = time.monotonic() + PATIENCE_S
        while not self.at(expr, time.time()):
            assert time.monotonic() < deadline, f"never: {expr}"
            time.sleep(0.2)

    def at(self, expr: str, when: float) -> list[dict[str, Any]]:
        return list(self.ask("query", query=expr, time=str(when))["result"])

    def over(self, expr: str, began: float, ended: float, step: float = 1.0) -> list[dict[str, Any]]:
        parameters = {"query": expr, "start": str(began), "end": str(ended), "step": str(step)}
        return list(self.ask("query_range", **parameters)["result"])


@dataclass(kw_only=True)
class Told:
    """The alerts that came, newest last."""

    url: str
    alerts: list[dict[str, Any]] = field(default_factory=list)

    def wait_for(self, name: str) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for alert in list(self.alerts):
                if alert["labels"]["alertname"] == name:
                    return alert
            time.sleep(0.1)
        raise AssertionError(f"{name} did not come; {[alert['labels'] for alert in self.alerts]} did")


@contextlib.contextmanager
def listening() -> Iterator[Told]:
    """Whoever the Alertmanager tells."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            told.alerts.extend(json.loads(body)["alerts"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told = Told(url=f"http://127.0.0.1:{server.server_address[1]}/")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield told
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


@contextlib.contextmanager
def alertmanager(folder: Path, told: Told) -> Iterator[str]:
    """Gives its host:port."""
    config = {
        "route": {"receiver": "test", "group_by": ["alertname"], "group_wait": "0s", "group_interval": "1s"},
        "receivers": [{"name": "test", "webhook_configs": [{"url": told.url}]}],
    }
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    command = [
        "prometheus-alertmanager",
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'alertmanager'}",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
    ]
    with _running(command, folder / "alertmanager.log", f"http://{address}/-/ready"):
        yield address


@contextlib.contextmanager
def prometheus(
    folder: Path, *, services: Mapping[str, str], runs: Sequence[str], alerts_to: str
) -> Iterator[Prometheus]:
    """Scrapes `services` (name → http://host:port) and what the trainers of `runs` (the same) list, every second."""
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS / "*.yaml")],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alerts_to]}]}]},
        "scrape_configs": [
            {
                "job_name": "marsam",
                "static_configs": [{"targets": [url.removeprefix("http://") for url in services.values()]}],
            },
            {
                "job_name": "marsam-runs",
                "http_sd_configs": [{"url": f"{url}/sd/runs", "refresh_interval": "1s"} for url in runs],
            },
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
    ]
    with _running(command, folder / "prometheus.log", f"http://{address}/-/ready"):
        yield Prometheus(url=f"http://{address}")


@contextlib.contextmanager
def _running(command: list[str], log: Path, ready: str) -> Iterator[None]:
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            assert process.poll() is None, log.read_text()
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(ready, timeout=5).status_code == 200:
                    break
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(20)
