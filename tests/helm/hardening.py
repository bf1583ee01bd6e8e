"""Pod Security `restricted`, and what this project asks beyond it, of a pod's spec; a list of what is wrong."""

from collections.abc import Iterator
from typing import Any

ALLOWED_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim",
                   "projected", "secret"}  # fmt: skip


def faults(spec: dict[str, Any]) -> list[str]:
    """What a pod's spec lacks of `restricted`, of a read-only root and of limits."""
    return [
        *_pod(spec),
        *(f"{each['name']}: {fault}" for each in _containers(spec) for fault in _container(each, spec)),
    ]


def _containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [*spec.get("initContainers", []), *spec["containers"], *spec.get("ephemeralContainers", [])]


def _pod(spec: dict[str, Any]) -> Iterator[str]:
    for name in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
        if spec.get(name):
            yield f"{name} is set"
    context = spec.get("securityContext", {})
    if context.get("runAsNonRoot") is not True:
        yield "runAsNonRoot is not true"
    if context.get("runAsUser") != 10001:
        yield "runAsUser is not 10001"
    if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "seccompProfile is not RuntimeDefault"
    if spec.get("enableServiceLinks") is not False:
        yield "enableServiceLinks is not off: a Service's variables look like settings"
    if "automountServiceAccountToken" not in spec:
        yield "automountServiceAccountToken is not said"
    for volume in spec.get("volumes", []):
        (kind,) = set(volume) - {"name"}
        if kind not in ALLOWED_VOLUMES:
            yield f"volume {volume['name']} is a {kind}"


def _container(container: dict[str, Any], spec: dict[str, Any]) -> Iterator[str]:
    context = container.get("securityContext", {})
    if context.get("allowPrivilegeEscalation") is not False:
        yield "privilege escalation is allowed"
    if context.get("capabilities") != {"drop": ["ALL"]}:
        yield "capabilities are not all dropped"
    if context.get("privileged") or context.get("procMount"):
        yield "privileged, or an unmasked /proc"
    if context.get("runAsUser") == 0 or context.get("runAsNonRoot") is False:
        yield "runs as root"
    if context.get("readOnlyRootFilesystem") is not True:
        yield "the root can be written"
    if "memory" not in container["resources"].get("limits", {}):
        yield "no memory limit"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield "a host port"
    image = container["image"]
    if "@sha256:" not in image and (":" not in image.rpartition("/")[2] or image.endswith(":latest")):
        yield f"image {image} names no version"
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    mounts = {mount["mountPath"]: mount for mount in container.get("volumeMounts", [])}
    if len(mounts) != len(container.get("volumeMounts", [])):
        yield "two mounts at one path"
    if any(mount["name"] not in volumes for mount in mounts.values()):
        yield "a mount without a volume"
    if "emptyDir" not in volumes.get(mounts.get("/tmp", {}).get("name"), {}):
        yield "/tmp cannot be written"
    for variable in container.get("env", []):
        if "value" in variable and not isinstance(variable["value"], str):
            yield f"{variable['name']} is no text"
    if len({variable["name"] for variable in container.get("env", [])}) != len(container.get("env", [])):
        yield "a variable stands twice"
