"""Between the wire and the domain: protos in, dataclasses out, and back. No decisions."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from google.protobuf import json_format, struct_pb2, timestamp_pb2

from marsam.api.common.v1 import common_pb2
from marsam.api.model.v1 import model_pb2
from marsam.api.trainer.v1 import trainer_pb2
from marsam.catalog.acceptance import Acceptance
from marsam.catalog.files import FileRef
from marsam.catalog.models import AliasEntry, Model, ModelKind
from marsam.catalog.runs import Preview, RunSpec
from marsam.core.clock import parse_time
from marsam.diffusion.reading import Reading
from marsam.jobs.states import Transition
from marsam_trainer.explain import Explained
from marsam_trainer.orders import Fault, Order
from marsam_trainer.plans import Fit, Plan
from marsam_trainer.runs import RunView

_PRECISIONS: Mapping[int, str] = {trainer_pb2.PRECISION_FP32: "fp32", trainer_pb2.PRECISION_BF16: "bf16"}
_PRECISION_OF = {name: number for number, name in _PRECISIONS.items()}
_KINDS: Mapping[int, ModelKind] = {
    model_pb2.MODEL_KIND_BASE: "base",
    model_pb2.MODEL_KIND_ADAPTER: "adapter",
    model_pb2.MODEL_KIND_FULL: "full",
    model_pb2.MODEL_KIND_JUDGE: "judge",
}
_FITS = {
    Fit.GOOD: trainer_pb2.PLAN_FIT_GOOD,
    Fit.TIGHT: trainer_pb2.PLAN_FIT_TIGHT,
    Fit.SHORT: trainer_pb2.PLAN_FIT_SHORT,
}
_KIND_OF = {name: number for number, name in _KINDS.items()}


def timestamp(at: datetime) -> timestamp_pb2.Timestamp:
    """A point in time."""
    stamp = timestamp_pb2.Timestamp()
    stamp.FromDatetime(at)
    return stamp


def order_of(spec: trainer_pb2.RunSpec) -> Order:
    """What the caller asks for. A field that is not set is None, a zero that is set is a zero."""

    def given(name: str) -> Any:
        return getattr(spec, name) if spec.HasField(name) else None  # type: ignore[arg-type]  # optional scalars

    precision = spec.precision
    prompts = tuple(spec.preview.prompts)
    return Order(
        base=spec.base,
        dataset_version=spec.dataset_version,
        method=spec.method,
        method_params=plain_struct(spec.method_params),
        steps=given("steps"),
        batch_size=given("batch_size"),
        learning_rate=given("learning_rate"),
        resolution=given("resolution"),
        seed=given("seed"),
        precision=None
        if precision == trainer_pb2.PRECISION_UNSPECIFIED
        else _PRECISIONS.get(precision, str(precision)),
        caption_dropout=given("caption_dropout"),
        languages=tuple(spec.languages),
        checkpoint_every=given("checkpoint_every"),
        preview=Preview(prompts=prompts, every=spec.preview.every) if prompts else None,
        snr_gamma=given("snr_gamma"),
        ema_decay=given("ema_decay"),
        warmup_steps=given("warmup_steps"),
        output_model_id=spec.output_model_id,
        display_name=spec.display_name,
        labels=dict(spec.labels),
        base_digest=spec.base_digest,
        dataset_digest=spec.dataset_digest,
        profile=spec.profile,
        accept_licence=spec.accept_licence,
        allow_distilled=spec.allow_distilled,
        optimiser=spec.optimiser,
        accumulate=given("accumulate"),
        gradient_checkpointing=given("gradient_checkpointing"),
        processes=given("processes"),
        sharding=spec.sharding,
        publish=spec.publish,
        regularisation=spec.regularisation,
        regularisation_digest=spec.regularisation_digest,
        regularisation_share=given("regularisation_share"),
        regularisation_weight=given("regularisation_weight"),
        aspect_buckets=given("aspect_buckets"),
        masked_loss=given("masked_loss"),
        masked_loss_floor=given("masked_loss_floor"),
    )


def changes_of(spec: trainer_pb2.RunSpec, paths: Iterable[str]) -> dict[str, Any]:
    """What is asked for the fields at `paths`, by path; None for one that is not set, or that there is not."""
    order = order_of(spec)
    return {path: getattr(order, path.partition(".")[0], None) for path in paths}


def plain_struct(struct: struct_pb2.Struct) -> dict[str, Any]:
    """A Struct as plain data. Unlike the library's own JSON form this lets NaN pass, for the checks to refuse it."""
    return {name: _plain_value(value) for name, value in struct.fields.items()}


def _plain_value(value: struct_pb2.Value) -> Any:
    match value.WhichOneof("kind"):
        case "struct_value":
            return plain_struct(value.struct_value)
        case "list_value":
            return [_plain_value(entry) for entry in value.list_value.values]
        case "null_value" | None:
            return None
        case kind:
            return getattr(value, kind)


def struct_of(values: Mapping[str, Any]) -> struct_pb2.Struct:
    """Plain data as a Struct; numbers become doubles."""
    struct = struct_pb2.Struct()
    json_format.Parse(json.dumps(dict(values)), struct)
    return struct


def spec_message(spec: RunSpec) -> trainer_pb2.RunSpec:
    """A complete spec."""
    message = trainer_pb2.RunSpec(
        base=spec.base,
        dataset_version=spec.dataset_version,
        method=spec.method,
        method_params=struct_of(spec.method_params),
        steps=spec.steps,
        batch_size=spec.batch_size,
        learning_rate=spec.learning_rate,
        resolution=spec.resolution,
        seed=spec.seed,
        precision=trainer_pb2.Precision.Name(_PRECISION_OF[spec.precision]),
        caption_dropout=spec.caption_dropout,
        languages=spec.languages,
        checkpoint_every=spec.checkpoint_every,
        snr_gamma=spec.snr_gamma or 0.0,
        ema_decay=spec.ema_decay or 0.0,
        warmup_steps=spec.warmup_steps,
        output_model_id=spec.output_model_id,
        display_name=spec.display_name,
        labels=spec.labels,
        dataset_digest=spec.dataset_digest,
        base_digest=spec.base_digest,
        profile=spec.profile,
        accept_licence=spec.accepted.licence if spec.accepted is not None else "",
        allow_distilled=spec.allow_distilled,
        optimiser=spec.optimiser,
        accumulate=spec.accumulate,
        gradient_checkpointing=spec.gradient_checkpointing,
        processes=spec.processes,
        sharding=spec.sharding,
        publish=spec.publish,
        regularisation=spec.regularisation,
        regularisation_digest=spec.regularisation_digest,
        aspect_buckets=spec.aspect_buckets,
        masked_loss=spec.masked_loss,
        masked_loss_floor=spec.masked_loss_floor if spec.masked_loss else None,
    )
    if spec.regularisation:
        message.regularisation_share = spec.regularisation_share
        message.regularisation_weight = spec.regularisation_weight
    if spec.preview is not None:
        message.preview.prompts.extend(spec.preview.prompts)
        message.preview.every = spec.preview.every
    return message


def acceptance_message(accepted: Acceptance) -> common_pb2.LicenceAcceptance:
    """Who accepted a licence."""
    return common_pb2.LicenceAcceptance(licence=accepted.licence, by=accepted.by, time=timestamp(accepted.at))


def transition_message(entry: Transition) -> common_pb2.Transition:
    """One line of a run's log."""
    return common_pb2.Transition(
        sequence=entry.seq,
        state=f"JOB_STATE_{entry.state}",
        attempt=entry.attempt,
        reason=entry.reason,
        message=entry.message,
        time=timestamp(entry.at),
    )


def run_message(view: RunView, *, queue_position: int) -> trainer_pb2.Run:
    """A run."""
    head = view.head
    message = trainer_pb2.Run(
        name=view.spec.name,
        spec=spec_message(view.spec),
        state=f"JOB_STATE_{head.state}",
        attempt=head.attempt,
        reason=head.reason,
        message=head.message,
        create_time=timestamp(view.history[0].at),
        update_time=timestamp(head.at),
        model=view.model,
        history=[transition_message(entry) for entry in view.history],
        queue_position=queue_position,
    )
    if view.spec.accepted is not None:
        message.licence_acceptance.CopyFrom(acceptance_message(view.spec.accepted))
    if view.progress:
        message.progress.CopyFrom(progress_message(view.progress))
    return message


def progress_message(told: Mapping[str, Any]) -> trainer_pb2.Progress:
    """What a run tells of itself; what it does not tell stays unset."""
    known = {field.name for field in trainer_pb2.Progress.DESCRIPTOR.fields} - {"time"}
    message = trainer_pb2.Progress(**{name: value for name, value in told.items() if name in known})
    if isinstance(told.get("at"), str):
        message.time.CopyFrom(timestamp(parse_time(told["at"])))
    return message


def plan_message(plan: Plan) -> trainer_pb2.Plan:
    """What a run would need."""
    return trainer_pb2.Plan(
        memory=_terms(plan.memory),
        total_bytes=plan.total_bytes,
        available_bytes=plan.available_bytes,
        trainable_parameters=plan.trainable_parameters,
        quantised_share=plan.quantised_share,
        seconds=plan.seconds,
        fits=plan.fit is not Fit.SHORT,
        stages=[
            trainer_pb2.PlanStage(
                name=stage.name,
                memory=_terms(stage.memory),
                total_bytes=stage.total_bytes,
                host_bytes=stage.host_bytes,
                seconds=stage.seconds,
            )
            for stage in plan.stages
        ],
        peak_stage=plan.peak_stage,
        largest_term=plan.largest,
        remedies=[
            trainer_pb2.PlanRemedy(
                changes=struct_of(remedy.changes),
                total_bytes=remedy.total_bytes,
                fits=remedy.fits,
                message=remedy.message,
            )
            for remedy in plan.remedies
        ],
        fit=_FITS[plan.fit],
        past_runs=plan.past.runs,
        memory_correction=plan.past.memory,
        time_correction=plan.past.time,
    )


def _terms(memory: Mapping[str, int]) -> list[trainer_pb2.MemoryTerm]:
    return [trainer_pb2.MemoryTerm(term=term, bytes=size) for term, size in memory.items()]


def setting_message(entry: Explained) -> trainer_pb2.SettingInfo:
    """One field of a complete spec, explained."""
    return trainer_pb2.SettingInfo(
        name=entry.name,
        value=entry.value,
        given=entry.given,
        origin=entry.origin,
        rule=entry.rule,
        description=entry.help,
        visible=entry.visible,
    )


def reading_message(reading: Reading) -> trainer_pb2.Reading:
    """How a tokenizer reads a language."""
    return trainer_pb2.Reading(
        language=reading.language,
        tokenizer=reading.tokenizer,
        captions=reading.captions,
        tokens_per_word=reading.tokens_per_word,
        unknown_rate=reading.unknown,
        truncation_rate=reading.lost,
        truncated_captions=reading.cut,
        round_trip_rate=reading.round_trip,
        usable_tokens=reading.usable,
        reaches_attention=reading.attends,
    )


def fault_message(fault: Fault) -> trainer_pb2.Fault:
    """One fault of a spec."""
    return trainer_pb2.Fault(
        field=f"spec.{fault.field}", reason=fault.reason, message=fault.message, remedy=fault.remedy
    )


def file_message(file: FileRef) -> common_pb2.FileRef:
    """A file of an artifact."""
    return common_pb2.FileRef(path=file.path, digest=file.digest, size_bytes=file.size, media_type=file.media_type)


def file_messages(told: object) -> list[common_pb2.FileRef]:
    """Files as an event names them: mappings with the fields of `FileRef`; anything else is left out."""
    found: Iterable[Any] = told if isinstance(told, Sequence) else ()
    return [
        common_pb2.FileRef(path=f["path"], digest=f["digest"], size_bytes=f["size"], media_type=f.get("media_type", ""))
        for f in found
        if isinstance(f, Mapping) and {"path", "digest", "size"} <= set(f)
    ]


def kind_of(number: int) -> ModelKind:
    """The kind that a defined, non-zero enum number stands for."""
    return _KINDS[number]


def model_message(model: Model) -> model_pb2.Model:
    """A model."""
    lineage = model.lineage
    return model_pb2.Model(
        name=model.name,
        kind=model_pb2.ModelKind.Name(_KIND_OF[model.kind]),
        family=model.family,
        method=model.method,
        base=model.base or "",
        base_digest=model.base_digest or "",
        digest=model.digest,
        files=[file_message(file) for file in model.files],
        params=struct_of(model.params),
        lineage=model_pb2.Lineage(
            dataset_version=lineage.dataset_version,
            dataset_digest=lineage.dataset_digest,
            run=lineage.run,
            seed=lineage.seed or 0,
            code_version=lineage.code_version,
            quantisation=lineage.quantisation,
            regularisation_version=lineage.regularisation_version,
            regularisation_digest=lineage.regularisation_digest,
        ),
        metrics=model.metrics,
        samples=[file_message(file) for file in model.samples],
        licence=model.licence,
        labels=model.labels,
        create_time=timestamp(model.create_time),
        display_name=model.display_name,
        size_bytes=model.size,
        licence_acceptance=acceptance_message(model.accepted) if model.accepted is not None else None,
    )


def alias_message(name: str, entry: AliasEntry) -> model_pb2.Alias:
    """One step of an alias; `model` is empty where it was taken away."""
    return model_pb2.Alias(name=name, model=entry.target or "", etag=entry.etag, time=timestamp(entry.at))
