"""The service with the real run program, a tiny base of real classes, real pictures: from import to a loaded export."""

import json
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from diffusers import StableDiffusionPipeline

from marsam.api.model.v1 import model_pb2
from marsam.api.trainer.v1 import trainer_pb2
from marsam.client import AsyncMarsam, Endpoints
from marsam.core.errors import Invalid
from marsam.rpc.wire import error_of
from tests.contract.families.bases import build_sd1
from tests.contract.families.tokenizers import clip
from tests.integration.run.store import make
from tests.integration.trainer.harness import Service, state
from tests.integration.trainer.samples import exported, header

pytestmark = pytest.mark.slow
PARENT = "projects/hayy"
PYTHON_RUN = ""
"""The default run command."""


async def test_import_train_watch_export_and_load(tmp_path: Path) -> None:
    folder = build_sd1(tmp_path / "base", prediction="epsilon")
    shelf = await make(tmp_path / "store", folder)
    async with Service(tmp_path, run_command=PYTHON_RUN, run_metrics="true", stop_grace_s=60) as service:
        head = header("base", "sent", licence="Apache-2.0")
        head.parent = PARENT
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        base = await service.send(head, files)
        assert base.digest == shelf.base.digest
        spec = trainer_pb2.RunSpec(
            base=base.name, dataset_version=shelf.version.name, method="lora", steps=12, batch_size=2, resolution=32,
            checkpoint_every=5, learning_rate=1e-2, output_model_id="tuned",
        )  # fmt: skip
        spec.method_params.update({"rank": 2, "alpha": 4})
        spec.preview.prompts.append("picture 1")
        spec.preview.every = 6
        found = await service.trainer.ValidateRun(trainer_pb2.ValidateRunRequest(parent=PARENT, spec=spec), timeout=120)
        assert list(found.faults) == []
        assert {"base weights", "optimiser", "activations"} <= {term.term for term in found.plan.memory}
        assert found.plan.fits
        assert found.plan.trainable_parameters > 0
        assert {(one.language, one.tokenizer, one.unknown_rate) for one in found.readings} == {
            ("en", "tokenizer", 0.0), ("ar", "tokenizer", 0.0),
        }  # fmt: skip
        assert {warning.reason for warning in found.warnings} == {"WORDS_SPLIT"}
        request = trainer_pb2.CreateRunRequest(parent=PARENT, spec=spec, request_id="one")
        run = (await service.trainer.CreateRun(request)).run
        kinds: dict[str, list[Any]] = {}
        scraped = ""
        async for message in service.watch(run.name):
            kind = message.WhichOneof("event")
            kinds.setdefault(kind, []).append(getattr(message, kind))
            if kind == "progress" and not scraped:
                scraped = targets(service)
        assert any("tokens a word" in line for line in kinds["log_line"])
        last = kinds["snapshot"][-1]
        assert state(last) == "SUCCEEDED", last
        assert last.progress.step == 12
        assert last.progress.memory_used_bytes > 1 << 20
        assert [checkpoint.step for checkpoint in kinds["checkpoint"]] == [5, 10]
        picture = kinds["preview"][0].images[0]
        read = model_pb2.ReadArtifactRequest(name=run.name, digest=picture.digest)
        data = b"".join([part.chunk async for part in service.models.ReadArtifact(read)])
        assert data.startswith(b"\x89PNG")
        assert run.name in scraped
        model = (await service.models.GetModel(model_pb2.GetModelRequest(name=last.model))).model
        assert (model.lineage.run, model.base_digest) == (run.name, base.digest)
        nodes = (await service.models.TraceLineage(model_pb2.TraceLineageRequest(name=model.name))).nodes
        assert [node.kind for node in nodes][:4] == ["adapter", "run", "base", "dataset_version"]
        out = await exported(service, model.name, "diffusers")
        peft = await exported(service, model.name, "peft")
        for files in (out, peft):
            assert {"README.md", *(file.path for file in model.samples if file.path.endswith(".png"))} <= set(files)
        # What goes out comes in again; the pictures of the card stay behind.
        for path, data in out.items():
            (tmp_path / "back" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "back" / path).write_bytes(data)
        place = Endpoints(dataset=service.address, trainer=service.address, generator=service.address)
        async with AsyncMarsam(place, project="hayy") as marsam:
            back = await marsam.models.import_folder(tmp_path / "back", "back", kind="adapter", base=base.name)
        assert (back.licence, {file.path for file in back.files}) == (
            "apache-2.0", {"README.md", "adapter_config.json", "adapter_model.safetensors"},
        )  # fmt: skip
    loads_in_diffusers(folder, out, peft, tmp_path)


async def test_captions_that_the_base_cannot_read_are_refused_whatever_its_family(tmp_path: Path) -> None:
    folder = build_sd1(tmp_path / "base", prediction="epsilon")
    shutil.rmtree(folder / "tokenizer")
    clip(folder / "tokenizer", letters="abcdefghijklmnopqrstuvwxyz0123456789")
    shelf = await make(tmp_path / "store", folder)
    async with Service(tmp_path, run_command=PYTHON_RUN) as service:
        spec = trainer_pb2.RunSpec(
            base=shelf.base.name, dataset_version=shelf.version.name, method="lora", steps=1, resolution=32
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.trainer.CreateRun(trainer_pb2.CreateRunRequest(parent=PARENT, spec=spec))
        error = error_of(caught.value)
        assert isinstance(error, Invalid)
        assert (error.reason, error.field) == ("LANGUAGE_UNREADABLE", "spec.languages")
        assert "'ar': tokenizer does not know 50 % of their words" in error.message
        assert error.remedy == "leave it out (languages: en), or choose a base that reads it"
        request = trainer_pb2.ValidateRunRequest(parent=PARENT, spec=spec)
        found = await service.trainer.ValidateRun(request, timeout=120)
        assert [fault.reason for fault in found.faults] == ["LANGUAGE_UNREADABLE"]
        assert [(one.language, one.unknown_rate) for one in found.readings] == [("ar", 0.5), ("en", 0.0)]
        request.spec.languages.append("en")
        found = await service.trainer.ValidateRun(request, timeout=120)
        assert (list(found.faults), [one.language for one in found.readings]) == ([], ["en"])


def targets(service: Service) -> str:
    """The service's list of scrape targets once a run in it answers with metrics of its own; '' before."""
    with urllib.request.urlopen(f"{service.http}/sd/runs", timeout=10) as answer:
        text = str(answer.read().decode())
    for entry in json.loads(text):
        try:
            with urllib.request.urlopen(f"http://{entry['targets'][0]}/metrics", timeout=10) as answer:
                assert b'service="run"' in answer.read()
        except urllib.error.URLError:
            return ""
        return text
    return ""


def loads_in_diffusers(folder: Path, out: dict[str, bytes], peft: dict[str, bytes], tmp_path: Path) -> None:
    """diffusers applies the exported adapter at the scale that it was trained with."""
    path = tmp_path / "pytorch_lora_weights.safetensors"
    path.write_bytes(out[path.name])
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    layer = pipe.unet.get_submodule("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q")
    before = layer.weight.detach().clone()
    pipe.load_lora_weights(path)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    after = pipe.unet.get_submodule("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q").weight.detach()
    from safetensors.torch import load

    config = json.loads(peft["adapter_config.json"])
    tensors = load(peft["adapter_model.safetensors"])
    name = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    delta = tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"] * (config["lora_alpha"] / config["r"])
    assert float(delta.abs().max()) > 0
    assert torch.allclose(after - before, delta, atol=1e-6)
