"""What an operator may set: `MARSAM_*` variables or a TOML file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from marsam.core.errors import Invalid
from marsam.core.settings import load_settings
from marsam.diffusion.precision import Precision, Quantisation
from marsam.rpc.server import ServerSettings
from marsam.rpc.server.settings import parse_address
from marsam.store.settings import s3_settings, s3_variables

ENGINES = ("local", "triton")


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What draws, and with what: of a generator that draws itself, and of an engine in another process."""

    store: str
    """URL of the object store: an absolute path or file:///…"""

    cache: Path
    """Folder of the local copies of weights; may be shared with other services of this machine."""

    cache_bytes: int = 100 * 10**9
    """Most bytes of blobs that are kept in the cache; those that were not used for longest go. What is in use stays."""

    device: str = "auto"
    """`auto` takes the first GPU and falls back to the processor; or `cpu`, `cuda`, `cuda:1`."""

    precision: str = "fp32"
    """Arithmetic of the denoiser and text encoder: fp32, bf16 or fp16."""

    quantisation: str = ""
    """How the Linear weights of denoisers are held: nf4+dq or nf4 (4 bits), int8, or as they are when empty."""

    image_precision: str = "fp32"
    """Arithmetic of the image coder: fp32, bf16 or fp16. A picture that leaves the range of half precision is coded
    again in fp32."""

    threads: int = 0
    """Processor lanes that share a tick; 0 takes OMP_NUM_THREADS, else every core that this process may use. A GPU has
    one lane."""

    tick_rows: int = 32
    """Widest tick that may be measured and used, in rows; a guided picture has two."""

    queue_seconds: float = 600.0
    """Predicted seconds of work that may be in flight; beyond, Generate answers RESOURCE_EXHAUSTED with the time after
    which to come again. A tenant that has less than its even share of it is let in all the same."""

    queue_pictures: int = 1024
    """Pictures that may be in flight, however little work they are; as above."""

    memory_mib: int = 0
    """Budget of everything resident (bases, tuned models, adapters); 0 takes half of the device's memory."""

    def __post_init__(self) -> None:
        for name in ("precision", "image_precision"):
            if getattr(self, name) not in tuple(Precision):
                known = ", ".join(Precision)
                raise Invalid(f"{name} must be one of {known}, got '{getattr(self, name)}'", field=name)
        if self.quantisation:
            Quantisation.of(self.quantisation)
        if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", self.device):
            raise Invalid(f"device must be auto, cpu or cuda[:N], got '{self.device}'", field="device")
        _at_least(self, threads=0, memory_mib=0, cache_bytes=1, tick_rows=2, queue_seconds=1, queue_pictures=1)


@dataclass(frozen=True, kw_only=True)
class HostedSettings(EngineSettings):
    """The settings of an engine inside another program, say Triton."""

    http_listen: str = "127.0.0.1:0"
    """Address of the engine's own /metrics and /healthz."""

    log_level: str = "info"
    """debug, info, warning or error."""


def hosted_settings(environment: Mapping[str, str]) -> HostedSettings:
    """What the MARSAM_* variables of another program's environment say. Raises `Invalid` as `load_settings`."""
    s3_settings(environment)  # read where a store is opened; what is wrong with them is said here
    others = {*s3_variables(environment), "MARSAM_SITE"}
    return load_settings(HostedSettings, env=environment, also_known=others)


@dataclass(frozen=True, kw_only=True)
class GeneratorSettings(EngineSettings, ServerSettings):
    """The generator's settings beside those of every service."""

    engine: str = "local"
    """`local` draws in this process; `triton` has a Triton Inference Server draw, and this process needs no GPU."""

    triton_url: str = ""
    """Address (host:port) of Triton's gRPC, for `engine` triton."""

    triton_model: str = "marsam_diffusion"
    """Name of our model in Triton's model repository."""

    max_steps: int = 250
    """Most steps of one picture."""

    rest: bool = False
    """Whether the HTTP port also has REST (`/v1/images/generations` as OpenAI's clients call it, and its kin) and the
    page for people at `/`. Behind tokens where gRPC is."""

    c2pa_cert_file: Path | None = None
    """Certificate chain, PEM, the signer's own first: with it every picture carries a signed C2PA manifest."""

    c2pa_key_file: Path | None = None
    """The certificate's key, PEM, not encrypted."""

    c2pa_self_made: bool = False
    """Sign with a certificate that is made in the cache folder, for trying it out: nobody trusts it."""

    evaluation_slots: int = 1
    """Evaluations that may run at once; the others wait."""

    evaluation_target: str = ""
    """Address (host:port) at which an evaluation reaches this generator; its own when left out."""

    evaluation_token_file: Path | None = None
    """File with the bearer token that evaluations call Generate with, where a token is asked for."""

    evaluation_tls_ca_file: Path | None = None
    """Authority of the certificate at `evaluation_target`; unneeded when evaluations call this generator itself."""

    evaluation_attempts: int = 3
    """Failed attempts after which an evaluation is given up."""

    def __post_init__(self) -> None:
        ServerSettings.__post_init__(self)
        EngineSettings.__post_init__(self)
        if self.engine not in ENGINES:
            raise Invalid(f"engine must be one of {', '.join(ENGINES)}, got '{self.engine}'", field="engine")
        if self.engine == "triton":
            parse_address(self.triton_url, field="triton_url")
        elif self.triton_url:
            raise Invalid(
                f"triton_url is set and engine is '{self.engine}'",
                field="triton_url",
                reason="ENGINE_CONTRADICTED",
                remedy="set MARSAM_ENGINE=triton, or leave MARSAM_TRITON_URL out",
            )
        _at_least(self, max_steps=1, evaluation_slots=1, evaluation_attempts=1)
        self._check_c2pa()

    @property
    def signs(self) -> bool:
        """Whether pictures are signed."""
        return self.c2pa_self_made or self.c2pa_cert_file is not None

    def _check_c2pa(self) -> None:
        for present, absent in (("c2pa_cert_file", "c2pa_key_file"), ("c2pa_key_file", "c2pa_cert_file")):
            if getattr(self, present) is None:
                continue
            if self.c2pa_self_made or getattr(self, absent) is None:
                other, word = ("c2pa_self_made", "too") if self.c2pa_self_made else (absent, "not")
                raise Invalid(
                    f"{present} is set, and {other} is {word}",
                    field=other,
                    reason="C2PA_INCOMPLETE",
                    remedy="give a certificate with its key, or have one made",
                )


def _at_least(settings: EngineSettings, **bounds: int) -> None:
    for name, least in bounds.items():
        if getattr(settings, name) < least:
            raise Invalid(f"{name} must be ≥ {least}, got {getattr(settings, name)}", field=name)
