"""What holds of every object, whatever the values."""

import re
from typing import Any

import pytest

from marsam.telemetry import metrics
from tests.helm.hardening import faults
from tests.helm.rendering import (
    CASES,
    NAMESPACE,
    NEEDED,
    Case,
    container,
    deployment,
    environment,
    objects,
    of_kind,
    pods,
    rendered,
    runs_file,
)

EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
SERVICES = ("dataset", "trainer", "generator")


@EACH
def test_every_pod_is_restricted(case: Case) -> None:
    found = {name: faults(pod["spec"]) for name, pod in pods(rendered(case.name))}
    assert len(found) >= 3
    assert {name: what for name, what in found.items() if what} == {}


def test_the_check_of_pods_sees_each_fault() -> None:
    """It is our own: it must not be blind."""
    ((_, good), *_) = pods(objects(files=CASES[-1].files, apis=CASES[-1].apis))
    spec = good["spec"]
    assert faults(spec) == []
    one = spec["containers"][0]
    worse: list[tuple[dict[str, Any], str]] = [
        ({**spec, "hostNetwork": True}, "hostNetwork"),
        ({**spec, "securityContext": {}}, "runAsNonRoot"),
        ({**spec, "volumes": [*spec["volumes"], {"name": "h", "hostPath": {"path": "/"}}]}, "hostPath"),
        ({**spec, "containers": [{**one, "securityContext": {}}]}, "privilege escalation"),
        ({**spec, "containers": [{**one, "image": "marsam/dataset"}]}, "names no version"),
        ({**spec, "containers": [{**one, "image": "registry:5000/marsam/dataset"}]}, "names no version"),
        ({**spec, "containers": [{**one, "image": "marsam/dataset:latest"}]}, "names no version"),
        ({**spec, "containers": [{**one, "resources": {}}]}, "no memory limit"),
        ({**spec, "containers": [{**one, "env": [{"name": "A", "value": 1}]}]}, "is no text"),
        ({**spec, "containers": [{**one, "volumeMounts": []}]}, "/tmp cannot be written"),
    ]
    for broken, words in worse:
        assert any(words in fault for fault in faults(broken)), words


@EACH
def test_every_object_is_labelled_and_stays_in_the_namespace(case: Case) -> None:
    for each in rendered(case.name):
        metadata = each["metadata"]
        if metadata["name"].endswith("-extra"):
            continue
        assert metadata["namespace"] == NAMESPACE
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "Helm"
        templates = [pod["metadata"].get("labels", {}) for _, pod in pods([each])]
        for labels in (metadata["labels"], *templates):
            assert all(isinstance(value, str) and LABEL.fullmatch(value) for value in labels.values()), labels
        for annotations in (
            metadata.get("annotations", {}),
            *(p["metadata"].get("annotations", {}) for _, p in pods([each])),
        ):
            assert all(isinstance(value, str) for value in annotations.values()), annotations


@EACH
def test_rights_are_those_of_the_namespace_and_of_the_trainer_only(case: Case) -> None:
    found = rendered(case.name)
    assert not [each for each in found if each["kind"].startswith("Cluster")]
    ((name, role),) = of_kind(found, "Role").items()
    rights = {
        (group, resource): sorted(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert rights == {
        ("batch", "jobs"): ["create", "delete", "get", "list", "patch", "watch"],
        ("", "pods"): ["get", "list", "watch"],
        ("", "pods/log"): ["get"],
        ("", "events"): ["get", "list", "watch"],
    }
    ((_, binding),) = of_kind(found, "RoleBinding").items()
    trainer = deployment(found, "trainer")["spec"]["template"]["spec"]
    assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": trainer["serviceAccountName"], "namespace": NAMESPACE}
    ]
    mounted = {
        component: deployment(found, component)["spec"]["template"]["spec"]["automountServiceAccountToken"]
        for component in SERVICES
    }
    assert mounted == {"dataset": False, "trainer": True, "generator": False}


@EACH
def test_no_secret_is_made_and_none_is_in_the_clear(case: Case) -> None:
    found = rendered(case.name)
    assert not of_kind(found, "Secret")
    for component in SERVICES:
        plain = environment(container(found, component))
        assert not [name for name in plain if "SECRET_KEY" in name or "ACCESS_KEY" in name or name.endswith("_TOKEN")]


@EACH
def test_probes_ask_the_service_and_never_for_work(case: Case) -> None:
    found = rendered(case.name)
    tls = case.name in ("tls", "networkpolicy")
    for component in SERVICES:
        one = container(found, component)
        ready = {"httpGet": {"path": "/readyz", "port": "http", "scheme": "HTTPS"}} if tls else {"grpc": {"port": 5000}}
        for name in ("startupProbe", "readinessProbe"):
            assert ready.items() <= one[name].items()
        scheme = "HTTPS" if tls else "HTTP"
        assert one["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http", "scheme": scheme}
        # A start may take ten minutes; a busy service two.
        assert one["startupProbe"]["periodSeconds"] * one["startupProbe"]["failureThreshold"] >= 600
        assert one["livenessProbe"]["periodSeconds"] * one["livenessProbe"]["failureThreshold"] >= 120
        pod = deployment(found, component)["spec"]["template"]["spec"]
        given = environment(one)
        stops = float(given["MARSAM_DRAIN_SECONDS"]) + float(given["MARSAM_GRACE_SECONDS"])
        assert pod["terminationGracePeriodSeconds"] > stops


@EACH
def test_services_lead_to_ports_that_exist(case: Case) -> None:
    found = rendered(case.name)
    drawn = case.name.startswith("triton")
    components = (*SERVICES, "triton") if drawn else SERVICES
    names = {port["name"] for component in components for port in container(found, component)["ports"]}
    services = of_kind(found, "Service")
    assert len(services) == 7 + drawn
    for name, service in services.items():
        targets = {port["targetPort"] for port in service["spec"]["ports"]}
        assert targets <= ({"metrics"} if name.endswith("-runs") else names)
        assert service["spec"].get("clusterIP") == ("None" if name.endswith(("-headless", "-runs")) else None)


@EACH
def test_what_is_mounted_from_secrets_is_what_the_settings_name(case: Case) -> None:
    """Each MARSAM_*_FILE lies below a mount."""
    found = rendered(case.name)
    for component in SERVICES:
        one = container(found, component)
        mounts = [mount["mountPath"] for mount in one["volumeMounts"]]
        files = {name: path for name, path in environment(one).items() if name.endswith("_FILE")}
        assert "MARSAM_TOKEN_FILE" in files
        for name, path in files.items():
            assert any(path.startswith(f"{mount}/") for mount in mounts), name


def test_gpus_bring_their_limit_and_their_toleration() -> None:
    found = rendered("gpu")
    pod = deployment(found, "generator")["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod["containers"][0]["resources"]["requests"]["nvidia.com/gpu"] == "1"
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    profiles = runs_file(found)["profiles"]
    assert profiles["mig-12g"]["resources"]["limits"]["nvidia.com/mig-1g.12gb"] == "1"
    assert "nvidia.com/gpu" not in profiles["mig-12g"]["resources"]["limits"]
    assert "nvidia.com/gpu" not in profiles["cpu"]["resources"]["limits"]


def test_network_policies_let_through_what_is_needed_and_no_more() -> None:
    found = of_kind(rendered("networkpolicy"), "NetworkPolicy")
    assert {name.rpartition("-")[2] for name in found} == {"dataset", "trainer", "generator", "runs"}

    def ports(policy: dict[str, Any], side: str) -> set[object]:
        return {port["port"] for rule in policy["spec"][side] for port in rule.get("ports", [])}

    for name, policy in found.items():
        assert {53, 9000} <= ports(policy, "egress"), name
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
        scraped = "metrics" if name.endswith("-runs") else "http"
        (rule,) = (
            rule for rule in policy["spec"]["ingress"] if {"protocol": "TCP", "port": scraped} in rule.get("ports", [])
        )
        assert {"matchLabels": {"app.kubernetes.io/name": "prometheus"}} in [
            peer.get("podSelector") for peer in rule["from"]
        ]
        api = [rule for rule in policy["spec"]["egress"] if rule.get("to") == [{"ipBlock": {"cidr": "10.96.0.1/32"}}]]
        assert len(api) == (1 if name.endswith("-trainer") else 0)
    # Who calls gRPC: ours, and those that were named; nobody else of the namespace.
    (calls,) = (
        rule
        for rule in found["studio-1-marsam-dataset"]["spec"]["ingress"]
        if rule["ports"] == [{"protocol": "TCP", "port": "grpc"}]
    )
    assert len(calls["from"]) == 2
    assert {"podSelector": {}} not in calls["from"]


@EACH
def test_the_nodes_of_a_run_find_each_other(case: Case) -> None:
    """By a Service that names pods before they are ready, and a policy that lets them talk on ports of their choice."""
    found = rendered(case.name)
    file = runs_file(found)
    service = of_kind(found, "Service")[file["service"]]["spec"]
    assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
    assert service["selector"].items() <= file["labels"].items()
    for name, policy in of_kind(found, "NetworkPolicy").items():
        if name.endswith("-runs"):
            ours = {"podSelector": {"matchLabels": service["selector"]}}
            assert {"from": [ours]} in policy["spec"]["ingress"]
            assert {"to": [ours]} in policy["spec"]["egress"]


@pytest.mark.parametrize(
    ("endpoint", "said", "port"),
    [
        ("", 0, 443),
        ("https://minio.storage", 0, 443),
        ("http://minio.storage/", 0, 80),
        ("http://minio.storage:9000", 0, 9000),
        ("https://[fd00::1]:8333", 0, 8333),
        ("https://[fd00::1]", 0, 443),
        ("http://minio.storage:80", 9000, 9000),
    ],
)
def test_the_store_is_let_be_reached_at_its_own_port(endpoint: str, said: int, port: int) -> None:
    values = {
        "store": {**NEEDED["store"], "endpoint": endpoint},
        "auth": NEEDED["auth"],
        "networkPolicy": {"enabled": True, "storePort": said},
    }
    policies = of_kind(objects(values), "NetworkPolicy")
    assert len(policies) == 4
    for policy in policies.values():
        assert {"ports": [{"protocol": "TCP", "port": port}]} in policy["spec"]["egress"]


def test_monitors_take_the_place_of_annotations() -> None:
    full, minimal = rendered("full"), rendered("minimal")
    for component in SERVICES:
        assert "prometheus.io/scrape" not in deployment(full, component)["spec"]["template"]["metadata"]["annotations"]
        annotations = deployment(minimal, component)["spec"]["template"]["metadata"]["annotations"]
        assert annotations["prometheus.io/port"] == "8080"
    assert "prometheus.io/scrape" not in runs_file(full)["annotations"]
    assert runs_file(minimal)["annotations"]["prometheus.io/port"] == "9090"
    (monitor,) = of_kind(full, "PodMonitor").values()
    labels = runs_file(full)["labels"]
    selected = monitor["spec"]["selector"]["matchLabels"]
    assert selected.items() <= (labels | {"batch.kubernetes.io/job-completion-index": "0"}).items()


def test_a_certificate_names_every_service_by_each_of_its_names() -> None:
    found = rendered("tls")
    (certificate,) = of_kind(found, "Certificate").values()
    names = set(certificate["spec"]["dnsNames"])
    for service in of_kind(found, "Service"):
        if not service.endswith("-runs"):
            assert {service, f"{service}.{NAMESPACE}.svc", f"{service}.{NAMESPACE}.svc.k8s.example.com"} <= names
    assert "marsam.example.com" in names
    pod = deployment(found, "dataset")["spec"]["template"]["spec"]
    assert certificate["spec"]["secretName"] in [
        volume.get("secret", {}).get("secretName") for volume in pod["volumes"]
    ]


def test_disruption_budgets_stand_only_where_there_is_more_than_one() -> None:
    assert not of_kind(rendered("minimal"), "PodDisruptionBudget")
    found = of_kind(rendered("full"), "PodDisruptionBudget")
    assert set(found) == {"studio-dataset", "studio-generator"}
    assert all(each["spec"]["maxUnavailable"] == 1 for each in found.values())


def test_autoscalers_follow_the_seconds_of_queued_work_as_the_generator_exports_them() -> None:
    assert (metrics.QUEUE_WORK.name, metrics.QUEUE_WORK.labels) == ("marsam_queue_work_seconds", ("queue",))
    (scaler,) = of_kind(rendered("full"), "HorizontalPodAutoscaler").values()
    (metric,) = scaler["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == "marsam_queue_work_seconds"
    assert metric["pods"]["target"] == {"type": "AverageValue", "averageValue": "12.5"}
    assert (scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]) == (2, 9)
    (scaled,) = of_kind(rendered("keda"), "ScaledObject").values()
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["metadata"]["query"] == (
        'sum(marsam_queue_work_seconds{queue="pictures", namespace="images", pod=~"studio-1-pictures-generator-.*"}) '
        "or vector(0)"
    )
    assert scaled["spec"]["scaleTargetRef"]["name"] == "studio-1-pictures-generator"


def test_triton_draws_on_the_gpu_and_is_asked_whether_its_model_lives() -> None:
    found = rendered("triton")
    front, pod = (deployment(found, one)["spec"]["template"]["spec"] for one in ("generator", "triton"))
    assert "nvidia.com/mig-1g.12gb" not in front["containers"][0]["resources"]["limits"]
    assert "tolerations" not in front
    one = container(found, "triton")
    assert one["resources"]["limits"]["nvidia.com/mig-1g.12gb"] == "1"
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    model = {"path": "/v2/models/marsam_diffusion/ready", "port": "http"}
    assert one["startupProbe"]["httpGet"] == one["readinessProbe"]["httpGet"] == model
    # Triton is alive when its model's process is dead, and never starts it again.
    assert one["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "engine"}
    (memory,) = (volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == "shm")
    assert memory == {"medium": "Memory", "sizeLimit": "2Gi"}
    assert {"name": "shm", "mountPath": "/dev/shm", "readOnly": False} in one["volumeMounts"]
    assert pod["terminationGracePeriodSeconds"] > 300 and "--exit-timeout-secs=300" in one["args"]


def test_the_generator_finds_triton_by_its_service() -> None:
    found = rendered("triton")
    told = environment(container(found, "generator"))
    assert (told["MARSAM_ENGINE"], told["MARSAM_TRITON_URL"]) == (
        "triton", "studio-1-marsam-triton.images.svc.cluster.local:8001",
    )  # fmt: skip
    ports = {port["name"]: port for port in of_kind(found, "Service")["studio-1-marsam-triton"]["spec"]["ports"]}
    assert ports["grpc"]["port"] == 8001
    there = environment(container(found, "triton"))
    assert there["MARSAM_STORE"] == told["MARSAM_STORE"]
    assert (there["MARSAM_DEVICE"], there["MARSAM_QUEUE_SECONDS"]) == ("cuda", "300")
    assert "MARSAM_ENGINE" not in environment(container(rendered("minimal"), "generator"))
    assert not [each for each in of_kind(rendered("minimal"), "Deployment") if each.endswith("-triton")]


def test_tritons_metrics_are_the_engines_and_its_own() -> None:
    monitor = of_kind(rendered("triton"), "ServiceMonitor")["studio-1-marsam-triton"]["spec"]
    assert [(end["port"], end["path"], end["interval"]) for end in monitor["endpoints"]] == [
        ("engine", "/metrics", "30s"), ("metrics", "/metrics", "30s"),
    ]  # fmt: skip
    annotations = deployment(rendered("triton-scaled"), "triton")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == "8080"


def test_the_work_that_triton_has_scales_triton() -> None:
    found = rendered("triton-scaled")
    (scaler,) = of_kind(found, "HorizontalPodAutoscaler").values()
    assert scaler["spec"]["scaleTargetRef"]["name"] == "studio-1-marsam-triton"
    assert "replicas" not in deployment(found, "triton")["spec"]
    assert deployment(found, "generator")["spec"]["replicas"] == 1
    assert set(of_kind(found, "PodDisruptionBudget")) == {"studio-1-marsam-triton"}


def test_only_generators_may_ask_triton() -> None:
    policy = of_kind(rendered("triton"), "NetworkPolicy")["studio-1-marsam-triton"]["spec"]
    asking, scraping = policy["ingress"]
    assert [port["port"] for port in asking["ports"]] == ["grpc"]
    (who,) = asking["from"]
    assert who["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "generator"
    assert [port["port"] for port in scraping["ports"]] == ["metrics", "engine"]


def test_extra_objects_are_templates() -> None:
    assert of_kind(rendered("full"), "ConfigMap")["studio-extra"]["data"] == {"answer": "studio-1"}
