"""What objects of the cluster say of themselves."""

from tests.fakes.kubernetes.store import Object


def over(pod: Object) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def holds(thing: Object, kind: str) -> Object | None:
    for condition in thing.get("status", {}).get("conditions") or ():
        if condition["type"] == kind and condition["status"] == "True":
            return dict(condition)
    return None
