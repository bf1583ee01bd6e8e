"""What Helm itself says of the chart, and what it renders, against goldens and frozen selectors."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from scripts.tools import HELMS
from tests.helm.rendering import (
    CASES,
    CHART,
    GOLDEN,
    NEEDED,
    Case,
    golden,
    helm,
    objects,
    of_kind,
    rendered,
    template,
)

BOTH = pytest.mark.parametrize("binary", HELMS, ids=lambda path: path.name)
EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def test_the_cases_are_those_that_are_meant() -> None:
    names = {case.name for case in CASES}
    assert names == {"full", "gpu", "keda", "kueue", "minimal", "networkpolicy", "tls", "triton", "triton-scaled"}


@BOTH
@EACH
def test_lint_is_content(case: Case, binary: Path) -> None:
    files = [word for file in case.files for word in ("--values", str(file))]
    done = helm("lint", "--strict", CHART, *files, binary=binary)
    assert done.returncode == 0, done.stdout
    assert "[ERROR]" not in done.stdout and "[WARNING]" not in done.stdout


@BOTH
@EACH
def test_renders_what_the_golden_holds(case: Case, binary: Path) -> None:
    held = list(yaml.safe_load_all((GOLDEN / f"{case.name}.yaml").read_text(encoding="utf-8")))
    assert golden(case.name, binary) == held, "look at the difference, then: python -m tests.helm.rendering"


def test_selectors_never_change() -> None:
    """A Deployment's selector is immutable: an upgrade over another one fails."""
    found = {
        name: each["spec"]["selector"]["matchLabels"]
        for name, each in of_kind(rendered("minimal"), "Deployment").items()
    }
    found |= {
        f"Service/{name}": each["spec"]["selector"] for name, each in of_kind(rendered("minimal"), "Service").items()
    }
    assert found == json.loads((GOLDEN.parent / "selectors.json").read_text())


@EACH
def test_services_and_policies_select_the_pods_that_are_meant(case: Case) -> None:
    found = rendered(case.name)
    labels = {
        each["metadata"]["labels"]["app.kubernetes.io/component"]: each["spec"]["template"]["metadata"]["labels"]
        for each in of_kind(found, "Deployment").values()
    }
    for each in [*of_kind(found, "Service").values(), *of_kind(found, "PodDisruptionBudget").values()]:
        component = each["metadata"]["labels"]["app.kubernetes.io/component"]
        selector = each["spec"]["selector"].get("matchLabels", each["spec"]["selector"])
        chosen = [name for name, has in labels.items() if selector.items() <= has.items()]
        assert chosen == ([] if component == "run" else [component])


def test_package_carries_the_chart_and_not_its_ci_values(tmp_path: Path) -> None:
    done = helm("package", CHART, "--destination", tmp_path)
    assert done.returncode == 0, done.stderr
    listed = helm("template", "x", tmp_path / "marsam-0.1.0.tgz", "--set", "store.url=s3://marsam",
                  "--set", "auth.existingSecret=t")  # fmt: skip
    assert listed.returncode == 0, listed.stderr
    import tarfile

    with tarfile.open(tmp_path / "marsam-0.1.0.tgz") as tar:
        names = tar.getnames()
    assert "marsam/values.schema.json" in names and "marsam/values-gpu.yaml" in names
    assert not any(name.startswith("marsam/ci/") for name in names)


def test_the_chart_installs_the_version_it_stands_beside() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((CHART.parents[2] / "pyproject.toml").read_text())["project"]
    assert chart["appVersion"] == project["version"]
    assert "dependencies" not in chart


@pytest.mark.parametrize("release", ["r", "marsam", "a" * 53])
def test_names_fit_whatever_the_release_is_called(release: str) -> None:
    found = objects(NEEDED, release=release)
    assert all(len(each["metadata"]["name"]) <= 63 for each in found)
    assert len({(each["kind"], each["metadata"]["name"]) for each in found}) == len(found)


def test_an_old_cluster_is_refused() -> None:
    done = helm("template", "x", CHART, "--kube-version", "1.30.0", "--set", "store.url=s3://marsam",
                "--set", "auth.existingSecret=t")  # fmt: skip
    assert done.returncode != 0
    assert "kubeVersion: >=1.31.0-0" in done.stderr


def test_notes_name_three_commands() -> None:
    done = helm("install", "x", CHART, "--dry-run=client", "--namespace", "images", "--set", "store.url=s3://marsam",
                "--set", "auth.existingSecret=t")  # fmt: skip
    notes = done.stdout.partition("NOTES:")[2]
    assert done.returncode == 0, done.stderr
    for command in ("kubectl -n images rollout status", "helm -n images test x", "kubectl -n images port-forward"):
        assert command in notes
    assert "Evaluations will be refused" in notes
    # The name that clients balance by is that of a Service that there is, with an address for each pod.
    (address,) = re.findall(r"dns:///(\S+)\.images\.svc\.cluster\.local:(\d+)", notes)
    headless = of_kind(objects(NEEDED), "Service")["studio-1-marsam-generator-headless"]["spec"]
    assert address == ("x-marsam-generator-headless", str(headless["ports"][0]["port"]))
    assert headless["clusterIP"] == "None"


def test_an_upgrade_of_the_runs_file_restarts_the_trainer_and_nobody_else() -> None:
    changed = {**NEEDED, "runs": {"profiles": {"cpu": {"shm": "2Gi"}}}}
    before, after = objects(NEEDED), objects(changed)

    def templates(found: list[dict[str, object]]) -> dict[str, object]:
        return {name: each["spec"]["template"] for name, each in of_kind(found, "Deployment").items()}

    old, new = templates(before), templates(after)
    assert [name for name in old if old[name] != new[name]] == ["studio-1-marsam-trainer"]


def test_a_scaled_deployment_names_no_replicas() -> None:
    """Else each upgrade fights the autoscaler for the field."""
    for name in ("full", "keda"):
        (generator,) = (d for n, d in of_kind(rendered(name), "Deployment").items() if n.endswith("-generator"))
        assert "replicas" not in generator["spec"]
    assert all("replicas" in d["spec"] for d in of_kind(rendered("minimal"), "Deployment").values())


def test_template_writes_nothing_to_stderr() -> None:
    assert template(NEEDED).stderr == ""
