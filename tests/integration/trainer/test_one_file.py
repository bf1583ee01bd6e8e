"""Bases in one .safetensors file: taken in, refused, trained, and converted where runs are."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save as save_safetensors
from safetensors.torch import load_file

from marsam.api.model.v1 import model_pb2
from marsam.api.trainer.v1 import trainer_pb2
from marsam.client import AsyncMarsam, Endpoints
from marsam.core.errors import Invalid
from marsam.store import keys
from tests.contract.families import originals
from tests.contract.families.bases import BUILDERS, build_sd1
from tests.fakes.kubernetes.cluster import FakeCluster
from tests.integration.run.store import make
from tests.integration.trainer.cluster import JobService
from tests.integration.trainer.harness import BASE, PARENT, Service, base_files, state
from tests.integration.trainer.samples import header, refused

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

REVISION = "0123456789abcdef0123456789abcdef01234567"
SD1 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
REAL_RUN = ""
"""The default run command."""

UNET = {"model.diffusion_model.input_blocks.0.0.weight": np.zeros((8, 4, 3, 3), np.float16),
        "model.diffusion_model.time_embed.0.weight": np.zeros((8, 8), np.float16)}  # fmt: skip
CLIP = {"cond_stage_model.transformer.text_model.final_layer_norm.bias": np.zeros(8, np.float16)}


def one(tensors: Mapping[str, Any] = UNET, *, says: str = "") -> dict[str, bytes]:
    """A file, which may say its own licence."""
    metadata = {"modelspec.license": says} if says else None
    return {"sd.safetensors": save_safetensors(dict(tensors), metadata)}


def text_of(service: Service, model: Any, path: str, project: str = "default") -> str:
    """A stored text of a model."""
    digest = next(file.digest for file in model.files if file.path == path)
    return (service.store / keys.blob(project, digest)).read_text(encoding="utf-8")


def files_of(folder: Path, prefix: str = "") -> dict[str, bytes]:
    return {f"{prefix}{p.relative_to(folder)}": p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def tensors_of(service: Service, model: Any, path: str, into: Path, project: str = "default") -> Any:
    """The tensors of a stored file of a model."""
    digest = next(file.digest for file in model.files if file.path == path)
    into.mkdir(exist_ok=True)
    copy = into / f"{digest.removeprefix('sha256:')}.safetensors"
    shutil.copyfile(service.store / keys.blob(project, digest), copy)
    return load_file(copy)


async def test_from_a_file_and_the_base_it_was_made_of_to_a_picture(tmp_path: Path) -> None:
    """An SDXL as one file, imported twice, trained for a few steps with a preview: all is its base's."""
    folder = BUILDERS["sdxl"](tmp_path / "base")
    shelf = await make(tmp_path / "store", folder, family="sdxl")
    file = originals.write(folder, "sdxl", tmp_path / "my own.safetensors")
    async with Service(tmp_path, run_command=REAL_RUN, stop_grace_s=60) as service:
        made = []
        for name in ("one", "two"):
            head = header("base", name, like=shelf.base.name, licence="Apache-2.0")
            head.parent = "projects/hayy"
            made.append(await service.send(head, {file.name: file.read_bytes()}))
        assert made[0].digest == made[1].digest
        base = made[0]
        assert (base.family, base.licence) == ("sdxl", "Apache-2.0")
        assert base.params["converted"] == "unet, vae, text_encoder, text_encoder_2"
        assert (base.params["like"], base.params["left_out"]) == (shelf.base.name, 0)
        assert {f.path for f in base.files} == {*(f.path for f in shelf.base.files), "README.md"}
        assert base.params["like_digest"] == shelf.base.digest
        card = text_of(service, base, "README.md", "hayy")
        assert card.startswith("---\nlicense: apache-2.0\n---\n")
        for said in (base.params["one_file"], shelf.base.digest, "whoever imported it", "text&#95;encoder&#95;2"):
            assert said in card
        for path in (f.path for f in base.files if f.path.endswith(".safetensors")):
            ours, theirs = (tensors_of(service, m, path, tmp_path / "read", "hayy") for m in (base, shelf.base))
            ours, theirs = ({n.removeprefix("text_model."): v for n, v in t.items()} for t in (ours, theirs))
            assert ours.keys() == theirs.keys()
            assert all(bool((ours[name] == theirs[name]).all()) for name in theirs)
        nodes = (await service.models.TraceLineage(model_pb2.TraceLineageRequest(name=base.name))).nodes
        assert (
            f"from my own.safetensors ({base.params['one_file']}), the rest from {shelf.base.name}" in nodes[0].summary
        )
        spec = trainer_pb2.RunSpec(
            base=base.name, dataset_version=shelf.version.name, method="lora", steps=2, batch_size=1, resolution=32,
            output_model_id="tuned",
        )  # fmt: skip
        spec.preview.prompts.append("picture 1")
        spec.preview.every = 1
        request = trainer_pb2.CreateRunRequest(parent="projects/hayy", spec=spec, request_id="one")
        run = (await service.trainer.CreateRun(request, timeout=120)).run
        pictures = [
            message.preview.images[0].digest
            async for message in service.watch(run.name)
            if message.WhichOneof("event") == "preview"
        ]
        done = await service.until(run.name, "SUCCEEDED", "FAILED", timeout_s=120)
        assert state(done) == "SUCCEEDED", done
        read = model_pb2.ReadArtifactRequest(name=run.name, digest=pictures[-1])
        data = b"".join([part.chunk async for part in service.models.ReadArtifact(read)])
        assert data.startswith(b"\x89PNG")


async def test_the_sdk_sends_a_folder_that_has_the_rest(tmp_path: Path) -> None:
    """Without the denoiser's weights; and a file that says that it predicts velocities is believed."""
    folder = build_sd1(tmp_path / "base", prediction="epsilon")
    marks = {name: torch.zeros(0) for name in ("v_pred", "ztsnr")}
    file = originals.write(folder, "sd1", tmp_path / "sd1.safetensors", **marks)
    (folder / "README.md").write_text("---\nlicense: openrail++\n---\n")
    async with Service(tmp_path, run_command=REAL_RUN) as service:
        place = service.address
        async with AsyncMarsam(Endpoints(dataset=place, trainer=place, generator=place)) as marsam:
            both = "unknown AND openrail++"
            for given in ("", "openrail++", "unknown"):
                with pytest.raises(Invalid) as caught:
                    await marsam.models.import_folder(file, "sent", like=folder, accept_licence=given)
                assert caught.value.reason == ("LICENCE_OTHER" if given else "LICENCE_NOT_ACCEPTED")
                assert caught.value.field == "header.accept_licence"
            base = await marsam.models.import_folder(file, "sent", like=folder, accept_licence=both, distilled=True)
            with pytest.raises(Invalid) as caught:
                await marsam.models.import_folder(file, "other", like=tmp_path / "cache")
            assert caught.value.field == "like"
        assert (base.licence, base.licence_acceptance.by) == (both, "local")
        assert base.params["objective"] == "v"
        assert base.params["left_out"] == 4
        assert base.params["distilled"]
        found = {f.path: f for f in base.files}
        scheduler = json.loads(
            (service.store / keys.blob("default", found["scheduler/scheduler_config.json"].digest)).read_bytes()
        )
        assert (scheduler["prediction_type"], scheduler["rescale_betas_zero_snr"]) == ("v_prediction", True)
        card = text_of(service, base, "README.md")
        assert card.startswith("---\nlicense: other\nlicense_name: unknown AND openrail++\n---\n")
        assert "Nobody has said under which licence the file is." in card
        assert "is under **openrail++**" in card
        assert text_of(service, base, "like/README.md") == "---\nlicense: openrail++\n---\n"
        spec = service.ordered(base=base.name, accept_licence=both)
        asked = trainer_pb2.ValidateRunRequest(parent=PARENT, spec=spec)
        faults = (await service.trainer.ValidateRun(asked, timeout=120)).faults
        assert "DISTILLED_BASE" in {fault.reason for fault in faults}
        asked.spec.allow_distilled = True
        faults = (await service.trainer.ValidateRun(asked, timeout=120)).faults
        assert "DISTILLED_BASE" not in {fault.reason for fault in faults}
        assert not list((service.cache / "incoming").iterdir())
        assert not list(service.cache.glob("convert-*"))


async def test_what_the_file_itself_tells_comes_from_the_hubs_cache(tmp_path: Path) -> None:
    """The reference's licence is asked for first; its denoiser is not even looked at."""
    folder = build_sd1(tmp_path / "base", prediction="epsilon")
    file = originals.write(folder, "sd1", tmp_path / "sd1.safetensors")
    root = tmp_path / "hub" / f"models--{SD1.replace('/', '--')}"
    snapshot = root / "snapshots" / REVISION
    shutil.copytree(folder, snapshot)
    (snapshot / "README.md").write_text("---\nlicense: creativeml-openrail-m\n---\n")
    (snapshot / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"not looked at")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(REVISION)
    sent = {"sd1.safetensors": file.read_bytes()}
    async with Service(tmp_path, hub_cache=tmp_path / "hub", run_command=REAL_RUN) as service:
        error = await refused(service, header("base"), sent)
        assert (error.reason, "unknown AND creativeml" in error.remedy) == ("LICENCE_NOT_ACCEPTED", True)
        error = await refused(service, header("base", licence="mit"), sent)
        assert error.reason == "LICENCE_CONTRADICTED"
        theirs = "creativeml-openrail-m"
        head = header("base", licence=theirs, accept_licence=theirs, request_id="r")
        base = await service.send(head, sent)
        assert base.params["like"] == f"hub:{SD1}@{REVISION}"
        assert base.licence == "creativeml-openrail-m"
        assert await service.send(head, sent) == base
        other = await refused(service, header("base", "x", like="hub:quarter/none"), sent)
        assert other.reason == "HUB_UNREACHABLE"
        # A hub's repository may hold one file and its card.
        alone = tmp_path / "hub" / "models--quarter--one"
        (alone / "snapshots" / REVISION).mkdir(parents=True)
        shutil.copyfile(file, alone / "snapshots" / REVISION / "one.safetensors")
        (alone / "snapshots" / REVISION / "README.md").write_text("---\nlicense: creativeml-openrail-m\n---\nMine")
        shutil.copytree(root / "refs", alone / "refs")
        again = await service.send(header("base", "z", ref="hub:quarter/one", like=base.name), {})
        assert again.licence == "creativeml-openrail-m"
        cards = [next(f.digest for f in model.files if f.path == "README.md") for model in (base, again)]
        assert cards[0] != cards[1]
        weights = [{f.path: f.digest for f in m.files if f.path.endswith(".safetensors")} for m in (base, again)]
        assert weights[0] == weights[1]
        # Under a licence of its own, that is the one to accept, not that of what has the rest.
        (alone / "snapshots" / REVISION / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\nMine")
        error = await refused(service, header("base", "nc", ref="hub:quarter/one"), {})
        assert (error.reason, "cc-by-nc-4.0" in error.remedy) == ("LICENCE_NOT_ACCEPTED", True)
        own = await service.send(header("base", "nc", ref="hub:quarter/one", accept_licence="cc-by-nc-4.0"), {})
        assert (own.licence, own.params["like"]) == ("cc-by-nc-4.0", f"hub:{SD1}@{REVISION}")
    unreachable = Service(tmp_path, hub_cache=tmp_path / "nothing", run_command=REAL_RUN)
    async with unreachable as service:
        error = await refused(service, header("base", "y"), sent)
        assert (error.reason, error.field) == ("LIKE_UNREACHABLE", "header.like")
        assert "--like" in error.remedy


async def test_a_file_is_converted_where_runs_are(tmp_path: Path) -> None:
    """On another machine, which sees the store alone. A file that is no whole one is said to be corrupt."""
    folder = build_sd1(tmp_path / "base", prediction="epsilon")
    file = originals.write(folder, "sd1", tmp_path / "sd1.safetensors")
    with FakeCluster(tmp_path / "cluster") as cluster:
        service = JobService(tmp_path, cluster, run_command="")
        service.said |= {"command": [], "profiles": {"cpu": {"graceSeconds": 5, "env": {"OMP_NUM_THREADS": "1"}}}}
        async with service:
            beside = files_of(folder, "beside/")
            head = header("base", like="beside", licence="mit")
            base = await service.send(head, {file.name: file.read_bytes(), **beside})
            assert {f.path for f in base.files} == {*files_of(folder), "README.md"}
            ours = tensors_of(service, base, "unet/diffusion_pytorch_model.safetensors", tmp_path / "read")
            theirs = originals.tensors_of(folder, "unet")
            assert ours.keys() == theirs.keys()
            assert all(bool((ours[name] == theirs[name]).all()) for name in theirs)
            error = await refused(service, header("base", "n", like="beside", licence="mit"), {**one(), **beside})
            assert error.reason == "ONE_FILE_MISMATCH"
            assert "unet" in error.message
            assert cluster.jobs == []


VAGUE = {"README.md": b"---\nlicense: unknown\n---\n"}


@pytest.mark.parametrize(
    ("fields", "files", "reason"),
    [
        ({}, one(), "LIKE_REQUIRED"),
        ({"like": BASE, "licence": "mit"}, one(), "CONVERT_FAILED"),  # the test program converts nothing
        ({"like": BASE}, one(), "LICENCE_NOT_ACCEPTED"),
        ({"like": BASE, "licence": "unknown"}, one(), "LICENCE_NOT_ACCEPTED"),
        ({"like": BASE, "accept_licence": "unknown"}, one(), "CONVERT_FAILED"),
        ({"like": BASE, "accept_licence": "Apache-2.0"}, one(), "LICENCE_OTHER"),
        ({"like": BASE}, one(says="Apache-2.0"), "CONVERT_FAILED"),
        ({"like": BASE}, one(says="cc-by-nc-4.0"), "LICENCE_NOT_ACCEPTED"),
        ({"like": BASE, "licence": "mit"}, one(says="cc-by-nc-4.0"), "LICENCE_CONTRADICTED"),
        ({"like": BASE, "licence": "cc-by-nc-4.0"}, one(says="mit"), "LICENCE_NOT_ACCEPTED"),
        # "unknown" neither hides what restricts nor forbids to say what it is.
        ({"like": BASE, "licence": "unknown"}, one(says="cc-by-nc-4.0"), "LICENCE_CONTRADICTED"),
        ({"like": BASE, "accept_licence": "unknown"}, {**one(says="cc-by-nc-4.0"), **VAGUE}, "LICENCE_OTHER"),
        ({"like": BASE, "licence": "mit"}, {**one(), **VAGUE}, "CONVERT_FAILED"),
        ({}, one({**UNET, **CLIP}), "LIKE_UNREACHABLE"),
        ({"like": f"{PARENT}/models/judge"}, one(), "LIKE_KIND"),
        ({"like": f"{PARENT}/models/nobody"}, one(), "MODEL_NOT_FOUND"),
        ({"like": BASE, "family": "sdxl"}, one(), "FAMILY_MISMATCH"),
        ({"like": BASE}, one({**UNET, "model.diffusion_model.label_emb.0.0.weight": np.zeros(2)}), "FAMILY_MISMATCH"),
        ({"like": BASE}, one({"w": np.zeros(2)}), "FAMILY_UNKNOWN"),
        ({"like": BASE}, one({**UNET, "model.diffusion_model.x": np.zeros(2, np.int8)}), "ONE_FILE_DTYPE"),
        ({"like": BASE}, one({"lora_unet_x.lora_down.weight": np.zeros(2)}), "MODEL_KIND"),
        ({"like": BASE}, {"sd.ckpt": b"\x80\x02"}, "PICKLE_REFUSED"),
        ({"like": BASE}, {"sd.safetensors": b"\x80\x02}q\x00."}, "PICKLE_REFUSED"),
        ({"like": BASE}, {"sd.gguf": b"GGUF...."}, "FILE_NOT_ALLOWED"),
        ({"like": BASE}, base_files(), "LIKE_UNUSED"),
        ({"like": BASE}, {**one(), "beside/model_index.json": b"{}"}, "LIKE_UNUSED"),
        ({"like": "beside"}, one(), "BASE_INCOMPLETE"),
        ({}, {**one(), "config.json": b"{}"}, "CHECKPOINT_LAYOUT"),
        ({"like": f"{PARENT}/models/rail"}, one(), "LICENCE_NOT_ACCEPTED"),
        ({"like": f"{PARENT}/models/rail", "licence": "mit"}, one(), "LICENCE_CONTRADICTED"),
        ({"like": "file:///etc"}, one(), "REQUEST_INVALID"),
    ],
)
async def test_a_file_that_cannot_be_a_base_is_refused(
    shared: Service, fields: dict[str, str], files: dict[str, bytes], reason: str
) -> None:
    error = await refused(shared, header("base", **fields), files)
    assert error.reason == reason, error
    assert not list((shared.cache / "incoming").iterdir())


async def test_what_is_said_of_bases_is_said_of_no_other(shared: Service) -> None:
    for fields in ({"like": BASE}, {"distilled": True}):
        error = await refused(shared, header("judge", **fields), one())
        assert (error.reason, error.field) == ("BASE_ONLY", f"header.{next(iter(fields))}")
