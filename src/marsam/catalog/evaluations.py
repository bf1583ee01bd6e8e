"""What an evaluation is asked to do, and the suites it works through."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from marsam.core.errors import Invalid
from marsam.core.names import parse


@dataclass(frozen=True, kw_only=True)
class EvaluationSpec:
    """Compare `models` (the first is the baseline) on one suite version, pictures read by `judge`.

    `generator_target` is the gRPC address of the generator to ask; seeds of the suite are shifted by `seed_offset`.
    `notes` are paragraphs that the report shows as they are.
    """

    SCHEMA: ClassVar[str] = "marsam.evaluation_spec/1"

    name: str
    suite: str
    models: tuple[str, ...]
    judge: str
    generator_target: str
    seed_offset: int = 0
    display_name: str = ""
    notes: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parse(self.name, "evaluation")
        parse(self.suite, "suite_version", field="suite")
        parse(self.judge, "model", field="judge")
        if not self.models:
            raise Invalid("an evaluation needs at least one model", field="models")
        for i, model in enumerate(self.models):
            parse(model, "model", field=f"models[{i}]")

    @property
    def project(self) -> str:
        """The project's id."""
        return parse(self.name, "evaluation").project

    @property
    def id(self) -> str:
        """The evaluation's ULID."""
        return parse(self.name, "evaluation").id


@dataclass(frozen=True, kw_only=True)
class SuiteVersion:
    """An immutable set of prompts and what is to be read from their pictures. `content` is the suite's own schema."""

    SCHEMA: ClassVar[str] = "marsam.suite_version/1"

    name: str
    create_time: datetime
    content: Mapping[str, Any]
    display_name: str = ""

    def __post_init__(self) -> None:
        parse(self.name, "suite_version")
