"""The file that describes a cluster, and the Job made from it: accepted by published schemas, and restricted."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from marsam.core.errors import Invalid
from marsam.launch.kubernetes import manifest
from marsam.launch.kubernetes.profiles import ClusterFile, Profile, Resources, SecretKey, Volume, read_cluster_file
from marsam.launch.launcher import Program

FULL = """
namespace: runs
instance: studio
image: registry.example/marsam/run:1.2
service: marsam-runs
serviceAccount: marsam-run
imagePullSecrets: [registry]
command: [python3, -m, marsam_trainer.run]
env: {MARSAM_S3_ENDPOINT: "http://store:9000", FLAG: "y"}
secrets:
  MARSAM_S3_SECRET_KEY: {secret: store, key: secret-key}
volumes:
  - {name: ca, mountPath: /etc/ca, readOnly: true, source: {secret: {secretName: store-ca}}}
labels: {team: art}
annotations: {prometheus.io/scrape: "true"}
default: cpu
profiles:
  cpu:
    resources: {requests: {cpu: 2, memory: 4Gi}, limits: {memory: 8Gi}}
  gpu:
    description: one A100
    image: registry.example/marsam/run:1.2-cuda
    resources: {limits: {nvidia.com/gpu: 1, memory: 64Gi}}
    nodeSelector: {cloud.google.com/gke-accelerator: nvidia-a100}
    tolerations: [{key: sku, operator: Equal, value: gpu, effect: NoSchedule}]
    affinity:
      nodeAffinity:
        requiredDuringSchedulingIgnoredDuringExecution:
          nodeSelectorTerms: [{matchExpressions: [{key: zone, operator: In, values: [a, b]}]}]
    runtimeClassName: nvidia
    priorityClassName: batch
    shm: 16Gi
    kueueQueue: team-a
    graceSeconds: 300
    deadlineSeconds: 86400
    env: {NCCL_DEBUG: WARN}
  mig:
    resources: {limits: {nvidia.com/mig-1g.12gb: 1}}
  four:
    resources: {limits: {nvidia.com/gpu: "4"}}
"""

PROGRAM = Program(
    argv=("python3", "-m", "marsam_trainer.run", "train"),
    log_path=Path("/logs/a.log"),
    labels={"marsam.dev/run": "01K", "marsam.dev/attempt": "2", "marsam.dev/project": "default"},
    beat_path=Path("/tmp/beat"),
)


def read(tmp_path: Path, text: str = FULL) -> ClusterFile:
    path = tmp_path / "kubernetes.yaml"
    path.write_text(text)
    return read_cluster_file(path)


def job(file: ClusterFile, profile: str = "", *, ranks: int = 1) -> Any:
    return manifest.job(file, replace(PROGRAM, profile=profile, ranks=ranks), key="default.runs.01k.2")


def test_the_file_says_all_of_it(tmp_path: Path) -> None:
    file = read(tmp_path)
    assert (file.namespace, file.instance, file.default_name) == ("runs", "studio", "cpu")
    assert file.secrets == {"MARSAM_S3_SECRET_KEY": SecretKey(secret="store", key="secret-key")}
    assert file.volumes == (
        Volume(name="ca", mountPath="/etc/ca", readOnly=True, source={"secret": {"secretName": "store-ca"}}),
    )
    assert file.profiles["gpu"].gpus == {"nvidia.com/gpu": 1}
    assert file.profile("") == file.profiles["cpu"]


@pytest.mark.parametrize(
    ("old", "new", "said", "remedy"),
    [
        ("namespace: runs\n", "", "'namespace' is missing", ""),
        ("namespace: runs", "namespce: runs", "unknown key 'namespce'", "did you mean 'namespace'"),
        ("nodeSelector:", "nodeSelectors:", "profiles.gpu: unknown key 'nodeSelectors'", "nodeSelector"),
        ("limits: {memory: 8Gi}", "limit: {memory: 8Gi}", "unknown key 'limit'", "limits"),
        ("graceSeconds: 300", "graceSeconds: long", "graceSeconds: expected a whole number", ""),
        ('FLAG: "y"', "FLAG: yes", "env.FLAG: expected str, got bool", ""),
        ("memory: 4Gi", "memory: 4GiB", "'4GiB' is no quantity", ""),
        ("shm: 16Gi", "shm: 64Gi", "shm 64Gi is not below the memory limit 64Gi", ""),
        ("default: cpu", "default: cpus", "unknown profile 'cpus'", ""),
        ("default: cpu\n", "", "which profile is the default?", ""),
        ("namespace: runs", "namespace: Runs", "'Runs' is no Kubernetes name", ""),
        ("deadlineSeconds: 86400", "deadlineSeconds: -1", "deadlineSeconds ≥ 0", ""),
        ("limits: {nvidia.com/mig", "requests: {nvidia.com/mig", "must be the same in requests and limits", ""),
        ("profiles:", "profiles: [", "is not YAML", ""),
        (FULL, "[]", "expected an object", ""),
        (FULL, "{namespace: a, image: b, profiles: {}}", "at least one profile", ""),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, old: str, new: str, said: str, remedy: str) -> None:
    assert old in FULL
    with pytest.raises(Invalid) as caught:
        read(tmp_path, FULL.replace(old, new, 1))
    assert caught.value.reason == "KUBERNETES_FILE"
    assert said in caught.value.message
    assert remedy in caught.value.remedy


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Invalid) as caught:
        read_cluster_file(tmp_path / "no.yaml")
    assert "cannot read" in caught.value.message


@pytest.mark.parametrize("version", ["1.31", "1.34", "1.37"])
@pytest.mark.parametrize("profile", ["", "gpu", "mig"])
def test_published_schemas_accept_the_job(tmp_path: Path, profile: str, version: str) -> None:
    kubernetes_validate.validate(job(read(tmp_path), profile), version, strict=True)


@pytest.mark.parametrize("profile", ["", "gpu", "mig"])
def test_the_pod_satisfies_the_restricted_standard(tmp_path: Path, profile: str) -> None:
    pod = job(read(tmp_path), profile)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert pod["automountServiceAccountToken"] is False
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    assert all(set(volume) - {"name"} <= allowed for volume in pod["volumes"])
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)


def test_the_job_is_one_attempt_that_fails_by_rule(tmp_path: Path) -> None:
    made = job(read(tmp_path))
    spec = made["spec"]
    assert (spec["completionMode"], spec["completions"], spec["backoffLimit"]) == ("Indexed", 1, 0)
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    rules = spec["podFailurePolicy"]["rules"]
    assert [rule["action"] for rule in rules] == ["FailJob", "FailJob"]
    assert rules[manifest.DISRUPTION_RULE]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert rules[manifest.EXIT_RULE]["onExitCodes"] == {"containerName": "run", "operator": "NotIn", "values": [0]}
    assert "suspend" not in spec
    assert "activeDeadlineSeconds" not in spec


@pytest.mark.parametrize(
    ("profile", "limit_s", "ends"), [("cpu", 180, 180), ("gpu", 180, 180), ("gpu", 90_000, 86_400)]
)
def test_a_program_for_its_caller_only_outlives_nobody_for_long(
    tmp_path: Path, profile: str, limit_s: int, ends: int
) -> None:
    """The stricter of its own limit and its profile's."""
    spec = manifest.job(read(tmp_path), replace(PROGRAM, profile=profile, limit_s=limit_s), key="a")["spec"]
    assert (spec["activeDeadlineSeconds"], spec["ttlSecondsAfterFinished"]) == (ends, 600)
    assert job(read(tmp_path))["spec"]["ttlSecondsAfterFinished"] == 604_800


def test_a_profile_becomes_a_place(tmp_path: Path) -> None:
    made = job(read(tmp_path), "gpu")
    spec, pod = made["spec"], made["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "registry.example/marsam/run:1.2-cuda"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 1, "memory": "64Gi"}
    assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-a100"}
    assert pod["tolerations"][0]["key"] == "sku"
    assert pod["tolerations"][1] == {"key": "nvidia.com/gpu", "operator": "Exists"}
    assert (pod["runtimeClassName"], pod["priorityClassName"], pod["subdomain"]) == ("nvidia", "batch", "marsam-runs")
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}} in pod["volumes"]
    assert pod["terminationGracePeriodSeconds"] == 300
    assert (spec["suspend"], spec["activeDeadlineSeconds"]) == (True, 86400)
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert made["metadata"]["labels"]["marsam.dev/profile"] == "gpu"


def test_the_container_gets_its_surroundings(tmp_path: Path) -> None:
    (container,) = job(read(tmp_path), "gpu")["spec"]["template"]["spec"]["containers"]
    env = {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}
    assert env["FLAG"] == "y"
    assert env["NCCL_DEBUG"] == "WARN"
    assert env["HOME"] == "/tmp"
    assert env["MARSAM_S3_SECRET_KEY"] == {"secretKeyRef": {"name": "store", "key": "secret-key"}}
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"/tmp", "/dev/shm", "/cache", "/etc/ca"}
    assert container["ports"] == [{"name": "metrics", "containerPort": 9090}]
    assert container["livenessProbe"]["exec"]["command"][-1] == "/tmp/beat"


def test_a_cache_of_ones_own_takes_the_place_of_the_empty_one() -> None:
    claim = Volume(name="models", mountPath="/cache", source={"persistentVolumeClaim": {"claimName": "models"}})
    file = ClusterFile(namespace="a", image="b", profiles={"cpu": Profile()}, volumes=(claim,))
    volumes = manifest.job(file, PROGRAM, key="a")["spec"]["template"]["spec"]["volumes"]
    assert [volume["name"] for volume in volumes] == ["tmp", "shm", "models"]


@pytest.mark.parametrize("key", ["a", "default.runs.01k6zsj8f0q3yx4v5w6n7p8r9s.12", "p" * 128, "x..y__z"])
def test_names_are_short_enough_for_a_pods_label_and_host(key: str) -> None:
    name = manifest.job_name(key)
    assert len(f"{name}-0") <= 63
    assert name == manifest.job_name(key)
    assert name != manifest.job_name(key + "1")


def test_an_unknown_profile_is_named_with_its_neighbours(tmp_path: Path) -> None:
    with pytest.raises(Invalid) as caught:
        job(read(tmp_path), "gpus")
    assert caught.value.reason == "UNKNOWN_PROFILE"
    assert "'gpu'" in caught.value.remedy


def test_labels_of_the_file_do_not_hide_ours() -> None:
    file = ClusterFile(
        namespace="a", image="b", profiles={"cpu": Profile(resources=Resources())}, instance="one",
        labels={"app.kubernetes.io/name": "studio", manifest.TRAINER: "other"},
    )  # fmt: skip
    labels = manifest.job(file, PROGRAM, key="a")["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/name"] == "studio"
    assert labels[manifest.TRAINER] == "one"
    assert manifest.selector(file) == "marsam.dev/trainer=one"


def test_the_files_yaml_needs_no_more_than_three_keys(tmp_path: Path) -> None:
    file = read(tmp_path, yaml.safe_dump({"namespace": "a", "image": "b", "profiles": {"only": {}}}))
    assert file.default_name == "only"


def test_ranks_on_one_node_are_one_pod_with_a_crew(tmp_path: Path) -> None:
    """As many GPUs as the profile has, or fewer: no second node, and nobody to meet."""
    file = read(tmp_path)
    for ranks in (2, 4):
        made = job(file, "four", ranks=ranks)
        assert (made["spec"]["completions"], made["spec"]["parallelism"]) == (1, 1)
        (container,) = made["spec"]["template"]["spec"]["containers"]
        crew = ["python3", "-m", "marsam.launch.crew", "--ranks", str(ranks), "--"]
        assert container["command"] == [*crew, *PROGRAM.argv]
        assert made["metadata"]["annotations"]["marsam.dev/ranks"] == str(ranks)
    assert job(file, "four")["spec"]["template"]["spec"]["containers"][0]["command"] == list(PROGRAM.argv)
    assert "marsam.dev/ranks" not in job(file, "four")["metadata"]["annotations"]


@pytest.mark.parametrize(
    ("profile", "ranks", "nodes", "each"), [("four", 8, 2, 4), ("gpu", 3, 3, 1), ("cpu", 2, 2, 1), ("mig", 2, 2, 1)]
)
def test_more_ranks_have_a_pod_for_each_node(tmp_path: Path, profile: str, ranks: int, nodes: int, each: int) -> None:
    """One Job, so that a queue admits all of them or none; they meet at the name that the Service gives the first."""
    made = job(read(tmp_path), profile, ranks=ranks)
    spec = made["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", nodes, nodes)
    assert (spec["backoffLimit"], [rule["action"] for rule in spec["podFailurePolicy"]["rules"]]) == (
        0,
        ["FailJob"] * 2,
    )
    (container,) = spec["template"]["spec"]["containers"]
    meeting = f"{made['metadata']['name']}-0.marsam-runs:29400"
    assert container["command"] == [
        "python3", "-m", "marsam.launch.crew", "--ranks", str(each), "--nodes", str(nodes), "--meet", meeting,
        "--beat", "/tmp/beat", "--", *PROGRAM.argv,
    ]  # fmt: skip
    assert spec["template"]["spec"]["subdomain"] == "marsam-runs"
    kubernetes_validate.validate(made, "1.31", strict=True)


@pytest.mark.parametrize(
    ("profile", "ranks", "said", "remedy"),
    [
        ("four", 6, "6 processes do not fill nodes of 4 GPUs, as profile 'four' asks for them", "4 or 8 processes"),
        ("cpu", 100, "100 processes need 100 nodes of profile 'cpu'", "99 at most"),
    ],
)
def test_ranks_without_room_are_refused(tmp_path: Path, profile: str, ranks: int, said: str, remedy: str) -> None:
    with pytest.raises(Invalid, match=said) as caught:
        job(read(tmp_path), profile, ranks=ranks)
    error = caught.value
    assert (error.field, error.reason, error.remedy) == ("processes", "PROCESSES_UNSUPPORTED", remedy)


def test_nodes_need_a_service_to_find_each_other(tmp_path: Path) -> None:
    file = replace(read(tmp_path), service="")
    assert job(file, "four", ranks=4)
    with pytest.raises(Invalid) as caught:
        job(file, "gpu", ranks=2)
    assert (caught.value.field, caught.value.reason) == ("processes", "SERVICE_MISSING")
