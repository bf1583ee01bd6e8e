"""compose.yaml refers to nothing that is not there, and its programs accept what it tells them. It is not run here."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("dataset", "trainer", "generator")
# In services and runs alike.
S3 = {"MARSAM_S3_ENDPOINT", "MARSAM_S3_ACCESS_KEY", "MARSAM_S3_SECRET_KEY"}


def interpolated(text: str) -> str:
    """What Compose makes of `${NAME:-default}` and `${NAME:?complaint}` when only required variables are set."""
    return re.sub(r"\$\{(\w+):?([-?])([^}]*)\}", lambda found: found[3] if found[2] == "-" else "chosen", text)


def mounts(service: dict[str, Any]) -> list[list[str]]:
    return [interpolated(volume).split(":") for volume in service.get("volumes", [])]


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_names_exists(name: str) -> None:
    service = SERVICES[name]
    for source, *_ in mounts(service):
        assert source in COMPOSE["volumes"] or (source.startswith("./deploy/") and (ROOT / source).exists()), source
    assert {*service.get("depends_on", ())} <= {*SERVICES}
    assert {*service.get("secrets", ())} <= {*COMPOSE["secrets"]}
    if "build" in service:
        assert (ROOT / service["build"]["dockerfile"]).is_file()
    image = interpolated(service["image"])
    assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+(\.\d+)?", image), f"{image} is not pinned"
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:"), f"{port} is open to other machines"


@pytest.mark.parametrize("name", OURS)
def test_our_services_are_held_as_in_the_chart(name: str) -> None:
    service = SERVICES[name]
    assert service["user"] == "10001:10001"
    assert service["read_only"] is True and service["tmpfs"] == ["/tmp"] and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert [target for _, target, *_ in mounts(service)] == ["/cache"]


@pytest.mark.parametrize("name", OURS)
def test_the_programs_accept_their_environment(name: str, tmp_path: Path) -> None:
    service = SERVICES[name]
    told = {variable: interpolated(value) for variable, value in service["environment"].items()}
    assert {variable for variable in told if variable.startswith("MARSAM_S3_")} == S3
    for variable, value in told.items():
        if value.startswith("/run/secrets/"):
            assert value.removeprefix("/run/secrets/") in service["secrets"]
            told[variable] = str(tmp_path / value.lstrip("/"))
    done = subprocess.run(
        [sys.executable, "-m", f"marsam_{name}", "--check-config"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), **told},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    for variable, value in told.items():
        if variable == "MARSAM_S3_SECRET_KEY":
            value = "***"
        setting = shown[variable.removeprefix("MARSAM_").lower()]
        assert str(setting) == value or float(setting) == float(value), variable


def test_runs_are_processes_of_an_image_that_can_train() -> None:
    trainer = SERVICES["trainer"]
    assert trainer["image"].startswith("marsam/run:")
    assert trainer["entrypoint"] == ["/venv/bin/python", "-m", "marsam_trainer"]
    # The containers of Prometheus and of the runs are not the same.
    assert trainer["environment"]["MARSAM_RUN_METRICS_HOST"] == "0.0.0.0"
    grace = float(trainer["environment"]["MARSAM_STOP_GRACE_S"])
    assert float(trainer["stop_grace_period"].removesuffix("s")) > grace


def test_the_store_is_the_one_that_the_services_call() -> None:
    environment = SERVICES["trainer"]["environment"]
    assert environment["MARSAM_S3_ENDPOINT"] == "http://store:9000"
    store = SERVICES["store"]["environment"]
    assert store["MINIO_ROOT_USER"] == environment["MARSAM_S3_ACCESS_KEY"]
    assert store["MINIO_ROOT_PASSWORD"] == environment["MARSAM_S3_SECRET_KEY"]
    script = ROOT / "deploy/compose/s3.sh"
    subprocess.run(["sh", "-n", script], check=True)
    assert ":9000" in script.read_text() and "-s3.port=9000" in script.read_text()


def test_prometheus_accepts_its_file_and_finds_every_service() -> None:
    file = ROOT / "deploy/compose/prometheus.yml"
    subprocess.run(["promtool", "check", "config", "--syntax-only", file], check=True, capture_output=True, timeout=60)
    fixed, runs = yaml.safe_load(file.read_text())["scrape_configs"]
    assert fixed["static_configs"][0]["targets"] == [f"{name}:8080" for name in OURS]
    assert runs["http_sd_configs"][0]["url"] == "http://trainer:8080/sd/runs"


def test_grafana_finds_the_boards_where_they_are_mounted() -> None:
    folder = ROOT / "deploy/compose/grafana"
    targets = {target: source for source, target, *_ in mounts(SERVICES["grafana"])}
    (provider,) = yaml.safe_load((folder / "dashboards.yaml").read_text())["providers"]
    assert targets[provider["options"]["path"]] == "./deploy/helm/marsam/dashboards"
    (source,) = yaml.safe_load((folder / "datasources.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
