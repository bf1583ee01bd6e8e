"""The program by itself: what it imports, what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MARSAM_")}
    return subprocess.run(
        [sys.executable, *arguments], env={**kept, **env}, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_service_never_imports_the_numerical_stack() -> None:
    code = (
        "import sys, marsam_dataset.__main__\n"
        "print([m for m in ('torch', 'diffusers', 'transformers', 'marsam.diffusion') if m in sys.modules])"
    )
    assert run("-c", code).stdout.strip() == "[]"


def test_settings_are_checked_before_anything_starts(tmp_path: Path) -> None:
    shown = run("-m", "marsam_dataset", "--check-config", MARSAM_STORE=str(tmp_path))
    assert json.loads(shown.stdout)["store"] == str(tmp_path)
    for env, reason in [
        ({}, "SETTING_MISSING"),
        ({"MARSAM_STORE": str(tmp_path), "MARSAM_DECODE_WORKER": "2"}, "SETTING_UNKNOWN"),
        ({"MARSAM_STORE": str(tmp_path), "MARSAM_DECODE_WORKERS": "-1"}, "INVALID_ARGUMENT"),
        ({"MARSAM_STORE": "relative/path"}, "STORE_URL"),
    ]:
        refused = run("-m", "marsam_dataset", **env)
        assert refused.returncode == 64
        line = json.loads(refused.stderr.splitlines()[-1])
        assert (line["event"], line["reason"]) == ("service.refused", reason)
        assert "Traceback" not in refused.stderr
