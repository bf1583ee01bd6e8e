"""Callers that are none of ours, as docs/api.md shows them: grpcurl and JavaScript, over TLS and with tokens."""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import PIL.Image
import pytest

from marsam.core.tokens import Principal, add_token, entry_of, new_token
from scripts import protos
from scripts.tools import GRPCURL
from tests.integration.cli.support import MARSAM, gone, write_walls
from tests.integration.rpc.certificates import Authority

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]
SERVICES = ("dataset", "trainer", "generator")


def commands(heading: str) -> str:
    """The shell lines below a heading of docs/api.md."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", (ROOT / "docs/api.md").read_text("utf-8"), re.M | re.S)
    return "\n".join(re.findall(r"^```sh\n(.*?)^```", section, re.M | re.S))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout's dist and examples, six pictures, and a base of 0.2 million parameters."""
    made = tmp_path_factory.mktemp("callers")
    protos.publish(made / "dist" / "protos")
    source = ROOT / "examples" / "clients" / "javascript"
    shutil.copytree(source, made / "examples/clients/javascript", ignore=shutil.ignore_patterns("node_modules"))
    write_walls(made)
    (made / "bin").mkdir()
    (made / "bin" / "grpcurl").symlink_to(GRPCURL)
    return made


def clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("MARSAM_")}


@pytest.fixture(scope="module")
def environment(folder: Path) -> Iterator[Mapping[str, str]]:
    """The three services with certificate and tokens, and what a caller's environment says of them."""
    authority = Authority(folder / "tls")
    own = authority.sign("service")
    token = new_token()
    add_token(folder / "tokens.json", entry_of(Principal(name="maker", projects=frozenset({"default"})), token))
    home = folder / ".marsam"
    home.mkdir()
    for service in SERVICES:
        (home / f"{service}.toml").write_text(
            f'token_file = "{folder / "tokens.json"}"\n'
            f'tls_cert_file = "{own.certificate}"\ntls_key_file = "{own.key}"\n'
        )
    known = {
        **clean(),
        "OMP_NUM_THREADS": "1",
        "MARSAM_TOKEN": token,
        "MARSAM_TLS_CA_FILE": str(authority.certificate),
        "MARSAM_ENDPOINTS": str(home / "endpoints.json"),
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
    }
    process = subprocess.Popen(
        [*MARSAM, "up", "--json"], cwd=folder, env=known, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert ready["event"] == "ready"
        run([*MARSAM, "models", "import", "base", "tiny", "--licence", "Apache-2.0"], folder, known)
        addresses = {service.upper(): ready[service]["grpc"].removeprefix("https://") for service in SERVICES}
        yield {**known, **addresses}
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=90)
        gone(home, within=30)


def run(command: list[str], folder: Path, environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def drawn(path: Path) -> tuple[str | None, tuple[int, int]]:
    with PIL.Image.open(path) as picture:
        picture.load()
        return picture.format, picture.size


def test_a_shell_with_grpcurl(folder: Path, environment: Mapping[str, str]) -> None:
    said = run(["bash", "-euo", "pipefail", "-c", commands("From a shell")], folder, environment)
    assert "JOB_STATE_SUCCEEDED" in said.splitlines()[-1]
    kind, size = drawn(folder / "shell.png")
    assert kind == "PNG"
    assert size[0] == size[1] >= 8


@pytest.fixture(scope="module")
def story(folder: Path, environment: Mapping[str, str]) -> list[str]:
    """What the page's JavaScript lines print; afterwards its packages are installed."""
    return run(["bash", "-euo", "pipefail", "-c", commands("From JavaScript")], folder, environment).splitlines()


def test_javascript(folder: Path, story: list[str]) -> None:
    lock = (ROOT / "examples/clients/javascript/package-lock.json").read_text("utf-8")
    assert '"resolved"' not in lock
    assert '"integrity"' in lock
    assert "imported 6 pictures" in story
    assert "committed projects/default/datasets/script/versions/v1" in story
    assert any(line.startswith("step 4/4, loss ") for line in story)
    assert story[-1] == "drew script.png"
    assert drawn(folder / "script.png")[0] == "PNG"


@pytest.mark.usefixtures("story")
def test_javascript_reads_our_errors(folder: Path, environment: Mapping[str, str]) -> None:
    words = ["node", "examples/clients/javascript/story.js", "pictures", "refused", "tiny", "x.png"]
    for token, reason in (("guess", "TOKEN_UNKNOWN"), ("", "TOKEN_MISSING")):
        changed = {**environment, "MARSAM_TOKEN": token}
        done = subprocess.run(words, cwd=folder, env=changed, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1
        said, remedy = done.stderr.splitlines()[-2:]  # node may warn before of a name that is a number
        assert said.startswith(f"{reason}: ")
        assert remedy.startswith("try: ")
    words[-2] = "nobody"
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "nobody" in done.stderr
    assert not (folder / "x.png").exists()


def test_an_evaluation_without_a_token_of_its_own_is_refused_where_it_is_asked_for(
    folder: Path, environment: Mapping[str, str]
) -> None:
    spec = {"suite": "projects/default/suites/x/versions/v1", "judge": "projects/default/models/tiny"}
    request = {"parent": "projects/default", "spec": {**spec, "models": ["projects/default/models/tiny"]}}
    words = ["-protoset", "dist/protos/marsam.binpb", "-cacert", environment["MARSAM_TLS_CA_FILE"]]
    words += ["-H", f"authorization: Bearer {environment['MARSAM_TOKEN']}", "-d", json.dumps(request)]
    method = "marsam.api.generator.v1.EvaluationService/CreateEvaluation"
    command = ["grpcurl", *words, environment["GENERATOR"], method]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert "EVALUATION_TOKEN_MISSING" in done.stderr
    assert "MARSAM_EVALUATION_TOKEN_FILE" in done.stderr
