"""Domain objects ⇄ the messages of marsam.api.dataset.v1. Nothing here decides anything."""

from collections.abc import Iterable, Sequence

from marsam.api.common.v1 import common_pb2
from marsam.api.dataset.v1 import dataset_pb2 as pb
from marsam.catalog.datasets import Caption, Dataset, DatasetVersion, Finding, Item, Rights
from marsam.core.names import parse
from marsam.rpc.server.paging import leading
from marsam.rpc.wire.messages import file_message, timestamp
from marsam_dataset.assess import Assessment
from marsam_dataset.ingest.records import MOST_REFUSED_SHOWN, Tally
from marsam_dataset.reviews import Decision, Standing, Word
from marsam_dataset.versions import excluded_by_reason, licences

_SEVERITY = {"info": pb.SEVERITY_INFO, "warn": pb.SEVERITY_WARN, "fail": pb.SEVERITY_FAIL}
_REVIEW = {"accept": pb.REVIEW_VERDICT_ACCEPT, "reject": pb.REVIEW_VERDICT_REJECT, "takedown": pb.REVIEW_VERDICT_REJECT}
_WORD: dict[int, Word] = {pb.REVIEW_VERDICT_ACCEPT: "accept", pb.REVIEW_VERDICT_REJECT: "reject"}
MOST_FINDINGS, MOST_ASSOCIATIONS = 2000, 500
"""What one report message carries at most, the most serious first."""
_SHARE = 200_000
"""Bytes for each of the lists that share a message, which stays under 1 MiB."""
_RANK = {"fail": 0, "warn": 1, "info": 2}


def rights_from(message: common_pb2.Rights) -> Rights:
    return Rights(licence=message.licence, holder=message.holder, source=message.source, consent=message.consent)


def dataset(stored: Dataset, *, items: int, latest: str) -> pb.Dataset:
    return pb.Dataset(
        name=stored.name,
        display_name=stored.display_name,
        create_time=timestamp(stored.create_time),
        item_count=items,
        latest_version=latest,
        labels=dict(stored.labels),
    )


def finding(one: Finding) -> pb.Finding:
    return pb.Finding(
        check=one.check,
        severity=_SEVERITY[one.severity],
        reason=one.reason,
        message=one.message,
        related=one.related[:20],
    )


def item(dataset_name: str, one: Item, standing: Standing, findings: Sequence[Finding] | None = None) -> pb.Item:
    """An item with the findings that import made, or those given."""
    shown = standing.apply(one)
    return pb.Item(
        name=f"{dataset_name}/items/{one.id}",
        file_name=shown.file_name,
        image=file_message(shown.image),
        width=shown.width,
        height=shown.height,
        captions=[common_pb2.Caption(language=c.language, text=c.text) for c in shown.captions],
        attributes=dict(shown.attributes),
        rights=common_pb2.Rights(
            licence=shown.rights.licence,
            holder=shown.rights.holder,
            source=shown.rights.source,
            consent=shown.rights.consent,
        ),
        split=shown.split,
        findings=[finding(f) for f in (shown.findings if findings is None else findings)],
        review=_REVIEW.get(standing.verdicts.get(one.id, ""), pb.REVIEW_VERDICT_UNSPECIFIED),
    )


def decisions(messages: Iterable[pb.Review], *, dataset_name: str) -> list[Decision]:
    """Reviews as decisions. An item is named by its resource name or by its id. Raises Invalid."""
    found = []
    for message in messages:
        name = message.item if "/" in message.item else f"{dataset_name}/items/{message.item}"
        found.append(
            Decision(
                item=parse(name, "item", field="reviews.item").id,
                verdict=_WORD.get(message.verdict, ""),
                captions=tuple(Caption(language=c.language, text=c.text) for c in message.captions),
                reviewer=message.reviewer,
                note=message.note,
            )
        )
    return found


def import_(name: str, tally: Tally) -> pb.Import:
    refused = tally.refused
    return pb.Import(
        name=name,
        dataset=tally.spec.dataset,
        state=f"JOB_STATE_{tally.state}",
        files_received=tally.spec.files,
        files_done=tally.done,
        items_accepted=tally.accepted,
        files_refused=len(refused),
        images_per_second=tally.images_per_second,
        refused=leading(
            [
                pb.FileVerdict(path=v.path, accepted=False, reason=v.reason, message=v.message)
                for v in refused[:MOST_REFUSED_SHOWN]
            ]
        ),
        message=tally.message,
    )


def report(dataset_name: str, assessment: Assessment) -> pb.Report:
    files = {one.id: one.file_name for one in assessment.items}
    ordered = sorted(assessment.found, key=lambda one: _RANK[one.finding.severity])
    return pb.Report(
        items=len(assessment.items),
        kept=len(assessment.kept),
        findings=leading(
            [
                pb.ItemFinding(
                    item=f"{dataset_name}/items/{one.item}", file_name=files[one.item], finding=finding(one.finding)
                )
                for one in ordered[:MOST_FINDINGS]
            ],
            limit=2 * _SHARE,
        ),
        associations=leading(
            [
                pb.Association(
                    attribute_a=a.a, attribute_b=a.b, cramers_v=a.v, items=a.items, warns=a.warns, message=a.message
                )
                for a in assessment.associations[:MOST_ASSOCIATIONS]
            ],
            limit=_SHARE,
        ),
        coverage=leading(
            [pb.AttributeCount(attribute=a, value=v, items=n) for a, v, n in assessment.coverage], limit=_SHARE
        ),
        warnings=leading(assessment.warnings, limit=_SHARE // 2),
    )


def version(stored: DatasetVersion) -> pb.Version:
    report = stored.report
    return pb.Version(
        name=stored.name,
        digest=stored.digest,
        item_count=len(stored.items),
        excluded_count=len(stored.excluded),
        create_time=timestamp(stored.create_time),
        message=report.get("message", ""),
        associations=leading(
            [
                pb.Association(
                    attribute_a=a["a"],
                    attribute_b=a["b"],
                    cramers_v=a["v"],
                    items=a["items"],
                    warns=a["warns"],
                    message=a["message"],
                )
                for a in report.get("associations", ())
            ],
            limit=_SHARE,
        ),
        warnings=leading(report.get("warnings", ()), limit=_SHARE),
        licences=leading(licences(stored.items), limit=_SHARE),
        excluded_by_reason=excluded_by_reason(stored),
    )


def difference_entry(entry: tuple[str, str]) -> pb.DiffVersionsResponse:
    """One (kind of change, file name) as the part of an answer that it is."""
    kind, name = entry
    return pb.DiffVersionsResponse(**{kind: [name]})  # type: ignore[arg-type]  # each kind is a list of names


def export_name(version_name: str, format: str) -> str:
    """An export is named by what it is made of: it can be read as long as the version is there."""
    return f"{version_name}/exports/{format}"


def split_export_name(name: str) -> tuple[str, str]:
    """The inverse of `export_name`. Raises Invalid."""
    version_name, _, format = name.partition("/exports/")
    parse(version_name, "version", field="export")
    return version_name, format
