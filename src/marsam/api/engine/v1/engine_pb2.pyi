from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EngineRequest(_message.Message):
    __slots__ = ("draw", "load", "evict", "residents", "describe", "stop", "call")
    DRAW_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    EVICT_FIELD_NUMBER: _ClassVar[int]
    RESIDENTS_FIELD_NUMBER: _ClassVar[int]
    DESCRIBE_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    draw: DrawRequest
    load: LoadRequest
    evict: EvictRequest
    residents: ResidentsRequest
    describe: DescribeRequest
    stop: StopRequest
    call: str
    def __init__(self, draw: _Optional[_Union[DrawRequest, _Mapping]] = ..., load: _Optional[_Union[LoadRequest, _Mapping]] = ..., evict: _Optional[_Union[EvictRequest, _Mapping]] = ..., residents: _Optional[_Union[ResidentsRequest, _Mapping]] = ..., describe: _Optional[_Union[DescribeRequest, _Mapping]] = ..., stop: _Optional[_Union[StopRequest, _Mapping]] = ..., call: _Optional[str] = ...) -> None: ...

class EngineEvent(_message.Message):
    __slots__ = ("admitted", "progress", "drawn", "denoising", "residents", "description", "finished", "failed", "looked")
    ADMITTED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    DRAWN_FIELD_NUMBER: _ClassVar[int]
    DENOISING_FIELD_NUMBER: _ClassVar[int]
    RESIDENTS_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    LOOKED_FIELD_NUMBER: _ClassVar[int]
    admitted: Admitted
    progress: Progress
    drawn: Drawn
    denoising: Denoising
    residents: Residents
    description: Description
    finished: Finished
    failed: Failed
    looked: Looked
    def __init__(self, admitted: _Optional[_Union[Admitted, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., drawn: _Optional[_Union[Drawn, _Mapping]] = ..., denoising: _Optional[_Union[Denoising, _Mapping]] = ..., residents: _Optional[_Union[Residents, _Mapping]] = ..., description: _Optional[_Union[Description, _Mapping]] = ..., finished: _Optional[_Union[Finished, _Mapping]] = ..., failed: _Optional[_Union[Failed, _Mapping]] = ..., looked: _Optional[_Union[Looked, _Mapping]] = ...) -> None: ...

class DrawRequest(_message.Message):
    __slots__ = ("id", "model", "adapters", "pictures", "terms", "previews", "start")
    ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    PICTURES_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    PREVIEWS_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    id: str
    model: bytes
    adapters: _containers.RepeatedCompositeFieldContainer[AdapterUse]
    pictures: _containers.RepeatedCompositeFieldContainer[Picture]
    terms: Terms
    previews: Previews
    start: Start
    def __init__(self, id: _Optional[str] = ..., model: _Optional[bytes] = ..., adapters: _Optional[_Iterable[_Union[AdapterUse, _Mapping]]] = ..., pictures: _Optional[_Iterable[_Union[Picture, _Mapping]]] = ..., terms: _Optional[_Union[Terms, _Mapping]] = ..., previews: _Optional[_Union[Previews, _Mapping]] = ..., start: _Optional[_Union[Start, _Mapping]] = ...) -> None: ...

class Start(_message.Message):
    __slots__ = ("width", "height", "rgb", "mask")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    RGB_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    width: int
    height: int
    rgb: bytes
    mask: bytes
    def __init__(self, width: _Optional[int] = ..., height: _Optional[int] = ..., rgb: _Optional[bytes] = ..., mask: _Optional[bytes] = ...) -> None: ...

class Previews(_message.Message):
    __slots__ = ("every_steps", "max_side")
    EVERY_STEPS_FIELD_NUMBER: _ClassVar[int]
    MAX_SIDE_FIELD_NUMBER: _ClassVar[int]
    every_steps: int
    max_side: int
    def __init__(self, every_steps: _Optional[int] = ..., max_side: _Optional[int] = ...) -> None: ...

class AdapterUse(_message.Message):
    __slots__ = ("model", "weight")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    model: bytes
    weight: float
    def __init__(self, model: _Optional[bytes] = ..., weight: _Optional[float] = ...) -> None: ...

class Picture(_message.Message):
    __slots__ = ("prompt", "negative", "seed", "width", "height", "steps", "guidance", "guidance_rescale", "scheduler", "embedded", "strength")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_RESCALE_FIELD_NUMBER: _ClassVar[int]
    SCHEDULER_FIELD_NUMBER: _ClassVar[int]
    EMBEDDED_FIELD_NUMBER: _ClassVar[int]
    STRENGTH_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    negative: str
    seed: int
    width: int
    height: int
    steps: int
    guidance: float
    guidance_rescale: float
    scheduler: str
    embedded: float
    strength: float
    def __init__(self, prompt: _Optional[str] = ..., negative: _Optional[str] = ..., seed: _Optional[int] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., steps: _Optional[int] = ..., guidance: _Optional[float] = ..., guidance_rescale: _Optional[float] = ..., scheduler: _Optional[str] = ..., embedded: _Optional[float] = ..., strength: _Optional[float] = ...) -> None: ...

class Terms(_message.Message):
    __slots__ = ("tenant", "priority", "exact", "seconds_left")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    SECONDS_LEFT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    priority: int
    exact: bool
    seconds_left: float
    def __init__(self, tenant: _Optional[str] = ..., priority: _Optional[int] = ..., exact: _Optional[bool] = ..., seconds_left: _Optional[float] = ...) -> None: ...

class LoadRequest(_message.Message):
    __slots__ = ("model", "base", "pin")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    PIN_FIELD_NUMBER: _ClassVar[int]
    model: bytes
    base: bytes
    pin: bool
    def __init__(self, model: _Optional[bytes] = ..., base: _Optional[bytes] = ..., pin: _Optional[bool] = ...) -> None: ...

class EvictRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: bytes
    def __init__(self, model: _Optional[bytes] = ...) -> None: ...

class ResidentsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StopRequest(_message.Message):
    __slots__ = ("call",)
    CALL_FIELD_NUMBER: _ClassVar[int]
    call: str
    def __init__(self, call: _Optional[str] = ...) -> None: ...

class Admitted(_message.Message):
    __slots__ = ("ahead", "wait_seconds", "work_seconds", "fingerprint")
    AHEAD_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    WORK_SECONDS_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    ahead: int
    wait_seconds: float
    work_seconds: float
    fingerprint: str
    def __init__(self, ahead: _Optional[int] = ..., wait_seconds: _Optional[float] = ..., work_seconds: _Optional[float] = ..., fingerprint: _Optional[str] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("done", "of", "rows", "eta")
    DONE_FIELD_NUMBER: _ClassVar[int]
    OF_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ETA_FIELD_NUMBER: _ClassVar[int]
    done: int
    of: int
    rows: int
    eta: float
    def __init__(self, done: _Optional[int] = ..., of: _Optional[int] = ..., rows: _Optional[int] = ..., eta: _Optional[float] = ...) -> None: ...

class Looked(_message.Message):
    __slots__ = ("index", "step", "steps", "data")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    index: int
    step: int
    steps: int
    data: bytes
    def __init__(self, index: _Optional[int] = ..., step: _Optional[int] = ..., steps: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class Drawn(_message.Message):
    __slots__ = ("index", "width", "height", "rgb", "decode_seconds")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    RGB_FIELD_NUMBER: _ClassVar[int]
    DECODE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    index: int
    width: int
    height: int
    rgb: bytes
    decode_seconds: float
    def __init__(self, index: _Optional[int] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., rgb: _Optional[bytes] = ..., decode_seconds: _Optional[float] = ...) -> None: ...

class Denoising(_message.Message):
    __slots__ = ("first_age", "last_age", "encode_seconds")
    FIRST_AGE_FIELD_NUMBER: _ClassVar[int]
    LAST_AGE_FIELD_NUMBER: _ClassVar[int]
    ENCODE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    first_age: float
    last_age: float
    encode_seconds: float
    def __init__(self, first_age: _Optional[float] = ..., last_age: _Optional[float] = ..., encode_seconds: _Optional[float] = ...) -> None: ...

class Residents(_message.Message):
    __slots__ = ("residents",)
    class ResidentsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Residence
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Residence, _Mapping]] = ...) -> None: ...
    RESIDENTS_FIELD_NUMBER: _ClassVar[int]
    residents: _containers.MessageMap[str, Residence]
    def __init__(self, residents: _Optional[_Mapping[str, Residence]] = ...) -> None: ...

class Residence(_message.Message):
    __slots__ = ("size_bytes", "uses", "pinned")
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    USES_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    size_bytes: int
    uses: int
    pinned: bool
    def __init__(self, size_bytes: _Optional[int] = ..., uses: _Optional[int] = ..., pinned: _Optional[bool] = ...) -> None: ...

class Description(_message.Message):
    __slots__ = ("engine", "device", "precision", "fingerprint", "quantisation")
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    QUANTISATION_FIELD_NUMBER: _ClassVar[int]
    engine: str
    device: str
    precision: str
    fingerprint: str
    quantisation: str
    def __init__(self, engine: _Optional[str] = ..., device: _Optional[str] = ..., precision: _Optional[str] = ..., fingerprint: _Optional[str] = ..., quantisation: _Optional[str] = ...) -> None: ...

class Finished(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Failed(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: bytes
    def __init__(self, status: _Optional[bytes] = ...) -> None: ...
