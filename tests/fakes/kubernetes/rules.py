"""What a real kube-apiserver accepts: names, fields, what may change, selectors, rights."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import kubernetes_validate

from tests.fakes.kubernetes.store import Object, Refusal

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_UNKNOWN = re.compile(r"\('([^']+)' was unexpected\)")
_SCHEMAS = "1.37"
_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
_IMMUTABLE = ("completions", "completionMode", "selector", "podFailurePolicy", "backoffLimitPerIndex", "successPolicy")


def check_strictly(manifest: Object) -> None:
    """400 for a field that the server does not know, as with fieldValidation=Strict."""
    try:
        kubernetes_validate.validate(manifest, _SCHEMAS, strict=True)
    except kubernetes_validate.ValidationError as error:
        path = ".".join(str(part) for part in error.path)
        if (unknown := _UNKNOWN.search(error.message)) is not None:
            said = f'strict decoding error: unknown field "{path}.{unknown[1]}"'.replace('".', '"')
        else:
            said = f"{path}: {error.message}"
        raise Refusal(400, "BadRequest", f'Job in version "v1" cannot be handled as a Job: {said}') from error


def check_job(job: Object) -> None:
    """422 for a Job whose values cannot be."""
    name = job["metadata"].get("name") or job["metadata"].get("generateName", "") + "aaaaa"
    faults = []
    if len(name) > 63 or not _NAME.fullmatch(name):  # the name becomes a label of its pods
        faults.append(f'metadata.name: Invalid value: "{name}": must be a DNS label of no more than 63 characters')
    spec = job["spec"]
    template = spec["template"]
    for where, labels in (("metadata", job["metadata"].get("labels")), ("spec.template", _labels(template))):
        for key, value in (labels or {}).items():
            if not _LABEL.fullmatch(str(value)):
                faults.append(f'{where}.labels: Invalid value: "{value}" of {key}: a valid label must be …')
    if spec.get("podFailurePolicy") and template["spec"].get("restartPolicy") != "Never":
        faults.append('spec.template.spec.restartPolicy: Invalid value: only "Never" with podFailurePolicy')
    if spec.get("podFailurePolicy") and spec.get("podReplacementPolicy", "Failed") != "Failed":
        faults.append("spec.podReplacementPolicy: Unsupported value: must be Failed with podFailurePolicy")
    if spec.get("activeDeadlineSeconds", 0) < 0:
        faults.append("spec.activeDeadlineSeconds: Invalid value: must be greater than or equal to 0")
    for container in template["spec"].get("containers", ()):
        resources = container.get("resources", {})
        for resource, amount in resources.get("requests", {}).items():
            if "/" in resource and resources.get("limits", {}).get(resource) != amount:
                faults.append(f"resources.requests[{resource}]: must equal the limit")
    mounted = {m["name"] for c in template["spec"].get("containers", ()) for m in c.get("volumeMounts", ())}
    for volume in sorted(mounted - {v["name"] for v in template["spec"].get("volumes", ())}):
        faults.append(f'spec.template.spec.containers[0].volumeMounts: Not found: "{volume}"')
    if faults:
        raise Refusal(422, "Invalid", f'Job.batch "{name}" is invalid: {"; ".join(faults)}')


def check_change(before: Object, after: Object) -> None:
    """422 for a change of what cannot change."""
    name, old, new = before["metadata"]["name"], before["spec"], after["spec"]
    for field in _IMMUTABLE:
        if old.get(field) != new.get(field):
            raise Refusal(422, "Invalid", f'Job.batch "{name}" is invalid: spec.{field}: field is immutable')
    if _fixed(old["template"], suspended=bool(old.get("suspend"))) != _fixed(
        new["template"], suspended=bool(old.get("suspend"))
    ):
        raise Refusal(422, "Invalid", f'Job.batch "{name}" is invalid: spec.template: field is immutable')


def _fixed(template: Object, *, suspended: bool) -> Object:
    """What of a pod template cannot change: all, but on a suspended Job not where it runs and what it gets."""
    if not suspended:
        return template
    loose = ("nodeSelector", "affinity", "tolerations", "schedulingGates")
    spec = {name: value for name, value in template["spec"].items() if name not in loose}
    spec["containers"] = [{k: v for k, v in c.items() if k != "resources"} for c in spec["containers"]]
    return {"spec": spec}


def _labels(template: Object) -> Mapping[str, str]:
    return dict(template.get("metadata", {}).get("labels") or {})


def restricted(spec: Object) -> str | None:
    """What of a pod's spec the Pod Security standard `restricted` forbids, in the server's words; None: nothing."""
    faults = [
        f'{what} (container "{container["name"]}" must set securityContext.{how})'
        for container in spec["containers"]
        for what, how in _unrestricted(container.get("securityContext", {}), spec.get("securityContext", {}))
    ]
    for volume in spec.get("volumes", ()):
        if not _VOLUMES & set(volume):
            faults.append(f'restricted volume types (volume "{volume["name"]}")')
    return f'violates PodSecurity "restricted:latest": {", ".join(faults)}' if faults else None


def _unrestricted(own: Object, pods: Object) -> Iterator[tuple[str, str]]:
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation != false", "allowPrivilegeEscalation=false"
    if "ALL" not in own.get("capabilities", {}).get("drop", ()):
        yield "unrestricted capabilities", 'capabilities.drop=["ALL"]'
    if own.get("runAsNonRoot", pods.get("runAsNonRoot")) is not True:
        yield "runAsNonRoot != true", "runAsNonRoot=true"
    if own.get("seccompProfile", pods.get("seccompProfile", {})).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "seccompProfile", 'seccompProfile.type to "RuntimeDefault" or "Localhost"'


def label_matcher(selector: str) -> Callable[[Object], bool]:
    """Equality and set-free selectors: a=b, a==b, a!=b, a, !a."""
    terms = [term.strip() for term in selector.split(",") if term.strip()]

    def matches(thing: Object) -> bool:
        labels = thing["metadata"].get("labels") or {}
        for term in terms:
            if "!=" in term:
                key, value = term.split("!=")
                good = labels.get(key) != value
            elif "=" in term:
                key, value = re.split("==?", term)
                good = labels.get(key) == value
            elif term.startswith("!"):
                good = term[1:] not in labels
            else:
                good = term in labels
            if not good:
                return False
        return True

    return matches


def field_matcher(selector: str) -> Callable[[Object], bool]:
    """`a.b=value` over the object's own fields."""
    terms = [re.split("==?", term) for term in selector.split(",") if term]

    def matches(thing: Object) -> bool:
        for path, value in terms:
            found: Any = thing
            for part in path.split("."):
                found = found.get(part, "") if isinstance(found, dict) else ""
            if str(found) != value:
                return False
        return True

    return matches


def allowed(rules: Sequence[Mapping[str, Any]], *, verb: str, group: str, resource: str) -> bool:
    """Whether a Role's rules grant `verb` on `resource` ('pods/log' for a subresource)."""

    def has(rule: Mapping[str, Any], key: str, value: str) -> bool:
        return value in rule.get(key, ()) or "*" in rule.get(key, ())

    return any(has(r, "apiGroups", group) and has(r, "resources", resource) and has(r, "verbs", verb) for r in rules)
