"""What crosses to an engine in another process: everything, and unchanged."""

import dataclasses
import time
from datetime import UTC, datetime
from typing import Any

import pytest
import torch
from google.rpc import status_pb2
from marsam_generator.engine.coder import Start
from marsam_generator.engine.engine import Denoising, Drawn, Progress
from marsam_generator.engine.work import Looked, Previews, Terms
from marsam_generator.engines import messages
from marsam_generator.engines.contract import Admitted, Commission, Description, Residence

from marsam.api.engine.v1 import engine_pb2
from marsam.catalog.files import FileRef
from marsam.catalog.models import Lineage, Model
from marsam.core.errors import Corrupt, Exhausted
from marsam.diffusion.sampling import Picture
from marsam.rpc.wire import error_from_status

BASE = Model(
    name="projects/p/models/base",
    kind="base",
    create_time=datetime(2026, 11, 25, tzinfo=UTC),
    files=(FileRef(path="unet/config.json", digest=f"sha256:{'1' * 64}", size=10),),
    family="sd1",
    labels={"لغة": "عربية"},
)
ADAPTER = Model(
    name="projects/p/models/a",
    kind="adapter",
    create_time=datetime(2026, 11, 25, tzinfo=UTC),
    files=(FileRef(path="adapter_model.safetensors", digest=f"sha256:{'2' * 64}", size=20),),
    family="sd1",
    method="qlora",
    base=BASE.name,
    base_digest=BASE.digest,
    params={"rank": 8, "alpha": 0.5},
    lineage=Lineage(quantisation="nf4+dq", seed=2**52),
)
PICTURE = Picture(
    prompt="عالمة في مختبر",
    negative="blurred",
    seed=2**63 - 1,
    width=512,
    height=768,
    steps=31,
    guidance=5.1,
    guidance_rescale=0.7,
    scheduler="euler",
    embedded=3.5,
    strength=0.3,
)


def crossed(commission: Commission) -> Commission:
    data = messages.draw_request(commission).SerializeToString()
    return messages.commission_of(engine_pb2.EngineRequest.FromString(data).draw)


def all_but_defaults(value: Any) -> None:
    """A field that keeps its default could be forgotten on the way and nobody would see."""
    for field in dataclasses.fields(value):
        assert getattr(value, field.name) != field.default, f"{type(value).__name__}.{field.name}"


def test_a_commission_arrives_whole() -> None:
    pixels = torch.arange(4 * 3 * 3, dtype=torch.uint8).view(4, 3, 3)
    sent = Commission(
        id="one",
        model=BASE,
        adapters=[(ADAPTER, -0.1)],
        pictures=[PICTURE, dataclasses.replace(PICTURE, embedded=None)],
        start=Start(pixels=pixels, mask=pixels[:, :, 0]),
        terms=Terms(tenant="ت", priority=-3, exact=True, deadline=time.monotonic() + 60),
        previews=Previews(every_steps=5, max_side=192),
    )
    for value in (sent, sent.pictures[0], sent.terms, sent.start):
        all_but_defaults(value)
    got = crossed(sent)
    assert (got.id, got.model, got.adapters, got.pictures, got.previews) == (
        sent.id, sent.model, sent.adapters, sent.pictures, sent.previews,
    )  # fmt: skip
    assert got.start is not None and sent.start is not None
    assert torch.equal(got.start.pixels, sent.start.pixels)
    assert got.start.mask is not None and torch.equal(got.start.mask, pixels[:, :, 0])
    assert sent.terms.deadline is not None and got.terms.deadline == pytest.approx(sent.terms.deadline, abs=1)
    assert dataclasses.replace(got.terms, deadline=None) == dataclasses.replace(sent.terms, deadline=None)


def test_what_is_not_asked_stays_not_asked() -> None:
    got = crossed(Commission(id="one", model=BASE, adapters=[], pictures=[PICTURE]))
    assert (got.start, got.previews, got.terms) == (None, None, Terms())
    start = Start(pixels=torch.zeros((2, 2, 3), dtype=torch.uint8))
    whole = crossed(Commission(id="one", model=BASE, adapters=[], pictures=[PICTURE], start=start))
    assert whole.start is not None and whole.start.mask is None


@pytest.mark.parametrize(
    "said",
    [
        Admitted(ahead=3, wait_seconds=0.25, work_seconds=7.5, fingerprint="marsam 1; عربي"),
        Progress(done=3, of=90, rows=16, eta=2.5),
        Looked(index=2, step=5, steps=20, data=b"\xff\xd8"),
    ],
)
def test_words_arrive(said: Any) -> None:
    all_but_defaults(said)
    assert messages.said_of(messages.event(said)) == said


def test_pixels_arrive_as_they_are() -> None:
    ramp = torch.arange(2 * 5 * 3, dtype=torch.uint8).view(2, 5, 3)
    # As the engine cuts it out of a larger tensor: not laid out row by row.
    sent = Drawn(index=4, pixels=ramp.permute(1, 0, 2), decode_seconds=0.5)
    got = messages.said_of(messages.event(sent))
    assert isinstance(got, Drawn) and (got.index, got.decode_seconds) == (4, 0.5)
    assert torch.equal(got.pixels, sent.pixels)


def test_times_arrive_on_the_clock_of_who_asks() -> None:
    now = time.monotonic()
    sent = Denoising(first=now - 2, last=now - 1, encode_seconds=0.25)
    all_but_defaults(sent)
    got = messages.said_of(messages.event(sent))
    assert isinstance(got, Denoising) and got.encode_seconds == 0.25
    assert got.first == pytest.approx(now - 2, abs=0.5) and got.last - got.first == pytest.approx(1, abs=0.01)


def test_residents_and_descriptions_arrive() -> None:
    held = {
        BASE.digest: Residence(size=5, uses=2, pinned=True),
        ADAPTER.digest: Residence(size=0, uses=1, pinned=False),
    }
    assert messages.residents_of(messages.residents_event(held).residents) == held
    told = Description(engine="local", device="cuda:0", precision="bf16", fingerprint="f", quantisation="int8")
    all_but_defaults(told)
    assert messages.description_of(messages.description_event(told).description) == told


def test_an_error_arrives_with_its_reason_and_when_to_come_again() -> None:
    sent = Exhausted("full", reason="QUEUE_FULL", resource="queue", remedy="later", retry_after_s=2.5)
    status = messages.failed_event(sent).failed.status
    got = error_from_status(status_pb2.Status.FromString(status))
    assert (type(got), got.reason, got.resource, got.remedy, got.retry_after_s) == (
        Exhausted, "QUEUE_FULL", "queue", "later", 2.5,
    )  # fmt: skip


def test_what_is_no_manifest_is_refused() -> None:
    with pytest.raises(Corrupt):
        messages.model_of(b"{}")
