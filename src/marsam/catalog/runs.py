"""What a training run is asked to do."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from marsam.catalog.acceptance import Acceptance
from marsam.core.errors import Invalid
from marsam.core.ids import check_slug, digest_hex
from marsam.core.names import parse
from marsam.core.records import from_plain, to_plain

Precision = Literal["fp32", "bf16"]
Publish = Literal["last", "best", "both"]
Optimiser = Literal["adamw", "adamw_unfused", "adamw_8bit", "adamw_8bit_paged"]
Sharding = Literal["replicated", "sharded"]
TimestepSampling = Literal["", "uniform", "logit_normal"]


def model_ids(output_model_id: str, publish: str) -> tuple[str, ...]:
    """The ids of the models that a run publishes which is asked for `output_model_id`."""
    return (output_model_id, f"{output_model_id}-best") if publish == "both" else (output_model_id,)


@dataclass(frozen=True, kw_only=True)
class Preview:
    """Pictures to make while training: each prompt every `every` steps."""

    prompts: tuple[str, ...]
    every: int

    def __post_init__(self) -> None:
        if self.every < 1:
            raise Invalid(f"preview.every must be ≥ 1, got {self.every}", field="preview.every")
        if not self.prompts:
            raise Invalid("preview.prompts must not be empty", field="preview.prompts")


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """An immutable order for training, complete: with base and dataset pinned by digest it says all that is needed.

    `resolution` is the pictures' side in pixels, `learning_rate` the peak, `caption_dropout` the share of steps without
    caption, `languages` those whose captions are used (all when empty), `snr_gamma` and `ema_decay` off when None,
    `profile` the kind of machine ('' for the trainer's default). A step learns from `accumulate` times `batch_size`
    pictures, of which `batch_size` are in memory at once. With `gradient_checkpointing` a step keeps only the borders
    of the denoiser's blocks and computes the rest again on the way back. `processes` take every step together and share
    its pictures out; each holds the whole model, or a part of it where `sharding` is "sharded". `regularisation` names
    a version of what must not be forgotten ('' for none): `regularisation_share` of the steps are taken from it, and
    their loss weighs `regularisation_weight`. With `aspect_buckets` pictures keep about their aspect, at about the area
    of the square; without they are cut square. With `masked_loss` what a picture's mask leaves out weighs
    `masked_loss_floor` beside what it lets count. `publish` says which weights become models: the last, those with the
    lowest loss on the pictures held out, or both, each under an id of its own (`model_ids`). The times of a flow are
    drawn by `timestep_sampling` ('' for the base's own law), which for logit-normal ones has `timestep_mean` and
    `timestep_std`, and are moved by `shift` (0 for the base's own). `accepted` says who
    accepted the base's licence, `allow_distilled` that a base made for few steps was meant; like all in `RECORDED` they
    change nothing of what is trained. Those in `FREE` may differ from attempt to attempt: the same is learnt. Those in
    `LATER` came after the first runs were made; left at their defaults they are what runs did before.
    """

    SCHEMA: ClassVar[str] = "marsam.run_spec/1"
    RECORDED: ClassVar[frozenset[str]] = frozenset({"accepted", "allow_distilled"})
    FREE: ClassVar[frozenset[str]] = frozenset(
        {"display_name", "labels", "preview", "profile", "checkpoint_every", "gradient_checkpointing"}
    )
    LATER: ClassVar[frozenset[str]] = frozenset(
        {
            *("optimiser", "accumulate", "gradient_checkpointing", "processes", "sharding", "publish"),
            *("aspect_buckets", "masked_loss", "masked_loss_floor"),
            *("timestep_sampling", "timestep_mean", "timestep_std", "shift"),
            *("regularisation", "regularisation_digest", "regularisation_share", "regularisation_weight"),
        }
    )

    name: str
    base: str
    base_digest: str
    dataset_version: str
    dataset_digest: str
    method: str
    output_model_id: str
    steps: int
    batch_size: int
    learning_rate: float
    resolution: int
    seed: int
    display_name: str = ""
    method_params: Mapping[str, Any] = field(default_factory=dict)
    precision: Precision = "fp32"
    caption_dropout: float = 0.1
    languages: tuple[str, ...] = ()
    checkpoint_every: int = 200
    preview: Preview | None = None
    snr_gamma: float | None = None
    ema_decay: float | None = None
    warmup_steps: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    profile: str = ""
    optimiser: Optimiser = "adamw"
    accumulate: int = 1
    gradient_checkpointing: bool = False
    processes: int = 1
    sharding: Sharding = "replicated"
    publish: Publish = "last"
    regularisation: str = ""
    regularisation_digest: str = ""
    regularisation_share: float = 0.0
    regularisation_weight: float = 1.0
    aspect_buckets: bool = False
    masked_loss: bool = False
    masked_loss_floor: float = 0.1
    timestep_sampling: TimestepSampling = ""
    timestep_mean: float = 0.0
    timestep_std: float = 1.0
    shift: float = 0.0
    accepted: Acceptance | None = None
    allow_distilled: bool = False

    def __post_init__(self) -> None:
        parse(self.name, "run")
        parse(self.base, "model", field="base")
        parse(self.dataset_version, "version", field="dataset_version")
        digest_hex(self.base_digest, field="base_digest")
        digest_hex(self.dataset_digest, field="dataset_digest")
        if self.regularisation:
            parse(self.regularisation, "version", field="regularisation")
            digest_hex(self.regularisation_digest, field="regularisation_digest")
        for model_id in self.model_ids:
            check_slug(model_id, field="output_model_id")
        faults = [
            (name, f"{name} must be {rule}, got {getattr(self, name)}", "OUT_OF_RANGE")
            for name, rule, ok in self._ranges()
            if not ok
        ]
        if faults:
            raise Invalid("; ".join(f[1] for f in faults), field=faults[0][0], violations=faults)

    def _ranges(self) -> list[tuple[str, str, bool]]:
        """Return (field, its rule in words, whether it holds)."""
        return [
            ("steps", "≥ 1", self.steps >= 1),
            ("batch_size", "≥ 1", self.batch_size >= 1),
            ("learning_rate", "> 0", self.learning_rate > 0),
            ("resolution", "≥ 8", self.resolution >= 8),
            ("seed", "≥ 0", self.seed >= 0),
            ("caption_dropout", "in [0, 1]", 0 <= self.caption_dropout <= 1),
            ("checkpoint_every", "≥ 1", self.checkpoint_every >= 1),
            ("warmup_steps", "≥ 0", self.warmup_steps >= 0),
            ("optimiser", f"one of {', '.join(get_args(Optimiser))}", self.optimiser in get_args(Optimiser)),
            ("accumulate", "≥ 1", self.accumulate >= 1),
            ("masked_loss_floor", "in [0, 1)", 0 <= self.masked_loss_floor < 1),
            ("processes", "between 1 and batch_size", 1 <= self.processes <= max(1, self.batch_size)),
            ("sharding", f"one of {', '.join(get_args(Sharding))}", self.sharding in get_args(Sharding)),
            ("publish", f"one of {', '.join(get_args(Publish))}", self.publish in get_args(Publish)),
            (
                "timestep_sampling",
                f"empty or one of {', '.join(get_args(TimestepSampling)[1:])}",
                self.timestep_sampling in get_args(TimestepSampling),
            ),
            (
                "timestep_mean",
                "0 for uniform times, else in [-10, 10]",
                self.timestep_mean == 0 if self.timestep_sampling == "uniform" else -10 <= self.timestep_mean <= 10,
            ),
            (
                "timestep_std",
                "1 for uniform times, else in (0, 10]",
                self.timestep_std == 1 if self.timestep_sampling == "uniform" else 0 < self.timestep_std <= 10,
            ),
            ("shift", "0, or in [0.01, 100]", self.shift == 0 or 0.01 <= self.shift <= 100),
            (
                "regularisation_share",
                "in (0, 1) with a regularisation version, and 0 without",
                0 < self.regularisation_share < 1 if self.regularisation else self.regularisation_share == 0,
            ),
            ("regularisation_weight", "> 0", self.regularisation_weight > 0),
            ("snr_gamma", "> 0", self.snr_gamma is None or self.snr_gamma > 0),
            ("ema_decay", "in (0, 1)", self.ema_decay is None or 0 < self.ema_decay < 1),
        ]

    def as_changed(self, details: Iterable[Mapping[str, Any]]) -> "RunSpec":
        """The order with the `changes` that the details of the run's transitions hold, the latest last: what the
        attempts after them are to do."""
        changes = {name: value for detail in details for name, value in detail.get("changes", {}).items()}
        if not changes:
            return self
        return from_plain(RunSpec, {**to_plain(self), **changes}, what=self.name)

    @property
    def step_size(self) -> int:
        """Pictures that a step learns from."""
        return self.batch_size * self.accumulate

    @property
    def saves(self) -> bool:
        """Whether a checkpoint is written before the last step."""
        return self.checkpoint_every < self.steps

    @property
    def validations(self) -> int:
        """How often pictures held out are asked, where there are some: before the first step, with every checkpoint,
        and at the end."""
        return 1 - (-self.steps // self.checkpoint_every)

    @property
    def model_ids(self) -> tuple[str, ...]:
        """The ids of the models that the run publishes."""
        return model_ids(self.output_model_id, self.publish)

    @property
    def project(self) -> str:
        """The project's id."""
        return parse(self.name, "run").project

    @property
    def id(self) -> str:
        """The run's ULID."""
        return parse(self.name, "run").id
