"""What every Dockerfile keeps to, beside hadolint's rules, which `make lint` asks for."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = {
    "services/dataset/Dockerfile": "marsam_dataset",
    "services/trainer/Dockerfile": "marsam_trainer",
    "services/trainer/run.Dockerfile": "marsam_trainer.run",
    "services/generator/Dockerfile": "marsam_generator",
}
TRITON = "services/generator/triton.Dockerfile"
EACH = pytest.mark.parametrize("path", PROGRAMS)


def instructions(path: str) -> list[tuple[str, str]]:
    """(word, rest) of each instruction, continuations joined, comments left out."""
    lines = [line for line in (ROOT / path).read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def test_there_are_no_others() -> None:
    found = {str(path.relative_to(ROOT)) for path in (ROOT / "services").rglob("*Dockerfile")}
    assert found == {*PROGRAMS, TRITON}


@EACH
def test_the_image_is_small_plain_and_without_rights(path: str) -> None:
    found = instructions(path)
    assert found[0] == ("ARG", "BASE=python:3.11-slim-bookworm")
    assert [rest for word, rest in found if word == "FROM"] == ["${BASE} AS build", "${BASE}"]
    last = found[max(index for index, (word, _) in enumerate(found) if word == "FROM") :]
    # One thing comes from the other stage, and nothing from the context.
    assert [rest for word, rest in last if word in ("COPY", "ADD")] == ["--from=build /venv /venv"]
    assert [rest for word, rest in last if word == "USER"] == ["10001:10001"]
    assert json.loads(dict(last)["ENTRYPOINT"]) == ["/venv/bin/python", "-m", PROGRAMS[path]]
    assert dict(found)["LABEL"].count("org.opencontainers.image.") >= 5


def test_triton_is_nvidias_image_with_our_packages_and_our_model_where_the_model_looks() -> None:
    found = instructions(TRITON)
    assert [rest for word, rest in found if word == "FROM"] == ["${BASE} AS build", "${BASE}"]
    last = found[max(index for index, (word, _) in enumerate(found) if word == "FROM") :]
    assert [rest for word, rest in last if word in ("COPY", "ADD")] == [
        "--from=build /venv /venv", "--from=build /build/services/generator/model_repository /models",
    ]  # fmt: skip
    assert [rest for word, rest in last if word == "USER"] == ["10001:10001"]
    assert "MARSAM_SITE=/venv/site" in dict(last)["ENV"] and "PYTHONPATH" not in dict(last)["ENV"]
    assert json.loads(dict(last)["ENTRYPOINT"]) == ["tritonserver", "--model-repository=/models"]
    assert dict(found)["LABEL"].count("org.opencontainers.image.") >= 5


@pytest.mark.parametrize("path", [*PROGRAMS, TRITON])
def test_versions_come_from_the_one_file(path: str) -> None:
    installs = [
        part for word, rest in instructions(path) if word == "RUN" for part in rest.split("&&") if "pip" in part
    ]
    for install in (part for part in installs if " install " in part):
        assert "-c constraints.txt" in install or "pip==26.3" in install, install
        assert "--no-cache-dir" in install
    assert "pip==26.3" in (ROOT / "Makefile").read_text()


def test_nothing_else_enters_a_build() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    assert all((ROOT / name).exists() for name in let_in)
    assert not let_in & {".git", "examples", "tests", "deploy"}
    assert "**/*.safetensors" in rules
