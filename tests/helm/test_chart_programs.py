"""What the chart puts into the environment is accepted by the programs themselves, every name and every value."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from marsam_generator.settings import hosted_settings

from marsam.store.settings import s3_settings
from tests.helm.rendering import CASES, Case, Object, container, environment, rendered, runs_file

EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def variables(one: Object, found: tuple[Object, ...], folder: Path) -> dict[str, str]:
    """A container's environment on this machine: its mounts below `folder`, its Secrets filled."""
    told = environment(one)
    told |= {each["name"]: "from-a-secret" for each in one["env"] if "valueFrom" in each}
    for name, value in told.items():
        for mount in one["volumeMounts"]:
            if value.startswith(f"{mount['mountPath']}/"):
                file = folder / value.lstrip("/")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(runs_file(found)) if value.endswith("/kubernetes.yaml") else "{}")
                told[name] = str(file)
    return told


@pytest.mark.slow
@pytest.mark.parametrize("component", ["dataset", "trainer", "generator"])
@EACH
def test_check_config_accepts_what_is_rendered(case: Case, component: str, tmp_path: Path) -> None:
    found = rendered(case.name)
    told = variables(container(found, component), found, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", f"marsam_{component}", "--check-config"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), **told},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert (shown["store"], shown["listen"].rpartition(":")[2]) == (told["MARSAM_STORE"], "5000")
    for name, value in told.items():
        if name.startswith("MARSAM_"):
            value = "***" if name == "MARSAM_S3_SECRET_KEY" else value
            setting = shown[name.removeprefix("MARSAM_").lower()]
            assert str(setting).lower() == value.lower() or float(setting) == float(value), name


@pytest.mark.parametrize("case", [case for case in CASES if case.name.startswith("triton")], ids=lambda case: case.name)
def test_the_engine_in_triton_accepts_what_is_rendered(case: Case, tmp_path: Path) -> None:
    found = rendered(case.name)
    told = variables(container(found, "triton"), found, tmp_path)
    settings = hosted_settings(told)
    assert (settings.store, settings.http_listen.rpartition(":")[2]) == (told["MARSAM_STORE"], "8080")
    assert settings.device == told["MARSAM_DEVICE"] and settings.queue_seconds == float(told["MARSAM_QUEUE_SECONDS"])


@EACH
def test_a_run_accepts_what_it_is_told_of_the_store(case: Case) -> None:
    file = runs_file(rendered(case.name))
    told = {name: value for name, value in file["env"].items() if not name.endswith("_FILE")}
    told |= dict.fromkeys(file["secrets"], "from-a-secret")
    settings = s3_settings(told)
    assert settings.s3_endpoint == told.get("MARSAM_S3_ENDPOINT", "")
    assert settings.s3_region == told.get("MARSAM_S3_REGION", "us-east-1")
    assert bool(settings.s3_access_key) == ("MARSAM_S3_ACCESS_KEY" in file["secrets"])
    if "MARSAM_S3_CREDENTIALS_FILE" in file["env"]:
        mounts = [volume["mountPath"] for volume in file["volumes"]]
        assert any(file["env"]["MARSAM_S3_CREDENTIALS_FILE"].startswith(f"{mount}/") for mount in mounts)


def test_an_invented_setting_is_noticed(tmp_path: Path) -> None:
    """Else the tests above would prove nothing."""
    found = rendered("minimal")
    told = variables(container(found, "dataset"), found, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "marsam_dataset", "--check-config"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), **told, "MARSAM_MAX_PIXEL": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 64
    assert "unknown setting MARSAM_MAX_PIXEL" in done.stderr
