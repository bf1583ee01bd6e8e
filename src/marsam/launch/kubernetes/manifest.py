"""The Job of one attempt, as a plain dict: what is sent is what stands here."""

import hashlib
import re
from pathlib import Path
from typing import Any

from marsam.launch.kubernetes.profiles import ClusterFile, Profile
from marsam.launch.launcher import Program

USER = 10001
CONTAINER = "run"

KEY = "marsam.dev/key"
LOG = "marsam.dev/log"
EXIT = "marsam.dev/exit"
STOPPED = "marsam.dev/stopped"
PROFILE = "marsam.dev/profile"
TRAINER = "marsam.dev/trainer"
RANKS = "marsam.dev/ranks"
QUEUE = "kueue.x-k8s.io/queue-name"

_KEPT_S = 7 * 86_400
"""A Job that nobody has forgotten is removed by Kubernetes this long after its end."""

_KEPT_BRIEFLY_S = 600
"""The same, for a program that was of use to its caller only."""

_BEAT_AGE_S = 300
"""A program whose last sign of life is older than this has hung, and is ended by the kubelet."""

_MEETING_PORT = 29400
"""Where the nodes of a program meet, at the first one; they talk on ports of their own choice afterwards."""

# Numbers of the rules of podFailurePolicy: the Job's condition names the one that matched.
DISRUPTION_RULE = 0
EXIT_RULE = 1


def job_name(key: str) -> str:
    """Return the Job's name for a program key: readable, unique by digest, and short enough for a pod's host name."""
    readable = re.sub(r"[^a-z0-9]+", "-", key).strip("-")[-44:].strip("-")
    return f"marsam-{readable}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"


def selector(cluster: ClusterFile) -> str:
    """Return what selects the Jobs and pods of this trainer, and nobody else's."""
    return f"{TRAINER}={cluster.instance}"


def _labels(cluster: ClusterFile, program: Program) -> dict[str, str]:
    """The file may say other app.kubernetes.io/* than these; what Marsam finds its own by is not for it to change."""
    labels = {
        "app.kubernetes.io/name": "marsam",
        "app.kubernetes.io/instance": cluster.instance,
        "app.kubernetes.io/component": "run",
        "app.kubernetes.io/managed-by": "marsam-trainer",
        **cluster.labels,
        **program.labels,
        TRAINER: cluster.instance,
    }
    return labels | ({PROFILE: program.profile} if program.profile else {})


def job(cluster: ClusterFile, program: Program, *, key: str) -> dict[str, Any]:
    """Return the manifest of the Job that runs `program`, once: only the trainer retries.

    Every way to fail ends the Job at once; its condition says by which rule: taken away, or an exit code of its own.
    Several ranks have a pod for each node that they need.
    Raises Invalid (UNKNOWN_PROFILE, PROCESSES_UNSUPPORTED, SERVICE_MISSING).
    """
    profile = cluster.profile(program.profile)
    nodes, ranks = cluster.spread(program.ranks, program.profile)
    annotations = {KEY: key, LOG: str(program.log_path)}
    if program.ranks > 1:
        annotations[RANKS] = str(program.ranks)
    labels = _labels(cluster, program)
    spec: dict[str, Any] = {
        "completionMode": "Indexed",
        "completions": nodes,
        "parallelism": nodes,
        "backoffLimit": 0,
        "podReplacementPolicy": "Failed",
        "ttlSecondsAfterFinished": _KEPT_BRIEFLY_S if program.limit_s else _KEPT_S,
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": CONTAINER, "operator": "NotIn", "values": [0]},
                },
            ]
        },
        "template": {
            "metadata": {"labels": labels, "annotations": dict(cluster.annotations)},
            "spec": _pod(cluster, profile, program, _command(cluster, program, key, nodes=nodes, ranks=ranks)),
        },
    }
    limits = [limit for limit in (profile.deadlineSeconds, program.limit_s) if limit]
    if limits:
        spec["activeDeadlineSeconds"] = min(limits)
    if profile.kueueQueue:
        spec["suspend"] = True
        labels = {**labels, QUEUE: profile.kueueQueue}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(key),
            "namespace": cluster.namespace,
            "labels": labels,
            "annotations": annotations,
        },
        "spec": spec,
    }


def _command(cluster: ClusterFile, program: Program, key: str, *, nodes: int, ranks: int) -> list[str]:
    """What a pod starts: the program, or a crew that starts several of it."""
    if program.ranks == 1:
        return list(program.argv)
    crew = [*cluster.crew, "--ranks", str(ranks)]
    if nodes > 1:
        crew += ["--nodes", str(nodes), "--meet", f"{job_name(key)}-0.{cluster.service}:{_MEETING_PORT}"]
        crew += ["--beat", str(program.beat_path)] if program.beat_path is not None else []
    return [*crew, "--", *program.argv]


def _pod(cluster: ClusterFile, profile: Profile, program: Program, command: list[str]) -> dict[str, Any]:
    volumes, mounts = _volumes(cluster, profile)
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": profile.graceSeconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(cluster, profile, program, command, mounts)],
        "volumes": volumes,
    }
    tolerations = [dict(toleration) for toleration in profile.tolerations]
    if profile.gpus:  # pools of GPUs are tainted so in every cloud, and not every cloud adds the toleration
        tolerations.append({"key": "nvidia.com/gpu", "operator": "Exists"})
    optional = {
        "serviceAccountName": cluster.serviceAccount,
        "subdomain": cluster.service,
        "imagePullSecrets": [{"name": name} for name in cluster.imagePullSecrets],
        "nodeSelector": dict(profile.nodeSelector),
        "tolerations": tolerations,
        "affinity": dict(profile.affinity),
        "runtimeClassName": profile.runtimeClassName,
        "priorityClassName": profile.priorityClassName,
    }
    return pod | {name: value for name, value in optional.items() if value}


def _container(
    cluster: ClusterFile, profile: Profile, program: Program, command: list[str], mounts: list[dict[str, Any]]
) -> dict[str, Any]:
    plain = {"HOME": "/tmp", **cluster.env, **profile.env, **program.env}
    env: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in plain.items()]
    env += [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": ref.secret, "key": ref.key}}}
        for name, ref in cluster.secrets.items()
        if name not in plain
    ]
    env.append({"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": profile.image or cluster.image,
        "imagePullPolicy": cluster.imagePullPolicy,
        "command": command,
        "env": env,
        "ports": [{"name": "metrics", "containerPort": cluster.metricsPort}],
        "resources": {
            "requests": dict(profile.resources.requests),
            "limits": dict(profile.resources.limits),
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        # The last lines of its output stay with the pod when its log is out of reach.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }
    if program.cwd is not None:
        container["workingDir"] = str(program.cwd)
    if program.beat_path is not None:
        container["livenessProbe"] = _liveness(program.beat_path)
    return container


def _liveness(beat: Path) -> dict[str, Any]:
    """Fails when the file is old. No Python, no network: a program that is busy is not starved into looking dead."""
    script = f'[ -e "$0" ] && [ $(( $(date +%s) - $(stat -c %Y "$0") )) -lt {_BEAT_AGE_S} ]'
    return {
        "exec": {"command": ["sh", "-c", script, str(beat)]},
        "initialDelaySeconds": 60,
        "periodSeconds": 20,
        "timeoutSeconds": 10,
        "failureThreshold": 3,
    }


def _volumes(cluster: ClusterFile, profile: Profile) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return (volumes, mounts): what may be written, and the file's own volumes."""
    volumes: list[dict[str, Any]] = [
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": profile.shm}},
    ]
    mounts: list[dict[str, Any]] = [
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "shm", "mountPath": "/dev/shm"},
    ]
    if cluster.cache not in (volume.mountPath for volume in cluster.volumes):
        volumes.append({"name": "cache", "emptyDir": {}})
        mounts.append({"name": "cache", "mountPath": cluster.cache})
    for volume in cluster.volumes:
        volumes.append({"name": volume.name, **volume.source})
        mounts.append({"name": volume.name, "mountPath": volume.mountPath, "readOnly": volume.readOnly})
    return volumes, mounts
