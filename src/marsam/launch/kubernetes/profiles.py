"""Where Jobs run and what they get: the file that MARSAM_KUBERNETES_FILE names, typed.

The keys are Kubernetes' own words wherever it has a word for the thing; an unknown key is an error.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from marsam.core.errors import Corrupt, Invalid, unknown_name
from marsam.core.records import from_plain

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?")
_UNITS = {"m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15,
          "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}  # fmt: skip
_MAX_NODES = 99
"""A pod's host name, the Job's and its number, is a label of 63 characters."""

_NATIVE = ("cpu", "memory", "ephemeral-storage")

Quantities = Mapping[str, str | int]


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a container asks for, in Kubernetes' quantities. GPUs and their MIG slices are limits: `nvidia.com/gpu: 1`,
    `nvidia.com/mig-1g.12gb: 1`.
    """

    requests: Quantities = field(default_factory=dict)
    limits: Quantities = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, amount in (*self.requests.items(), *self.limits.items()):
            quantity(amount, field=name)
        for name, amount in self.requests.items():
            if name not in _NATIVE and self.limits.get(name) != amount:
                raise Invalid(f"'{name}' must be the same in requests and limits", field=name, reason="LIMIT_MISSING")


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A kind of machine: a node pool with its resources.

    `shm` is the size of /dev/shm and counts against the memory limit. `graceSeconds` lie between SIGTERM and SIGKILL.
    An attempt is given up when its image cannot be had for `imageSeconds`, or no node for `pendingSeconds`; it takes at
    most `deadlineSeconds` (0: as long as it likes). With `kueueQueue` Jobs are created suspended, for Kueue to admit.
    """

    description: str = ""
    image: str = ""
    resources: Resources = field(default_factory=Resources)
    nodeSelector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    affinity: Mapping[str, Any] = field(default_factory=dict)
    runtimeClassName: str = ""
    priorityClassName: str = ""
    shm: str = "1Gi"
    kueueQueue: str = ""
    graceSeconds: int = 120
    deadlineSeconds: int = 0
    imageSeconds: int = 600
    pendingSeconds: int = 86_400
    env: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        limit = self.resources.limits.get("memory")
        if limit is not None and quantity(self.shm, field="shm") >= quantity(limit, field="memory"):
            raise Invalid(f"shm {self.shm} is not below the memory limit {limit}, which it counts against", field="shm")
        if min(self.graceSeconds, self.imageSeconds, self.pendingSeconds) < 1 or self.deadlineSeconds < 0:
            raise Invalid("graceSeconds, imageSeconds and pendingSeconds must be ≥ 1, deadlineSeconds ≥ 0")

    @property
    def gpus(self) -> Mapping[str, str | int]:
        """The NVIDIA resources among the limits."""
        return {name: amount for name, amount in self.resources.limits.items() if name.startswith("nvidia.com/")}

    @property
    def ranks(self) -> int:
        """How many ranks of a program a node takes: one for each GPU, or one."""
        return sum(int(quantity(amount, field=name)) for name, amount in self.gpus.items()) or 1


@dataclass(frozen=True, kw_only=True)
class SecretKey:
    """One key of a Secret of the namespace."""

    secret: str
    key: str


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A volume for every Job: `source` is what stands beside `name` in a pod's volume (`secret: …`)."""

    name: str
    mountPath: str
    source: Mapping[str, Any]
    readOnly: bool = False


@dataclass(frozen=True, kw_only=True)
class ClusterFile:
    """All that is said of a cluster. `instance` tells the Jobs of one trainer from those of another in `namespace`.

    `service` is the headless Service that names the nodes; `cache` a folder that a run may fill (an emptyDir unless a
    volume is mounted there); `default` the profile of a run that names none (the only one, where there is only one);
    `command` how the image starts its program, the trainer's own when empty; `crew` what there starts several ranks.
    """

    namespace: str
    image: str
    profiles: Mapping[str, Profile]
    default: str = ""
    instance: str = "marsam"
    service: str = ""
    serviceAccount: str = ""
    command: tuple[str, ...] = ()
    crew: tuple[str, ...] = ("python3", "-m", "marsam.launch.crew")
    imagePullPolicy: str = "IfNotPresent"
    imagePullSecrets: tuple[str, ...] = ()
    cache: str = "/cache"
    metricsPort: int = 9090
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, SecretKey] = field(default_factory=dict)
    volumes: tuple[Volume, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.profiles:
            raise Invalid("at least one profile is needed", field="profiles")
        for name in (self.namespace, self.instance, *self.profiles):
            if not _NAME.fullmatch(name):
                raise Invalid(f"'{name}' is no Kubernetes name: lower-case letters, digits and '-'", field=name)
        if self.default:
            self.profile(self.default)
        elif len(self.profiles) > 1:
            raise Invalid("which profile is the default?", field="default", remedy=f"one of {sorted(self.profiles)}")

    @property
    def default_name(self) -> str:
        """The profile of whoever names none."""
        return self.default or next(iter(self.profiles))

    def profile(self, name: str) -> Profile:
        """Return the profile of that name, the default one for ''. Raises Invalid (UNKNOWN_PROFILE)."""
        name = name or self.default_name
        if name not in self.profiles:
            raise unknown_name("profile", name, self.profiles, field="profile")
        return self.profiles[name]

    def spread(self, ranks: int, profile: str) -> tuple[int, int]:
        """Return (nodes, ranks on each) of a program: fewer than a node takes get one, more get whole nodes.

        Raises Invalid (PROCESSES_UNSUPPORTED, SERVICE_MISSING).
        """
        each, name = self.profile(profile).ranks, profile or self.default_name
        if ranks <= each:
            return 1, ranks
        nodes, left = divmod(ranks, each)
        if left:
            raise _no_room(
                f"{ranks} processes do not fill nodes of {each} GPUs, as profile '{name}' asks for them",
                remedy=f"{nodes * each} or {(nodes + 1) * each} processes",
            )
        if nodes > _MAX_NODES:
            raise _no_room(f"{ranks} processes need {nodes} nodes of profile '{name}'", remedy=f"{_MAX_NODES} at most")
        if not self.service:
            raise _no_room(
                f"{nodes} nodes for {ranks} processes find each other by a headless Service, and none is named",
                reason="SERVICE_MISSING",
                remedy="set `service` in MARSAM_KUBERNETES_FILE",
            )
        return nodes, each


def _no_room(message: str, *, remedy: str, reason: str = "PROCESSES_UNSUPPORTED") -> Invalid:
    return Invalid(message, field="processes", reason=reason, remedy=remedy)


def quantity(amount: str | int, *, field: str) -> float:
    """Return a Kubernetes quantity as a number. Raises Invalid (QUANTITY)."""
    match = _QUANTITY.fullmatch(str(amount))
    if match is None:
        raise Invalid(f"'{amount}' is no quantity such as 500m, 2 or 16Gi", field=field, reason="QUANTITY")
    return float(match[1]) * _UNITS[match[2] or ""]


def read_cluster_file(path: Path) -> ClusterFile:
    """Return what `path` says. Raises Invalid (KUBERNETES_FILE), naming the place and the nearest known key."""
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _refusal(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _refusal(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    try:
        return from_plain(ClusterFile, plain, what=path.name)
    except Corrupt as error:
        raise _refusal(error.message, remedy=error.remedy) from error


def _refusal(message: str, *, remedy: str = "") -> Invalid:
    return Invalid(message, field="kubernetes_file", reason="KUBERNETES_FILE", remedy=remedy)
