"""What the chart puts into the environment is accepted by the programs themselves, every name and every value."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helm.rendering import CASES, Case, Object, container, environment, rendered, runs_file

EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def variables(one: Object, found: tuple[Object, ...], folder: Path) -> dict[str, str]:
    """A container's environment on this machine: its mounts below `folder`, its Secrets filled."""
    told = environment(one)
    told |= {each["name"]: "from-a-secret" for each in one["env"] if "valueFrom" in each}
    told = {name: value for name, value in told.items() if not name.startswith("MARSAM_S3_")}
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
        if name.startswith("MARSAM_") and "KEY" not in name:
            setting = shown[name.removeprefix("MARSAM_").lower()]
            assert str(setting).lower() == value.lower() or float(setting) == float(value), name


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
