"""The key layout: the only place where keys are spelled, and where they are checked."""

import re
from typing import Literal

from marsam.core.errors import Invalid
from marsam.core.ids import check_slug, check_ulid, digest_hex, sha256_hex

JobKind = Literal["runs", "evaluations", "imports"]

_SEGMENT = re.compile(r"[a-z0-9][a-z0-9._-]*")


def check_key(key: str) -> str:
    """Return `key` if a store may use it; Invalid (KEY_NOT_ALLOWED) otherwise. The empty key is not one."""
    if len(key) > 512 or not all(len(s) <= 128 and _SEGMENT.fullmatch(s) for s in key.split("/")):
        raise Invalid(f"'{key[:120]}' is not a store key", reason="KEY_NOT_ALLOWED",
                      remedy="segments of a-z 0-9 . _ - joined by '/', at most 512 bytes")  # fmt: skip
    return key


def check_prefix(prefix: str) -> str:
    """Return `prefix` if it names a folder ('' is the root); Invalid otherwise."""
    return prefix if prefix == "" else check_key(prefix)


def number(n: int) -> str:
    """Return the name of entry `n` (from 1) of a numbered log: eight digits, so text order is number order."""
    if not 1 <= n <= 99_999_999:
        raise Invalid(f"log entries are numbered 1 to 99999999, got {n}", field="seq")
    return f"{n:08d}"


def projects() -> str:
    """The folder of all projects."""
    return "p"


def project(project: str) -> str:
    """The folder of one project."""
    return f"p/{check_slug(project, field='project')}"


def blob(project_id: str, digest: str) -> str:
    """Content-addressed bytes."""
    digits = digest_hex(digest)
    return f"{project(project_id)}/blobs/sha256/{digits[:2]}/{digits}"


def blobs(project_id: str) -> str:
    """The folder of content-addressed bytes; below it lie folders named by the first two digits."""
    return f"{project(project_id)}/blobs/sha256"


def condemned_blobs(project_id: str) -> str:
    """The folder of all marks that blobs are being collected."""
    return f"{project(project_id)}/condemned"


def condemned(project_id: str, digest: str) -> str:
    """The folder of marks, one per collector, that a blob is being collected."""
    return f"{condemned_blobs(project_id)}/{digest_hex(digest)}"


def condemned_by(project_id: str, digest: str, collector: str) -> str:
    """One collector's mark on a blob: whoever stores the same bytes waits until it is gone."""
    return f"{condemned(project_id, digest)}/{check_ulid(collector, field='collector')}"


def request(project_id: str, scope: str, request_id: str) -> str:
    """The memory of one request id. `scope` (the method called) keeps ids of different methods apart."""
    return f"{project(project_id)}/requests/{sha256_hex(f'{scope} {request_id}'.encode())}"


def datasets(project_id: str) -> str:
    """The folder of datasets."""
    return f"{project(project_id)}/datasets"


def dataset(project_id: str, dataset_id: str) -> str:
    """The folder of one dataset."""
    return f"{datasets(project_id)}/{check_slug(dataset_id, field='dataset')}"


def dataset_head(project_id: str, dataset_id: str) -> str:
    """The dataset's own record."""
    return f"{dataset(project_id, dataset_id)}/dataset.json"


def items(project_id: str, dataset_id: str) -> str:
    """The folder of a dataset's items."""
    return f"{dataset(project_id, dataset_id)}/items"


def item(project_id: str, dataset_id: str, item_id: str) -> str:
    """One item as imported."""
    return f"{items(project_id, dataset_id)}/{check_ulid(item_id, field='item')}.json"


def reviews(project_id: str, dataset_id: str) -> str:
    """The numbered log of review decisions."""
    return f"{dataset(project_id, dataset_id)}/reviews"


def vocabularies(project_id: str, dataset_id: str) -> str:
    """The numbered log of the vocabularies that imports brought; the last one holds."""
    return f"{dataset(project_id, dataset_id)}/vocabularies"


def versions(project_id: str, dataset_id: str) -> str:
    """The folder of a dataset's versions."""
    return f"{dataset(project_id, dataset_id)}/versions"


def version(project_id: str, dataset_id: str, version_id: str) -> str:
    """One immutable version."""
    return f"{versions(project_id, dataset_id)}/{check_slug(version_id, field='version')}.json"


def models(project_id: str) -> str:
    """The folder of models."""
    return f"{project(project_id)}/models"


def model(project_id: str, model_id: str) -> str:
    """One model's manifest."""
    return f"{models(project_id)}/{check_slug(model_id, field='model')}.json"


def reservation(project_id: str, model_id: str) -> str:
    """The numbered log of who was to publish a model under this id."""
    return f"{project(project_id)}/reservations/{check_slug(model_id, field='model')}"


def tombstone(project_id: str, collection: str, name: str) -> str:
    """The mark, kept for ever, that an id was deleted and is not to be used again."""
    return f"{project(project_id)}/tombstones/{check_slug(collection)}/{check_slug(name)}"


def aliases(project_id: str) -> str:
    """The folder of aliases."""
    return f"{project(project_id)}/aliases"


def alias(project_id: str, alias_id: str) -> str:
    """The numbered log of one alias."""
    return f"{aliases(project_id)}/{check_slug(alias_id, field='alias')}"


def suites(project_id: str) -> str:
    """The folder of evaluation suites."""
    return f"{project(project_id)}/suites"


def suite(project_id: str, suite_id: str) -> str:
    """The folder of one suite's versions."""
    return f"{suites(project_id)}/{check_slug(suite_id, field='suite')}"


def suite_version(project_id: str, suite_id: str, version_id: str) -> str:
    """One immutable version of a suite."""
    return f"{suite(project_id, suite_id)}/{check_slug(version_id, field='version')}.json"


def generations(project_id: str) -> str:
    """The folder of generations."""
    return f"{project(project_id)}/generations"


def generation(project_id: str, generation_id: str) -> str:
    """One generation's record."""
    return f"{generations(project_id)}/{check_ulid(generation_id, field='generation')}.json"


def drawings(project_id: str) -> str:
    """The folder of generations that are being made."""
    return f"{project(project_id)}/drawing"


def pulse(project_id: str, generation_id: str) -> str:
    """The sign of life of a generation that is being made."""
    return f"{_drawing(project_id, generation_id)}/pulse.json"


def cancel(project_id: str, generation_id: str) -> str:
    """The wish that whoever makes a generation ends it."""
    return f"{_drawing(project_id, generation_id)}/cancel.json"


def _drawing(project_id: str, generation_id: str) -> str:
    return f"{drawings(project_id)}/{check_ulid(generation_id, field='generation')}"


def jobs(project_id: str, kind: JobKind) -> str:
    """The folder of jobs of one kind."""
    return f"{project(project_id)}/{check_slug(kind, field='kind')}"


def job(project_id: str, kind: JobKind, job_id: str) -> str:
    """The folder of one job."""
    return f"{jobs(project_id, kind)}/{check_ulid(job_id)}"


def job_spec(project_id: str, kind: JobKind, job_id: str) -> str:
    """What a job was asked to do; immutable."""
    return f"{job(project_id, kind, job_id)}/spec.json"


def job_log(project_id: str, kind: JobKind, job_id: str) -> str:
    """The numbered log of a job's transitions."""
    return f"{job(project_id, kind, job_id)}/log"


def attempts(project_id: str, kind: JobKind, job_id: str) -> str:
    """The folder of a job's attempts."""
    return f"{job(project_id, kind, job_id)}/attempts"


def attempt(project_id: str, kind: JobKind, job_id: str, n: int) -> str:
    """Where attempt `n` (from 1) writes, and nobody else."""
    if n < 1:
        raise Invalid(f"attempts are numbered from 1, got {n}", field="attempt")
    return f"{attempts(project_id, kind, job_id)}/{n}"


def attempt_file(project_id: str, kind: JobKind, job_id: str, n: int, name: str) -> str:
    """One thing below an attempt's folder, say 'result.json' or 'checkpoints/00000500/state.safetensors'."""
    return check_key(f"{attempt(project_id, kind, job_id, n)}/{name}")


def heartbeat(project_id: str, kind: JobKind, job_id: str, n: int) -> str:
    """The sign of life of attempt `n`; overwritten by its only writer."""
    return f"{attempt(project_id, kind, job_id, n)}/heartbeat"


def events(project_id: str, kind: JobKind, job_id: str, n: int) -> str:
    """The numbered log of an attempt's event segments."""
    return f"{attempt(project_id, kind, job_id, n)}/events"


def open_jobs(project_id: str, kind: JobKind) -> str:
    """The folder of marks, one per job that may be alive."""
    return f"{project(project_id)}/open/{check_slug(kind, field='kind')}"


def open_job(project_id: str, kind: JobKind, job_id: str) -> str:
    """The mark that a job may be alive."""
    return f"{open_jobs(project_id, kind)}/{check_ulid(job_id)}"


def ended_jobs(project_id: str, kind: JobKind) -> str:
    """The folder of folders, one a day, of marks, one per job that ended then."""
    return f"{project(project_id)}/ended/{check_slug(kind, field='kind')}"


def probes() -> str:
    """The folder of what services try at their start."""
    return "probe"


def probe(probe_id: str) -> str:
    """The folder in which a service tries what the store can do."""
    return f"{probes()}/{check_ulid(probe_id)}"
