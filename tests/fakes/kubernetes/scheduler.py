"""The scheduler of the fake cluster: selectors, taints, and resources that are counted (GPUs)."""

from typing import Any

from tests.fakes.kubernetes.conditions import holds, over
from tests.fakes.kubernetes.store import Object, Objects, now


def schedule(objects: Objects) -> None:
    """Give each pod that has none a node that fits, or say in its condition why there is none."""
    nodes = objects.all("nodes")
    for pod in objects.all("pods"):
        if pod["spec"].get("nodeName") or pod["metadata"].get("deletionTimestamp"):
            continue
        reasons = []
        for node in nodes:
            reason = _misfit(objects, pod, node)
            if reason is None:
                _bind(objects, pod, node["metadata"]["name"])
                break
            reasons.append(reason)
        else:
            counted = ", ".join(f"{reasons.count(r)} {r}" for r in sorted(set(reasons)))
            said = f"0/{len(nodes)} nodes are available: {counted}." if nodes else "no nodes available to schedule pods"
            _condition(objects, pod, "PodScheduled", "Unschedulable", said)


def _misfit(objects: Objects, pod: Object, node: Object) -> str | None:
    spec, status = pod["spec"], node["status"]
    if not holds(node, "Ready"):
        return "node(s) were not ready"
    labels = node["metadata"].get("labels", {})
    if any(labels.get(k) != v for k, v in spec.get("nodeSelector", {}).items()):
        return "node(s) didn't match Pod's node affinity/selector"
    for taint in node["spec"].get("taints", ()):
        if not any(_tolerates(t, taint) for t in spec.get("tolerations", ())):
            return f"node(s) had untolerated taint(s) {{{taint['key']}: {taint.get('value', '')}}}"
    for name, amount in spec["containers"][0].get("resources", {}).get("limits", {}).items():
        if "/" not in name:
            continue
        used = sum(
            int(other["spec"]["containers"][0].get("resources", {}).get("limits", {}).get(name, 0))
            for other in objects.all("pods")
            if other["spec"].get("nodeName") == node["metadata"]["name"] and not over(other)
        )
        if int(status.get("allocatable", {}).get(name, 0)) - used < int(amount):
            return f"Insufficient {name}"
    return None


def _bind(objects: Objects, pod: Object, node: str) -> None:
    def change(thing: Object) -> None:
        thing["spec"]["nodeName"] = node
        thing["status"]["conditions"] = [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": now()},
        ]

    objects.update("pods", pod["metadata"]["name"], change)


def _condition(objects: Objects, pod: Object, kind: str, reason: str, message: str) -> None:
    old = next((c for c in pod["status"].get("conditions", ()) if c["type"] == kind), {})
    if old.get("message") == message:
        return
    entry = {"type": kind, "status": "False", "reason": reason, "message": message, "lastTransitionTime": now()}

    def change(thing: Object) -> None:
        rest = [c for c in thing["status"].get("conditions", ()) if c["type"] != kind]
        thing["status"]["conditions"] = [*rest, entry]

    objects.update("pods", pod["metadata"]["name"], change)


def _tolerates(toleration: dict[str, Any], taint: dict[str, Any]) -> bool:
    if toleration.get("key") not in (None, "", taint["key"]) or toleration.get("effect") not in (
        None,
        "",
        taint["effect"],
    ):
        return False
    return toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", "")
