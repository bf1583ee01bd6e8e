"""Values that YAML and Helm like to turn into something else come out as they were meant."""

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.helm.rendering import NEEDED, container, deployment, environment, objects, of_kind, runs_file

# What YAML 1.1 reads as a bool, a number, nothing or a date.
TRAPS = ["y", "n", "no", "yes", "on", "off", "null", "~", "true", "1e3", "0x1", "0o7", "010", "1_000", "12:30:45", ".5",
         "2026-11-25", "{{ .Values }}", "a: b", "# not a comment", "'", '"', "\\", "<<", "=", "@x", "`x`", "%x", "&a",
         "*a", "! x", "| x", "> x", "- x", "", " x ", "x\ny", "مرسم"]  # fmt: skip

TEXT = st.one_of(
    st.sampled_from(TRAPS),
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"]), max_size=40),
)
LABEL = st.one_of(
    st.sampled_from(["y", "no", "on", "null", "true", "1e3", "0x1", "010", "1_000", "42", ""]),
    st.from_regex(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,20}[A-Za-z0-9])?", fullmatch=True),
)
NAME = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True)
SCALAR = st.one_of(TEXT, st.booleans(), st.integers(-(10**12), 10**12))
EXAMPLES = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def shown(value: Any) -> str:
    """A value as a program reads it from its environment."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def under(**values: Any) -> dict[str, Any]:
    return {**NEEDED, **values}


@pytest.mark.slow
@EXAMPLES
@given(given_env=st.dictionaries(NAME, SCALAR, min_size=1, max_size=12))
def test_environment_arrives_as_text(given_env: dict[str, Any]) -> None:
    wanted = {name: shown(value) for name, value in given_env.items()}
    found = objects(under(dataset={"env": given_env}, runs={"env": given_env}))
    assert wanted.items() <= environment(container(found, "dataset")).items()
    assert wanted.items() <= runs_file(found)["env"].items()


@pytest.mark.slow
@EXAMPLES
@given(labels=st.dictionaries(NAME, st.one_of(LABEL, st.booleans(), st.integers(0, 10**6)), min_size=1, max_size=8))
def test_labels_arrive_as_text(labels: dict[str, Any]) -> None:
    wanted = {name.strip("_") or "x": value for name, value in labels.items()}
    texts = {name: shown(value) for name, value in wanted.items()}
    found = objects(under(commonLabels=wanted, runs={"podLabels": wanted}))
    for each in found:
        assert texts.items() <= each["metadata"]["labels"].items()
    assert texts.items() <= deployment(found, "generator")["spec"]["template"]["metadata"]["labels"].items()
    assert texts.items() <= runs_file(found)["labels"].items()


@pytest.mark.slow
@EXAMPLES
@given(annotations=st.dictionaries(NAME, SCALAR, min_size=1, max_size=12))
def test_annotations_arrive_as_text(annotations: dict[str, Any]) -> None:
    wanted = {name.strip("_") or "x": value for name, value in annotations.items()}
    texts = {name: shown(value) for name, value in wanted.items()}
    found = objects(under(trainer={"podAnnotations": wanted, "service": {"annotations": wanted}},
                          runs={"podAnnotations": wanted, "serviceAccount": {"annotations": wanted}}))  # fmt: skip
    assert texts.items() <= deployment(found, "trainer")["spec"]["template"]["metadata"]["annotations"].items()
    assert texts.items() <= runs_file(found)["annotations"].items()
    assert texts == of_kind(found, "Service")["studio-1-marsam-trainer"]["metadata"]["annotations"]
    assert texts == of_kind(found, "ServiceAccount")["studio-1-marsam-run"]["metadata"]["annotations"]


@pytest.mark.slow
@EXAMPLES
@given(largest=st.integers(1, 2**50), pixels=st.integers(1, 10**10), delay=st.floats(0, 3600, width=32))
def test_numbers_arrive_whole(largest: int, pixels: int, delay: float) -> None:
    """200000000000 must not become 2e+11, which no integer setting takes."""
    found = objects(under(trainer={"settings": {"maxImportBytes": largest, "retryDelayS": delay}},
                          dataset={"settings": {"maxPixels": pixels}}))  # fmt: skip
    trainer = environment(container(found, "trainer"))
    assert trainer["MARSAM_MAX_IMPORT_BYTES"] == str(largest)
    assert float(trainer["MARSAM_RETRY_DELAY_S"]) == delay
    assert environment(container(found, "dataset"))["MARSAM_MAX_PIXELS"] == str(pixels)


def test_null_takes_a_default_away() -> None:
    found = objects(under(runs={"defaultProfile": "big", "profiles": {"cpu": None, "big": {
        "resources": {"limits": {"memory": "8Gi"}}}}}, dataset={"settings": {"decodeWorkers": None}}))  # fmt: skip
    assert list(runs_file(found)["profiles"]) == ["big"]
    assert "MARSAM_DECODE_WORKERS" not in environment(container(found, "dataset"))


def test_what_the_values_say_of_a_variable_wins() -> None:
    found = objects(under(generator={"env": {"HOME": "/cache/home"}, "secretEnv": {"MARSAM_PRECISION": {
        "secret": "s", "key": "k"}}}))  # fmt: skip
    one = container(found, "generator")
    assert environment(one)["HOME"] == "/cache/home"
    (precision,) = (each for each in one["env"] if each["name"] == "MARSAM_PRECISION")
    assert precision["valueFrom"] == {"secretKeyRef": {"name": "s", "key": "k"}}
