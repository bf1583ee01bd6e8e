import datetime

from marsam.api.buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import field_mask_pb2 as _field_mask_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from marsam.api.common.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Precision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRECISION_UNSPECIFIED: _ClassVar[Precision]
    PRECISION_FP32: _ClassVar[Precision]
    PRECISION_BF16: _ClassVar[Precision]

class PlanFit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PLAN_FIT_UNSPECIFIED: _ClassVar[PlanFit]
    PLAN_FIT_GOOD: _ClassVar[PlanFit]
    PLAN_FIT_TIGHT: _ClassVar[PlanFit]
    PLAN_FIT_SHORT: _ClassVar[PlanFit]
PRECISION_UNSPECIFIED: Precision
PRECISION_FP32: Precision
PRECISION_BF16: Precision
PLAN_FIT_UNSPECIFIED: PlanFit
PLAN_FIT_GOOD: PlanFit
PLAN_FIT_TIGHT: PlanFit
PLAN_FIT_SHORT: PlanFit

class PreviewSpec(_message.Message):
    __slots__ = ("prompts", "every")
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    EVERY_FIELD_NUMBER: _ClassVar[int]
    prompts: _containers.RepeatedScalarFieldContainer[str]
    every: int
    def __init__(self, prompts: _Optional[_Iterable[str]] = ..., every: _Optional[int] = ...) -> None: ...

class RunSpec(_message.Message):
    __slots__ = ("base", "dataset_version", "method", "method_params", "steps", "batch_size", "learning_rate", "resolution", "seed", "precision", "caption_dropout", "languages", "checkpoint_every", "preview", "snr_gamma", "ema_decay", "warmup_steps", "output_model_id", "display_name", "labels", "dataset_digest", "base_digest", "profile", "accept_licence", "allow_distilled", "publish", "optimiser", "accumulate", "gradient_checkpointing", "processes", "sharding", "regularisation", "regularisation_digest", "regularisation_share", "regularisation_weight", "aspect_buckets", "masked_loss", "masked_loss_floor", "timestep_sampling", "timestep_mean", "timestep_std", "shift")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    BASE_FIELD_NUMBER: _ClassVar[int]
    DATASET_VERSION_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    METHOD_PARAMS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    RESOLUTION_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    CAPTION_DROPOUT_FIELD_NUMBER: _ClassVar[int]
    LANGUAGES_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_EVERY_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    SNR_GAMMA_FIELD_NUMBER: _ClassVar[int]
    EMA_DECAY_FIELD_NUMBER: _ClassVar[int]
    WARMUP_STEPS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    DATASET_DIGEST_FIELD_NUMBER: _ClassVar[int]
    BASE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    ACCEPT_LICENCE_FIELD_NUMBER: _ClassVar[int]
    ALLOW_DISTILLED_FIELD_NUMBER: _ClassVar[int]
    PUBLISH_FIELD_NUMBER: _ClassVar[int]
    OPTIMISER_FIELD_NUMBER: _ClassVar[int]
    ACCUMULATE_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_CHECKPOINTING_FIELD_NUMBER: _ClassVar[int]
    PROCESSES_FIELD_NUMBER: _ClassVar[int]
    SHARDING_FIELD_NUMBER: _ClassVar[int]
    REGULARISATION_FIELD_NUMBER: _ClassVar[int]
    REGULARISATION_DIGEST_FIELD_NUMBER: _ClassVar[int]
    REGULARISATION_SHARE_FIELD_NUMBER: _ClassVar[int]
    REGULARISATION_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    ASPECT_BUCKETS_FIELD_NUMBER: _ClassVar[int]
    MASKED_LOSS_FIELD_NUMBER: _ClassVar[int]
    MASKED_LOSS_FLOOR_FIELD_NUMBER: _ClassVar[int]
    TIMESTEP_SAMPLING_FIELD_NUMBER: _ClassVar[int]
    TIMESTEP_MEAN_FIELD_NUMBER: _ClassVar[int]
    TIMESTEP_STD_FIELD_NUMBER: _ClassVar[int]
    SHIFT_FIELD_NUMBER: _ClassVar[int]
    base: str
    dataset_version: str
    method: str
    method_params: _struct_pb2.Struct
    steps: int
    batch_size: int
    learning_rate: float
    resolution: int
    seed: int
    precision: Precision
    caption_dropout: float
    languages: _containers.RepeatedScalarFieldContainer[str]
    checkpoint_every: int
    preview: PreviewSpec
    snr_gamma: float
    ema_decay: float
    warmup_steps: int
    output_model_id: str
    display_name: str
    labels: _containers.ScalarMap[str, str]
    dataset_digest: str
    base_digest: str
    profile: str
    accept_licence: str
    allow_distilled: bool
    publish: str
    optimiser: str
    accumulate: int
    gradient_checkpointing: bool
    processes: int
    sharding: str
    regularisation: str
    regularisation_digest: str
    regularisation_share: float
    regularisation_weight: float
    aspect_buckets: bool
    masked_loss: bool
    masked_loss_floor: float
    timestep_sampling: str
    timestep_mean: float
    timestep_std: float
    shift: float
    def __init__(self, base: _Optional[str] = ..., dataset_version: _Optional[str] = ..., method: _Optional[str] = ..., method_params: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., steps: _Optional[int] = ..., batch_size: _Optional[int] = ..., learning_rate: _Optional[float] = ..., resolution: _Optional[int] = ..., seed: _Optional[int] = ..., precision: _Optional[_Union[Precision, str]] = ..., caption_dropout: _Optional[float] = ..., languages: _Optional[_Iterable[str]] = ..., checkpoint_every: _Optional[int] = ..., preview: _Optional[_Union[PreviewSpec, _Mapping]] = ..., snr_gamma: _Optional[float] = ..., ema_decay: _Optional[float] = ..., warmup_steps: _Optional[int] = ..., output_model_id: _Optional[str] = ..., display_name: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., dataset_digest: _Optional[str] = ..., base_digest: _Optional[str] = ..., profile: _Optional[str] = ..., accept_licence: _Optional[str] = ..., allow_distilled: _Optional[bool] = ..., publish: _Optional[str] = ..., optimiser: _Optional[str] = ..., accumulate: _Optional[int] = ..., gradient_checkpointing: _Optional[bool] = ..., processes: _Optional[int] = ..., sharding: _Optional[str] = ..., regularisation: _Optional[str] = ..., regularisation_digest: _Optional[str] = ..., regularisation_share: _Optional[float] = ..., regularisation_weight: _Optional[float] = ..., aspect_buckets: _Optional[bool] = ..., masked_loss: _Optional[bool] = ..., masked_loss_floor: _Optional[float] = ..., timestep_sampling: _Optional[str] = ..., timestep_mean: _Optional[float] = ..., timestep_std: _Optional[float] = ..., shift: _Optional[float] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("step", "steps", "loss", "images_per_second", "eta_seconds", "learning_rate", "phase", "memory_used_bytes", "memory_peak_bytes", "time")
    STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    IMAGES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    ETA_SECONDS_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_PEAK_BYTES_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    step: int
    steps: int
    loss: float
    images_per_second: float
    eta_seconds: float
    learning_rate: float
    phase: str
    memory_used_bytes: int
    memory_peak_bytes: int
    time: _timestamp_pb2.Timestamp
    def __init__(self, step: _Optional[int] = ..., steps: _Optional[int] = ..., loss: _Optional[float] = ..., images_per_second: _Optional[float] = ..., eta_seconds: _Optional[float] = ..., learning_rate: _Optional[float] = ..., phase: _Optional[str] = ..., memory_used_bytes: _Optional[int] = ..., memory_peak_bytes: _Optional[int] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Run(_message.Message):
    __slots__ = ("name", "spec", "state", "attempt", "reason", "message", "create_time", "update_time", "progress", "model", "history", "queue_position", "licence_acceptance")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    QUEUE_POSITION_FIELD_NUMBER: _ClassVar[int]
    LICENCE_ACCEPTANCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    spec: RunSpec
    state: _common_pb2.JobState
    attempt: int
    reason: str
    message: str
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    progress: Progress
    model: str
    history: _containers.RepeatedCompositeFieldContainer[_common_pb2.Transition]
    queue_position: int
    licence_acceptance: _common_pb2.LicenceAcceptance
    def __init__(self, name: _Optional[str] = ..., spec: _Optional[_Union[RunSpec, _Mapping]] = ..., state: _Optional[_Union[_common_pb2.JobState, str]] = ..., attempt: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., model: _Optional[str] = ..., history: _Optional[_Iterable[_Union[_common_pb2.Transition, _Mapping]]] = ..., queue_position: _Optional[int] = ..., licence_acceptance: _Optional[_Union[_common_pb2.LicenceAcceptance, _Mapping]] = ...) -> None: ...

class MemoryTerm(_message.Message):
    __slots__ = ("term", "bytes")
    TERM_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    term: str
    bytes: int
    def __init__(self, term: _Optional[str] = ..., bytes: _Optional[int] = ...) -> None: ...

class PlanStage(_message.Message):
    __slots__ = ("name", "memory", "total_bytes", "host_bytes", "seconds")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    HOST_BYTES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    memory: _containers.RepeatedCompositeFieldContainer[MemoryTerm]
    total_bytes: int
    host_bytes: int
    seconds: float
    def __init__(self, name: _Optional[str] = ..., memory: _Optional[_Iterable[_Union[MemoryTerm, _Mapping]]] = ..., total_bytes: _Optional[int] = ..., host_bytes: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class PlanRemedy(_message.Message):
    __slots__ = ("changes", "total_bytes", "fits", "message")
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    FITS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    changes: _struct_pb2.Struct
    total_bytes: int
    fits: bool
    message: str
    def __init__(self, changes: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., total_bytes: _Optional[int] = ..., fits: _Optional[bool] = ..., message: _Optional[str] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("memory", "total_bytes", "available_bytes", "trainable_parameters", "quantised_share", "seconds", "fits", "stages", "peak_stage", "largest_term", "remedies", "fit", "past_runs", "memory_correction", "time_correction")
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TRAINABLE_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    QUANTISED_SHARE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    FITS_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    PEAK_STAGE_FIELD_NUMBER: _ClassVar[int]
    LARGEST_TERM_FIELD_NUMBER: _ClassVar[int]
    REMEDIES_FIELD_NUMBER: _ClassVar[int]
    FIT_FIELD_NUMBER: _ClassVar[int]
    PAST_RUNS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_CORRECTION_FIELD_NUMBER: _ClassVar[int]
    TIME_CORRECTION_FIELD_NUMBER: _ClassVar[int]
    memory: _containers.RepeatedCompositeFieldContainer[MemoryTerm]
    total_bytes: int
    available_bytes: int
    trainable_parameters: int
    quantised_share: float
    seconds: float
    fits: bool
    stages: _containers.RepeatedCompositeFieldContainer[PlanStage]
    peak_stage: str
    largest_term: str
    remedies: _containers.RepeatedCompositeFieldContainer[PlanRemedy]
    fit: PlanFit
    past_runs: int
    memory_correction: float
    time_correction: float
    def __init__(self, memory: _Optional[_Iterable[_Union[MemoryTerm, _Mapping]]] = ..., total_bytes: _Optional[int] = ..., available_bytes: _Optional[int] = ..., trainable_parameters: _Optional[int] = ..., quantised_share: _Optional[float] = ..., seconds: _Optional[float] = ..., fits: _Optional[bool] = ..., stages: _Optional[_Iterable[_Union[PlanStage, _Mapping]]] = ..., peak_stage: _Optional[str] = ..., largest_term: _Optional[str] = ..., remedies: _Optional[_Iterable[_Union[PlanRemedy, _Mapping]]] = ..., fit: _Optional[_Union[PlanFit, str]] = ..., past_runs: _Optional[int] = ..., memory_correction: _Optional[float] = ..., time_correction: _Optional[float] = ...) -> None: ...

class Fault(_message.Message):
    __slots__ = ("field", "reason", "message", "remedy")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    field: str
    reason: str
    message: str
    remedy: str
    def __init__(self, field: _Optional[str] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., remedy: _Optional[str] = ...) -> None: ...

class SettingInfo(_message.Message):
    __slots__ = ("name", "value", "given", "origin", "rule", "description", "visible")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    GIVEN_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    VISIBLE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    given: bool
    origin: str
    rule: str
    description: str
    visible: bool
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ..., given: _Optional[bool] = ..., origin: _Optional[str] = ..., rule: _Optional[str] = ..., description: _Optional[str] = ..., visible: _Optional[bool] = ...) -> None: ...

class Reading(_message.Message):
    __slots__ = ("language", "tokenizer", "captions", "tokens_per_word", "unknown_rate", "truncation_rate", "truncated_captions", "round_trip_rate", "usable_tokens", "reaches_attention")
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FIELD_NUMBER: _ClassVar[int]
    CAPTIONS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_WORD_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_RATE_FIELD_NUMBER: _ClassVar[int]
    TRUNCATION_RATE_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_CAPTIONS_FIELD_NUMBER: _ClassVar[int]
    ROUND_TRIP_RATE_FIELD_NUMBER: _ClassVar[int]
    USABLE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REACHES_ATTENTION_FIELD_NUMBER: _ClassVar[int]
    language: str
    tokenizer: str
    captions: int
    tokens_per_word: float
    unknown_rate: float
    truncation_rate: float
    truncated_captions: float
    round_trip_rate: float
    usable_tokens: int
    reaches_attention: bool
    def __init__(self, language: _Optional[str] = ..., tokenizer: _Optional[str] = ..., captions: _Optional[int] = ..., tokens_per_word: _Optional[float] = ..., unknown_rate: _Optional[float] = ..., truncation_rate: _Optional[float] = ..., truncated_captions: _Optional[float] = ..., round_trip_rate: _Optional[float] = ..., usable_tokens: _Optional[int] = ..., reaches_attention: _Optional[bool] = ...) -> None: ...

class ParameterInfo(_message.Message):
    __slots__ = ("name", "description", "default_value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    default_value: str
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., default_value: _Optional[str] = ...) -> None: ...

class MethodInfo(_message.Message):
    __slots__ = ("name", "description", "parameters")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    parameters: _containers.RepeatedCompositeFieldContainer[ParameterInfo]
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., parameters: _Optional[_Iterable[_Union[ParameterInfo, _Mapping]]] = ...) -> None: ...

class FamilyInfo(_message.Message):
    __slots__ = ("name", "description", "pixel_multiple", "default_resolution", "methods", "objectives")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    PIXEL_MULTIPLE_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_RESOLUTION_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    OBJECTIVES_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    pixel_multiple: int
    default_resolution: int
    methods: _containers.RepeatedScalarFieldContainer[str]
    objectives: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., pixel_multiple: _Optional[int] = ..., default_resolution: _Optional[int] = ..., methods: _Optional[_Iterable[str]] = ..., objectives: _Optional[_Iterable[str]] = ...) -> None: ...

class ProfileInfo(_message.Message):
    __slots__ = ("name", "description", "is_default")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    IS_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    is_default: bool
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., is_default: _Optional[bool] = ...) -> None: ...

class ListCapabilitiesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListCapabilitiesResponse(_message.Message):
    __slots__ = ("families", "methods", "profiles")
    FAMILIES_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    PROFILES_FIELD_NUMBER: _ClassVar[int]
    families: _containers.RepeatedCompositeFieldContainer[FamilyInfo]
    methods: _containers.RepeatedCompositeFieldContainer[MethodInfo]
    profiles: _containers.RepeatedCompositeFieldContainer[ProfileInfo]
    def __init__(self, families: _Optional[_Iterable[_Union[FamilyInfo, _Mapping]]] = ..., methods: _Optional[_Iterable[_Union[MethodInfo, _Mapping]]] = ..., profiles: _Optional[_Iterable[_Union[ProfileInfo, _Mapping]]] = ...) -> None: ...

class ValidateRunRequest(_message.Message):
    __slots__ = ("parent", "spec")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    parent: str
    spec: RunSpec
    def __init__(self, parent: _Optional[str] = ..., spec: _Optional[_Union[RunSpec, _Mapping]] = ...) -> None: ...

class ValidateRunResponse(_message.Message):
    __slots__ = ("faults", "plan", "resolved", "readings", "warnings", "settings")
    FAULTS_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    RESOLVED_FIELD_NUMBER: _ClassVar[int]
    READINGS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    faults: _containers.RepeatedCompositeFieldContainer[Fault]
    plan: Plan
    resolved: RunSpec
    readings: _containers.RepeatedCompositeFieldContainer[Reading]
    warnings: _containers.RepeatedCompositeFieldContainer[Fault]
    settings: _containers.RepeatedCompositeFieldContainer[SettingInfo]
    def __init__(self, faults: _Optional[_Iterable[_Union[Fault, _Mapping]]] = ..., plan: _Optional[_Union[Plan, _Mapping]] = ..., resolved: _Optional[_Union[RunSpec, _Mapping]] = ..., readings: _Optional[_Iterable[_Union[Reading, _Mapping]]] = ..., warnings: _Optional[_Iterable[_Union[Fault, _Mapping]]] = ..., settings: _Optional[_Iterable[_Union[SettingInfo, _Mapping]]] = ...) -> None: ...

class CreateRunRequest(_message.Message):
    __slots__ = ("parent", "spec", "request_id")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    parent: str
    spec: RunSpec
    request_id: str
    def __init__(self, parent: _Optional[str] = ..., spec: _Optional[_Union[RunSpec, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class CreateRunResponse(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: Run
    def __init__(self, run: _Optional[_Union[Run, _Mapping]] = ...) -> None: ...

class GetRunRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetRunResponse(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: Run
    def __init__(self, run: _Optional[_Union[Run, _Mapping]] = ...) -> None: ...

class ListRunsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token", "filter")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    filter: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., filter: _Optional[str] = ...) -> None: ...

class ListRunsResponse(_message.Message):
    __slots__ = ("runs", "next_page_token")
    RUNS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[Run]
    next_page_token: str
    def __init__(self, runs: _Optional[_Iterable[_Union[Run, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CancelRunRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class CancelRunResponse(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: Run
    def __init__(self, run: _Optional[_Union[Run, _Mapping]] = ...) -> None: ...

class ResumeRunRequest(_message.Message):
    __slots__ = ("name", "spec", "update_mask")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    name: str
    spec: RunSpec
    update_mask: _field_mask_pb2.FieldMask
    def __init__(self, name: _Optional[str] = ..., spec: _Optional[_Union[RunSpec, _Mapping]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ...) -> None: ...

class ResumeRunResponse(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: Run
    def __init__(self, run: _Optional[_Union[Run, _Mapping]] = ...) -> None: ...

class WatchRunRequest(_message.Message):
    __slots__ = ("name", "resume_token")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    name: str
    resume_token: str
    def __init__(self, name: _Optional[str] = ..., resume_token: _Optional[str] = ...) -> None: ...

class Checkpoint(_message.Message):
    __slots__ = ("attempt", "step", "size_bytes", "create_time")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    step: int
    size_bytes: int
    create_time: _timestamp_pb2.Timestamp
    def __init__(self, attempt: _Optional[int] = ..., step: _Optional[int] = ..., size_bytes: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class WatchRunResponse(_message.Message):
    __slots__ = ("resume_token", "snapshot", "progress", "checkpoint", "log_line", "bookmark", "preview")
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    LOG_LINE_FIELD_NUMBER: _ClassVar[int]
    BOOKMARK_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    resume_token: str
    snapshot: Run
    progress: Progress
    checkpoint: Checkpoint
    log_line: str
    bookmark: _timestamp_pb2.Timestamp
    preview: Preview
    def __init__(self, resume_token: _Optional[str] = ..., snapshot: _Optional[_Union[Run, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., checkpoint: _Optional[_Union[Checkpoint, _Mapping]] = ..., log_line: _Optional[str] = ..., bookmark: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., preview: _Optional[_Union[Preview, _Mapping]] = ...) -> None: ...

class Preview(_message.Message):
    __slots__ = ("step", "images")
    STEP_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    step: int
    images: _containers.RepeatedCompositeFieldContainer[_common_pb2.FileRef]
    def __init__(self, step: _Optional[int] = ..., images: _Optional[_Iterable[_Union[_common_pb2.FileRef, _Mapping]]] = ...) -> None: ...

class ListCheckpointsRequest(_message.Message):
    __slots__ = ("name", "page_size", "page_token")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    name: str
    page_size: int
    page_token: str
    def __init__(self, name: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListCheckpointsResponse(_message.Message):
    __slots__ = ("checkpoints", "next_page_token")
    CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    checkpoints: _containers.RepeatedCompositeFieldContainer[Checkpoint]
    next_page_token: str
    def __init__(self, checkpoints: _Optional[_Iterable[_Union[Checkpoint, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
