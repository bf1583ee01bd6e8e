"""A service as a program: settings, refusals, exit codes, signals. The dataset service, the lightest, stands in."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

COMMAND = [sys.executable, "-m", "marsam_dataset"]


def environment(folder: Path, **settings: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MARSAM_")}
    return clean | {"MARSAM_STORE": str(folder / "store")} | {f"MARSAM_{k.upper()}": v for k, v in settings.items()}


def ended(folder: Path, *words: str, **settings: str) -> tuple[int, str, list[Any]]:
    done = subprocess.run(
        [*COMMAND, *words], env=environment(folder, **settings), capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout, logged(done.stderr)


def logged(text: str) -> list[Any]:
    """The lines of a log, every one of which must be JSON."""
    strange = [line for line in text.splitlines() if not line.startswith("{")]
    assert strange == []
    return [json.loads(line) for line in text.splitlines()]


def test_check_config_prints_what_is_in_force(tmp_path: Path) -> None:
    file = tmp_path / "dataset.toml"
    file.write_text('grace_seconds = 3\nlog_level = "debug"\n')
    code, out, _ = ended(tmp_path, "--config", str(file), "--check-config", grace_seconds="4")
    said = json.loads(out)
    assert code == 0
    assert (said["grace_seconds"], said["log_level"], said["store"]) == (4.0, "debug", str(tmp_path / "store"))
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("settings", "code", "reason"),
    [
        ({"grace_secnds": "3"}, 64, "SETTING_UNKNOWN"),
        ({"grace_seconds": "soon"}, 64, "SETTING_ILL_TYPED"),
        ({"listen": "5001"}, 64, "LISTEN_INVALID"),
        ({"listen": "0.0.0.0:0"}, 69, "AUTH_REQUIRED"),
        ({"store": "relative"}, 64, "STORE_URL"),
        ({"store": "/dev/null"}, 69, "STORE_NOT_A_FOLDER"),
        ({"token_file": "/nowhere/tokens.json"}, 64, "TOKEN_FILE_INVALID"),
        ({"listen": "192.0.2.1:0", "token_file": "tokens"}, 69, "LISTEN_FAILED"),
    ],
)
def test_a_refusal_is_one_line_with_its_reason(
    tmp_path: Path, settings: dict[str, str], code: int, reason: str
) -> None:
    if settings.get("token_file") == "tokens":
        (tmp_path / "tokens").write_text('{"tokens": []}')
        settings = settings | {"token_file": str(tmp_path / "tokens")}
    got, out, lines = ended(tmp_path, **settings)
    assert (got, out) == (code, "")
    refusal = lines[-1]
    assert (refusal["event"], refusal["reason"], refusal["level"]) == ("service.refused", reason, "error")
    assert refusal["message"]


def test_a_port_in_use_is_a_refusal(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, lines = ended(tmp_path, listen=f"127.0.0.1:{port}")
    assert code == 69
    assert lines[-1]["reason"] == "PORT_IN_USE"
    assert str(port) in lines[-1]["message"]
    assert "MARSAM_LISTEN" in lines[-1]["remedy"]


def begun(folder: Path, *words: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [*COMMAND, *words],
        env=environment(folder),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["event"] == "ready"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_well(tmp_path: Path, number: signal.Signals) -> None:
    process = begun(tmp_path)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "")
    events = [line["event"] for line in logged(err)]
    assert events[-3:] == ["service.ready", "service.draining", "service.stopped"]


@pytest.mark.slow
def test_the_end_of_standard_input_ends_it_only_when_asked(tmp_path: Path) -> None:
    process = begun(tmp_path, "--until-stdin-closes")
    out, err = process.communicate(timeout=30)  # closes its standard input
    assert (process.returncode, out) == (0, "")
    assert "service.stopped" in err
    other = begun(tmp_path)
    assert other.stdin is not None
    other.stdin.close()
    with pytest.raises(subprocess.TimeoutExpired):
        other.wait(timeout=1.5)
    other.stdin = None
    other.terminate()
    other.communicate(timeout=30)
    assert other.returncode == 0
