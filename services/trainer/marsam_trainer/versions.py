"""The dataset versions that an order names: the one to learn, and the one of what must not be forgotten."""

from dataclasses import replace
from fractions import Fraction
from math import ceil
from typing import get_args

from marsam.catalog.datasets import DatasetVersion
from marsam.catalog.repository import load_version
from marsam.catalog.runs import Publish, RunSpec
from marsam.core.errors import Invalid, Missing, did_you_mean
from marsam.store.blobs import Blobs
from marsam_trainer.orders import Fault, Order, faults_of

SHARE = 0.2
"""Steps that are taken from a regularisation version unless the order says otherwise: in the middle of the 10 to 25 %
that recipes against forgetting use."""

ORIGINS = {
    "publish": "both where pictures are held out, which tell what is best; else the last",
    "regularisation_share": "the middle of what recipes against forgetting use",
    "regularisation_weight": "a step counts as a step",
}
"""Where the defaults of what this module fills in come from."""

_KEYS = ("regularisation_digest", "regularisation_share", "regularisation_weight")


async def learnt(blobs: Blobs, order: Order, project: str) -> tuple[DatasetVersion | None, list[Fault]]:
    """The version to learn, and what is wrong with it."""
    version, faults = await _read(blobs, project, order.dataset_version, order.dataset_digest, field="dataset_version")
    if version is not None:
        spoken = _spoken(version)
        for index, language in enumerate(order.languages):
            if language not in spoken:
                faults.append(
                    Fault(
                        field=f"languages[{index}]",
                        reason="UNKNOWN_LANGUAGE",
                        message=f"no caption of {version.name} is in '{language}'",
                        remedy=did_you_mean(language, spoken) or "the version has no captions at all",
                    )
                )
    return version, faults


async def regularisation(blobs: Blobs, order: Order, project: str) -> tuple[DatasetVersion | None, list[Fault]]:
    """The version of what must not be forgotten, None when the order names none; and what is wrong with it."""
    if not order.regularisation:
        return None, [_without(key) for key in _KEYS if getattr(order, key)]
    version, faults = await _read(
        blobs, project, order.regularisation, order.regularisation_digest, field="regularisation"
    )
    if version is not None:
        spoken = _spoken(version)
        if order.languages and not set(order.languages) & set(spoken):
            faults.append(
                Fault(
                    field="regularisation",
                    reason="UNKNOWN_LANGUAGE",
                    message=f"no caption of {version.name} is in {' or '.join(order.languages)}",
                    remedy=f"it speaks {', '.join(spoken)}" if spoken else "the version has no captions at all",
                )
            )
    return version, faults


def regularised(spec: RunSpec, order: Order, version: DatasetVersion) -> RunSpec:
    """`spec` with the regularisation version `version`, every default filled in."""
    return replace(
        spec,
        regularisation=version.name,
        regularisation_digest=version.digest,
        regularisation_share=order.regularisation_share or SHARE,
        regularisation_weight=order.regularisation_weight or 1.0,
    )


def idle(spec: RunSpec) -> list[Fault]:
    """The fault of a share so small that none of the run's steps is taken from the regularisation version."""
    if spec.steps * Fraction(spec.regularisation_share).limit_denominator(1_000_000) >= 1:
        return []
    return [
        Fault(
            field="regularisation_share",
            reason="REGULARISATION_IDLE",
            message=f"{spec.regularisation_share:g} of {spec.steps} steps is less than one: none would be taken from "
            f"{spec.regularisation}",
            remedy=f"set regularisation_share to {ceil(1000 / spec.steps) / 1000:g} or more, or take more steps",
        )
    ]


async def _read(
    blobs: Blobs, project: str, name: str, digest: str, *, field: str
) -> tuple[DatasetVersion | None, list[Fault]]:
    try:
        version = await load_version(blobs, within(name, project, field=field))
    except (Missing, Invalid) as error:
        return None, faults_of(error, field=field)
    faults = []
    if digest and digest != version.digest:
        pinned = "dataset_digest" if field == "dataset_version" else f"{field}_digest"
        faults.append(digest_fault(pinned, version.name, digest, version.digest))
    if not any(item.split == "train" for item in version.items):
        faults.append(
            Fault(
                field=field,
                reason="DATASET_EMPTY",
                message=f"{version.name} has no picture in its train split",
                remedy="commit a version that has",
            )
        )
    return version, faults


def _spoken(version: DatasetVersion) -> list[str]:
    usable = [item for item in version.items if item.split == "train"]
    return sorted({caption.language for item in usable for caption in item.captions})


def _without(key: str) -> Fault:
    return Fault(
        field=key,
        reason="REGULARISATION_MISSING",
        message=f"{key} is given and no regularisation version",
        remedy="name the version in `regularisation`, or leave this out",
    )


def publish(order: Order, version: DatasetVersion | None) -> tuple[Publish, list[Fault]]:
    """Which weights become models, and what is wrong with what was asked. Only pictures held out tell what is best."""
    held_out = version is not None and any(item.split == "validation" for item in version.items)
    match order.publish:
        case "":
            return ("both" if held_out else "last"), []
        case "last":
            return "last", []
        case "best" | "both" as asked:
            return asked, [] if held_out or version is None else [_nothing_held_out(asked, version)]
        case unknown:
            fault = Fault(
                field="publish",
                reason="UNKNOWN_PUBLISH",
                message=f"unknown publish '{unknown}'",
                remedy=did_you_mean(unknown, list(get_args(Publish))),
            )
            return "last", [fault]


def _nothing_held_out(asked: Publish, version: DatasetVersion) -> Fault:
    return Fault(
        field="publish",
        reason="NOTHING_HELD_OUT",
        message=f"publish is '{asked}', and {version.name} holds no picture of the split 'validation'",
        remedy="commit a version that holds some: they tell which weights are best",
    )


def same(version: DatasetVersion) -> Fault:
    """The fault of a regularisation version that holds just what is to be learnt, under whatever name."""
    return Fault(
        field="regularisation",
        reason="REGULARISATION_SAME",
        message=f"{version.name} is what is to be learnt: taking steps from it regularises nothing",
        remedy="name a version of pictures of the rest of the world",
    )


def within(name: str, project: str, *, field: str) -> str:
    """`name`, which must be in `project`; another project's things do not exist for this one."""
    if not name.startswith("projects/"):
        raise Invalid(
            f"'{name}' is not a resource name",
            field=field,
            reason="NAME_MALFORMED",
            remedy=f"projects/{project}/{'models' if field == 'base' else 'datasets'}/…",
        )
    if not name.startswith(f"projects/{project}/"):
        raise Missing(f"{name} does not exist in project {project}", reason="OTHER_PROJECT")
    return name


def digest_fault(field: str, name: str, given: str, found: str) -> Fault:
    """The fault of a digest that was pinned in `field`."""
    return Fault(
        field=field,
        reason="DIGEST_MISMATCH",
        message=f"{name} has digest {found}, not {given}",
        remedy="look at what changed, then give the new digest or none",
    )
