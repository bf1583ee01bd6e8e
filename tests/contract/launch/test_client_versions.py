"""The launcher runs over the oldest and the newest `kubernetes` client that it says it supports: the oldest is that of
the environment, the newest is put beside it.
"""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import kubernetes
import pytest

ROOT = Path(__file__).resolve().parents[3]
NEWEST = "37.0.2"
SUITES = ("test_launcher_behaviour.py", "test_kubernetes_api.py")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def newest() -> Path:
    """A folder with the newest client alone; everything it imports is in the environment already."""
    folder = ROOT / ".tools" / f"kubernetes-{NEWEST}"
    if not (folder / "kubernetes").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--target", str(folder), f"kubernetes=={NEWEST}"], check=True, timeout=300)
    return folder


def python(newest: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(newest), *(entry for entry in sys.path if entry)])
    return subprocess.run(
        [sys.executable, *words], env={**os.environ, "PYTHONPATH": path}, cwd=ROOT, capture_output=True, text=True,
        timeout=400, check=False,
    )  # fmt: skip


def test_both_ends_of_the_range_are_the_ones_tested() -> None:
    (wanted,) = (
        requirement
        for requirement in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"][
            "kubernetes"
        ]
        if requirement.startswith("kubernetes")
    )
    oldest = kubernetes.__version__.partition(".")[0]
    assert wanted == f"kubernetes>={oldest},<{int(NEWEST.partition('.')[0]) + 1}"


def test_the_newest_client_passes_the_contract(newest: Path) -> None:
    version = python(newest, "-c", "import kubernetes; print(kubernetes.__version__)")
    assert version.stdout.strip() == NEWEST, version.stderr
    suites = [str(Path(__file__).with_name(name)) for name in SUITES]
    done = python(newest, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not process", *suites)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
