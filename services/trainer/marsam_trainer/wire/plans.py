"""What is known of an order before it is placed: its plan, its settings, how its captions are read, its faults."""

from collections.abc import Mapping

from marsam.api.trainer.v1 import trainer_pb2
from marsam.diffusion.reading import Reading
from marsam_trainer.explain import Explained
from marsam_trainer.orders import Fault
from marsam_trainer.plans import Fit, Plan
from marsam_trainer.wire.structs import struct_of

_FITS = {
    Fit.GOOD: trainer_pb2.PLAN_FIT_GOOD,
    Fit.TIGHT: trainer_pb2.PLAN_FIT_TIGHT,
    Fit.SHORT: trainer_pb2.PLAN_FIT_SHORT,
}


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
