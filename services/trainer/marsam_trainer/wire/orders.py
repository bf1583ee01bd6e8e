"""What is ordered: specs in, and complete ones out."""

from collections.abc import Iterable, Mapping
from typing import Any

from marsam.api.trainer.v1 import trainer_pb2
from marsam.catalog.runs import Preview, RunSpec
from marsam_trainer.orders import Order
from marsam_trainer.wire.structs import plain_struct, struct_of

_PRECISIONS: Mapping[int, str] = {trainer_pb2.PRECISION_FP32: "fp32", trainer_pb2.PRECISION_BF16: "bf16"}
_PRECISION_OF = {name: number for number, name in _PRECISIONS.items()}


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
        timestep_sampling=spec.timestep_sampling,
        timestep_mean=given("timestep_mean"),
        timestep_std=given("timestep_std"),
        shift=given("shift"),
    )


def changes_of(spec: trainer_pb2.RunSpec, paths: Iterable[str]) -> dict[str, Any]:
    """What is asked for the fields at `paths`, by path; None for one that is not set, or that there is not."""
    order = order_of(spec)
    return {path: getattr(order, path.partition(".")[0], None) for path in paths}


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
        timestep_sampling=spec.timestep_sampling,
        timestep_mean=spec.timestep_mean,
        timestep_std=spec.timestep_std,
        shift=spec.shift,
    )
    if spec.regularisation:
        message.regularisation_share = spec.regularisation_share
        message.regularisation_weight = spec.regularisation_weight
    if spec.preview is not None:
        message.preview.prompts.extend(spec.preview.prompts)
        message.preview.every = spec.preview.every
    return message
