"""Everything rendered, and every Job made from it, against Kubernetes' published schemas at three versions."""

import functools
import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from kubernetes_validate import utils

from marsam.launch.kubernetes.manifest import job
from marsam.launch.kubernetes.profiles import ClusterFile, read_cluster_file
from marsam.launch.launcher import Program
from tests.helm.hardening import faults
from tests.helm.rendering import CASES, Case, rendered, runs_file

VERSIONS = ("1.31", "1.34", "1.37")
FOREIGN = ("cert-manager.io/", "keda.sh/", "monitoring.coreos.com/")
EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)

# One file holds a megabyte of definitions, and is read for every object otherwise.
utils.schema_contents = functools.cache(utils.schema_contents)


@functools.cache
def valid(text: str, version: str) -> None:
    """Fail unless the object is of its kind and has no unknown field. Same objects are looked at once."""
    kubernetes_validate.validate(json.loads(text), version, strict=True)


def written(case: Case, folder: Path) -> ClusterFile:
    """The runs' file as the trainer reads it."""
    file = folder / "kubernetes.yaml"
    file.write_text(json.dumps(runs_file(rendered(case.name))))
    return read_cluster_file(file)


def jobs(cluster: ClusterFile, folder: Path) -> dict[str, dict[str, Any]]:
    """A Job of every profile."""
    return {
        name: job(
            cluster,
            Program(
                argv=("python3", "-m", "marsam_trainer.run", "train"),
                log_path=folder / "run.log",
                profile=name,
                labels={"marsam.dev/run": "01hzzzzzzzzzzzzzzzzzzzzzzz", "marsam.dev/attempt": "1"},
            ),
            key=f"default.runs.01hzzzzzzzzzzzzzzzzzzzzzzz.{number}",
        )
        for number, name in enumerate(cluster.profiles)
    }


@pytest.mark.parametrize("version", VERSIONS)
@EACH
def test_objects_are_of_their_kinds(case: Case, version: str) -> None:
    own = [each for each in rendered(case.name) if not each["apiVersion"].startswith(FOREIGN)]
    assert len(own) >= 14
    for each in own:
        valid(json.dumps(each, sort_keys=True), version)


def test_the_schemas_refuse_an_unknown_field() -> None:
    (service, *_) = [each for each in rendered("minimal") if each["kind"] == "Service"]
    with pytest.raises(kubernetes_validate.ValidationError, match="selektor"):
        valid(json.dumps({**service, "spec": {**service["spec"], "selektor": {}}}), VERSIONS[-1])


@EACH
def test_jobs_made_from_the_runs_file_are_valid_and_restricted(case: Case, tmp_path: Path) -> None:
    made = jobs(written(case, tmp_path), tmp_path)
    assert made
    for manifest in made.values():
        assert faults(manifest["spec"]["template"]["spec"]) == []
        for version in VERSIONS:
            valid(json.dumps(manifest, sort_keys=True), version)


@EACH
def test_runs_are_selected_by_their_service_and_wear_short_labels(case: Case, tmp_path: Path) -> None:
    (service,) = (o for o in rendered(case.name) if o["kind"] == "Service" and o["metadata"]["name"].endswith("-runs"))
    for manifest in jobs(written(case, tmp_path), tmp_path).values():
        template = manifest["spec"]["template"]
        assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
        assert template["spec"]["subdomain"] == service["metadata"]["name"]
        assert all(len(value) <= 63 for value in template["metadata"]["labels"].values())
        (port,) = template["spec"]["containers"][0]["ports"]
        assert (port["name"], port["containerPort"]) == ("metrics", service["spec"]["ports"][0]["port"])


def test_profiles_reach_the_job(tmp_path: Path) -> None:
    gpu = jobs(written(next(case for case in CASES if case.name == "gpu"), tmp_path), tmp_path)
    spot = gpu["spot"]["spec"]["template"]["spec"]
    assert spot["terminationGracePeriodSeconds"] == 25
    assert spot["nodeSelector"] == {"cloud.google.com/gke-spot": "true"}
    assert {"key": "nvidia.com/gpu", "operator": "Exists"} in spot["tolerations"]
    assert spot["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    kueue = jobs(written(next(case for case in CASES if case.name == "kueue"), tmp_path), tmp_path)
    assert list(kueue) == ["shared"]
    assert kueue["shared"]["spec"]["suspend"] is True
    assert kueue["shared"]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "studio"
    full = jobs(written(next(case for case in CASES if case.name == "full"), tmp_path), tmp_path)
    small = full["small"]["spec"]["template"]["spec"]
    assert small["priorityClassName"] == "batch"
    assert full["small"]["spec"]["activeDeadlineSeconds"] == 7200
    claims = [volume["persistentVolumeClaim"] for volume in small["volumes"] if "persistentVolumeClaim" in volume]
    assert claims == [{"claimName": "weights"}]
