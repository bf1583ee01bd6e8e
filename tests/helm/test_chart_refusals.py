"""Wrong values are refused: by the schema with the path of the fault, by the chart with one sentence and a remedy."""

import copy
import json
from typing import Any

import pytest

from scripts.tools import HELMS
from tests.helm.rendering import CHART, NEEDED, template

SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def at(path: str, value: Any) -> dict[str, Any]:
    """What must be given, and `value` at a path such as /generator/replicas."""
    values: dict[str, Any] = copy.deepcopy(NEEDED)
    place = values
    *folders, last = path.strip("/").split("/")
    for folder in folders:
        place = place.setdefault(folder, {})
    place[last] = value
    return values


LIMITS = {"limits": {"memory": "4Gi"}}

WRONG: list[tuple[str, Any, str]] = [
    # path, value, where Helm must see the fault
    ("/replicaCount", 2, "''"),
    ("/store/bucket", "x", "'/store'"),
    ("/store/url", "http://minio/bucket", "'/store/url'"),
    ("/store/url", "s3://Bucket", "'/store/url'"),
    ("/store/endpoint", "minio:9000", "'/store/endpoint'"),
    ("/store/endpoint", "https://user:pass@minio", "'/store/endpoint'"),
    ("/store/existingSecret", "Not A Name", "'/store/existingSecret'"),
    ("/auth/enabled", False, "'/auth'"),
    ("/tls/certManager/issuerKind", "Boss", "'/tls/certManager/issuerKind'"),
    ("/tls/certManager/duration", "90 days", "'/tls/certManager/duration'"),
    ("/logLevel", "verbose", "'/logLevel'"),
    ("/listenAddress", "10.0.0.1", "'/listenAddress'"),
    ("/image/tag", "latest", "'/image/tag'"),
    ("/image/pullPolicy", "Sometimes", "'/image/pullPolicy'"),
    ("/generator/image/digest", "sha256:abc", "'/generator/image/digest'"),
    ("/generator/replicas", "two", "'/generator/replicas'"),
    ("/generator/replicas", -1, "'/generator/replicas'"),
    ("/trainer/replicas", 2, "'/trainer'"),
    ("/generator/gpus", 4, "'/generator/gpus'"),
    ("/generator/settings/device", "rocm", "'/generator/settings/device'"),
    ("/generator/settings/precision", "fp8", "'/generator/settings/precision'"),
    ("/generator/settings/ticks", 1, "'/generator/settings'"),
    ("/generator/settings/tickRows", 1, "'/generator/settings/tickRows'"),
    ("/generator/resources", {"limits": {"memory": None}}, "'/generator/resources/limits'"),
    ("/generator/resources", {"limits": {"memory": "4 GB"}}, "'/generator/resources/limits/memory'"),
    ("/generator/autoscaling/kind", "vpa", "'/generator/autoscaling/kind'"),
    ("/generator/autoscaling/minReplicas", 0, "'/generator/autoscaling/minReplicas'"),
    ("/generator/autoscaling/keda/serverAddress", "prometheus:9090", "'/generator/autoscaling/keda/serverAddress'"),
    ("/dataset/graceSeconds", 1.5, "'/dataset/graceSeconds'"),
    ("/dataset/settings/decodeWorkers", -1, "'/dataset/settings/decodeWorkers'"),
    ("/dataset/podLabels", {"tier": "a" * 64}, "'/dataset/podLabels/tier'"),
    ("/dataset/podLabels", {"tier of all": "x"}, "'/dataset/podLabels'"),
    ("/dataset/env", {"NOT A NAME": "x"}, "'/dataset/env'"),
    ("/dataset/secretEnv", {"TOKEN": "plain text"}, "'/dataset/secretEnv/TOKEN'"),
    ("/dataset/volumes", [{"name": "h", "mountPath": "/h", "source": {"hostPath": {"path": "/"}}}],
     "'/dataset/volumes/0/source'"),
    ("/dataset/volumes", [{"name": "tmp", "mountPath": "/h", "source": {"emptyDir": {}}}], "'/dataset/volumes/0/name'"),
    ("/dataset/volumes", [{"name": "rel", "mountPath": "h", "source": {"emptyDir": {}}}],
     "'/dataset/volumes/0/mountPath'"),
    ("/dataset/tolerations", [{"key": "a", "operator": "Like"}], "'/dataset/tolerations/0/operator'"),
    ("/dataset/strategy", {"type": "BlueGreen"}, "'/dataset/strategy/type'"),
    ("/runs/profiles", {"Big GPU": {"resources": LIMITS}}, "'/runs/profiles'"),
    ("/runs/profiles/cpu/gpu", 1, "'/runs/profiles/cpu'"),
    ("/runs/profiles/x", {"gpus": 1}, "'/runs/profiles/x'"),
    ("/runs/profiles/x", {"resources": LIMITS, "gpus": "one"}, "'/runs/profiles/x/gpus'"),
    ("/runs/profiles/x", {"resources": LIMITS, "gpuResourceName": "gpu"}, "'/runs/profiles/x/gpuResourceName'"),
    ("/runs/profiles/x", {"resources": LIMITS, "graceSeconds": 0}, "'/runs/profiles/x/graceSeconds'"),
    ("/networkPolicy/clients", ["10.0.0.0/8"], "'/networkPolicy/clients/0'"),
    ("/networkPolicy/storePort", -1, "'/networkPolicy/storePort'"),
    ("/networkPolicy/storePort", 70000, "'/networkPolicy/storePort'"),
    ("/triton/enabled", "yes", "'/triton/enabled'"),
    ("/triton/gpus", 2, "'/triton/gpus'"),
    ("/triton/settings", {}, "'/triton'"),
    ("/metrics/podMonitor/intervalSeconds", "15s", "'/metrics/podMonitor/intervalSeconds'"),
    ("/extraObjects", [{"kind": "Secret"}], "'/extraObjects/0'"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "seen"), WRONG, ids=lambda value: str(value)[:40])
def test_the_schema_refuses(path: str, value: Any, seen: str) -> None:
    done = template(at(path, value))
    assert done.returncode != 0
    assert f"- at {seen}: " in done.stderr


SENTENCES: list[tuple[dict[str, Any], str]] = [
    ({"auth": {"existingSecret": "t"}},
     "store.url is empty: give the store, such as --set store.url=s3://my-bucket"),
    ({"store": {"url": "file:///store"}, "auth": {"existingSecret": "t"}},
     "store.existingClaim is empty: name the PersistentVolumeClaim that holds it, or use s3://"),
    (at("/store/existingClaim", "disk"),
     "store.existingClaim is disk and store.url is a bucket (s3://marsam): a claim is for file:// stores only"),
    ({"store": {"url": "s3://marsam"}},
     "auth.existingSecret is empty: the services can be reached from other pods, and without a token file they refuse"),
    (at("/tls", {"existingSecret": "x", "certManager": {"enabled": True, "issuerName": "i"}}),
     "tls.existingSecret and tls.certManager.enabled exclude each other"),
    (at("/tls/clientCaSecret", "clients"),
     "tls.clientCaSecret asks for clients' certificates and there is no TLS"),
    (at("/tls/certManager/enabled", True),
     "tls.certManager.issuerName is empty: name the Issuer or ClusterIssuer that signs"),
    (at("/tls/certManager", {"enabled": True, "issuerName": "i"}),
     "the cluster does not know cert-manager.io/v1/Certificate: install cert-manager, or give tls.existingSecret"),
    (at("/metrics/serviceMonitor/enabled", True),
     "metrics.serviceMonitor.enabled is true and the cluster does not know monitoring.coreos.com/v1/ServiceMonitor"),
    (at("/metrics/podMonitor/enabled", True),
     "metrics.podMonitor.enabled is true and the cluster does not know monitoring.coreos.com/v1/PodMonitor"),
    (at("/metrics/prometheusRule/enabled", True),
     "metrics.prometheusRule.enabled is true and the cluster does not know monitoring.coreos.com/v1/PrometheusRule"),
    (at("/generator/autoscaling/enabled", True),
     "the cluster serves no custom metrics (custom.metrics.k8s.io/v1beta1): install an adapter"),
    (at("/generator/autoscaling", {"enabled": True, "kind": "keda"}),
     "generator.autoscaling.keda.serverAddress is empty"),
    (at("/generator/autoscaling", {"enabled": True, "kind": "keda", "keda": {"serverAddress": "http://p"}}),
     "the cluster does not know keda.sh/v1alpha1/ScaledObject: install KEDA, or set generator.autoscaling.kind=hpa"),
    (at("/generator/autoscaling", {"enabled": True, "minReplicas": 5, "maxReplicas": 2}),
     "generator.autoscaling.minReplicas (5) is more than maxReplicas (2)"),
    ({**at("/triton/enabled", True), "generator": {"gpus": 1}},
     "generator.gpus is 1 and triton.enabled is true: Triton draws, so the GPUs are triton.gpus; set generator.gpus=0"),
    (at("/triton", {"enabled": True, "shm": "512Mi"}),
     "triton.shm is 512Mi: what Triton and its model say to each other passes through /dev/shm, give it 1Gi or more"),
    (at("/triton", {"enabled": True, "shm": "8Gi"}),
     "triton.shm (8Gi) does not fit the memory limit (8Gi): what lies in /dev/shm counts against it"),
    (at("/generator/shm", "6Gi"),
     "generator.shm (6Gi) does not fit the memory limit (6Gi): what lies in /dev/shm counts against it"),
    (at("/runs/defaultProfile", "gpu"),
     "runs.defaultProfile is 'gpu' and there is no such profile: the profiles are cpu"),
    (at("/runs/profiles/cpu/shm", "8192Mi"),
     "runs.profiles.cpu: shm (8192Mi) does not fit the memory limit (8Gi)"),
    (at("/runs", {"quota": {"requests.nvidia.com/gpu": 4}, "profiles": {"x": {"gpus": 8, "resources": LIMITS}}}),
     "runs.profiles.x asks for 8 nvidia.com/gpu and runs.quota allows 4 in all: such a run could never start"),
    (at("/runs/profiles/x", {"kueueQueue": "q", "resources": LIMITS}),
     "runs.profiles.x.kueueQueue is 'q' and the cluster has no Kueue: its Jobs would stay suspended"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "sentence"), SENTENCES, ids=[sentence[:40] for _, sentence in SENTENCES])
def test_the_chart_says_what_does_not_go_together(values: dict[str, Any], sentence: str) -> None:
    done = template(values)
    assert done.returncode != 0
    assert sentence in done.stderr


@pytest.mark.parametrize("binary", HELMS, ids=lambda path: path.name)
def test_both_lines_of_helm_refuse_alike(binary: object) -> None:
    done = template(at("/generator/replicas", "two"), binary=binary)  # type: ignore[arg-type]
    assert "- at '/generator/replicas': got string, want integer" in done.stderr


PASSED_THROUGH = {
    # What Kubernetes or an operator defines and this chart does not repeat.
    "extraObjects/[]",
    "metrics/serviceMonitor/tlsConfig",
    "$defs/affinity/nodeAffinity",
    "$defs/affinity/podAffinity",
    "$defs/affinity/podAntiAffinity",
} | {
    f"$defs/volumes/[]/source/{kind}"
    for kind in ("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim",
                 "projected", "secret")
}  # fmt: skip


def test_the_schema_is_closed() -> None:
    """Every object says what its other properties may be; those that may be anything are listed above."""
    open_objects = set()

    def walk(schema: Any, path: str) -> None:
        if not isinstance(schema, dict):
            return
        if schema.get("type") == "object" and "additionalProperties" not in schema:
            open_objects.add(path.strip("/"))
        for name, inner in schema.get("properties", {}).items():
            walk(inner, f"{path}/{name}")
        for inner in schema.get("patternProperties", {}).values():
            walk(inner, f"{path}/*")
        walk(schema.get("items"), f"{path}/[]")
        for one in schema.get("oneOf", []):
            walk(one, path)

    walk(SCHEMA, "")
    for name, inner in SCHEMA["$defs"].items():
        walk(inner, f"$defs/{name}")
    assert open_objects == PASSED_THROUGH
