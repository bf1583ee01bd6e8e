"""Checkpoints in one file become the base that they are: every tensor, in its own dtype, for every family."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from marsam.core.errors import Corrupt, Invalid
from marsam.diffusion import registry
from marsam.diffusion.onefile.facts import Held, recognise, reference
from marsam.diffusion.onefile.net import convert
from tests.contract.families import originals
from tests.contract.families.original_rules import DENOISERS


def names_in(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as opened:
        return list(opened.keys())


def short(name: str) -> str:
    return name.removeprefix("text_model.")


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(originals.FILES))
def test_every_tensor_of_a_file_is_the_bases(bases: dict[str, Path], family: str, tmp_path: Path) -> None:
    file = originals.write(bases[family], family, tmp_path / "one.safetensors")
    held = recognise(names_in(file))
    assert held.family == family
    paths = list(convert(file, held, bases[family], tmp_path / "made"))
    assert [path.split("/")[0] for path in paths] == list(held.parts)
    for path in paths:
        theirs = originals.tensors_of(bases[family], path.split("/")[0])
        ours = load_file(tmp_path / "made" / path)
        if family == "sd3" and path == "text_encoder/model.safetensors":
            # SD3 takes this one's vector before the projection, and diffusers says so with ones on its diagonal.
            projection = ours.pop("text_projection.weight")
            assert torch.equal(projection, torch.eye(*projection.shape))
            del theirs["text_projection.weight"]
        assert {short(name) for name in ours} == {short(name) for name in theirs}
        found = {short(name): value for name, value in ours.items()}
        for name, value in theirs.items():
            assert torch.equal(found[short(name)], value), (path, name)


@pytest.mark.slow
def test_a_projection_that_the_family_does_not_ask_for_is_left_out(bases: dict[str, Path], tmp_path: Path) -> None:
    """ComfyUI writes one with every CLIP; of FLUX.1's only the vector before it is taken."""
    begin = "text_encoders.clip_l.transformer."
    tensors = {f"{begin}{name}": value for name, value in originals.clip(bases["flux"], "text_encoder").items()}
    tensors[f"{begin}text_projection.weight"] = torch.ones(16, 16)
    file = tmp_path / "one.safetensors"
    save_file({name: value.clone().contiguous() for name, value in tensors.items()}, file)
    held = Held(family="flux", parts={"text_encoder": begin})
    (path,) = convert(file, held, bases["flux"], tmp_path / "made")
    ours = {short(name): value for name, value in load_file(tmp_path / "made" / path).items()}
    theirs = {short(name): v for name, v in originals.tensors_of(bases["flux"], "text_encoder").items()}
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_whole_checkpoint_loads_and_predicts_as_its_base(bases: dict[str, Path], family: str, tmp_path: Path) -> None:
    file = originals.write(bases[family], family, tmp_path / "one.safetensors")
    held = recognise(names_in(file))
    assert set(held.parts) == {"unet", "vae", *(p for p in registry.family_facts(family).text_folders if "enc" in p)}
    made = tmp_path / "base"
    list(convert(file, held, bases[family], made))
    for config in bases[family].rglob("*"):
        if config.is_file() and config.suffix != ".safetensors":
            (made / config.relative_to(bases[family])).parent.mkdir(parents=True, exist_ok=True)
            (made / config.relative_to(bases[family])).write_bytes(config.read_bytes())
    ours, theirs = (drawn(family, folder) for folder in (made, bases[family]))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def drawn(family: str, folder: Path) -> tuple[torch.Tensor, ...]:
    """A prediction, a decoded picture and a coded one."""
    net = registry.family(family)
    parts = net.load(folder)
    shape = (1, *parts.facts.latent_shape(32, 32))
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    caption = net.encode_text(parts, ["a red kite"])
    with torch.no_grad():
        predicted = net.predict(
            parts.denoiser, noise, torch.tensor([0.5], dtype=torch.float64), caption, train_steps=1000
        )
    picture = net.decode(parts, noise)
    return predicted, picture, net.encode_image(parts, picture)


def test_version_2_has_its_encoder_in_openclips_layout(bases: dict[str, Path], tmp_path: Path) -> None:
    whole = originals.FILES["sd1"](bases["sd1"])
    tensors = {name: value for name, value in whole.items() if not name.startswith("cond_stage_model.")}
    encoder = originals.open_clip(bases["sd1"], "text_encoder")
    tensors |= {f"cond_stage_model.model.{name}": value for name, value in encoder.items()}
    file = tmp_path / "one.safetensors"
    save_file({name: value.clone().contiguous() for name, value in tensors.items()}, file)
    held = recognise(names_in(file))
    assert (held.family, reference(held, tensors)) == ("sd1", "")
    list(convert(file, held, bases["sd1"], tmp_path / "made"))
    ours = {short(name): v for name, v in load_file(tmp_path / "made/text_encoder/model.safetensors").items()}
    theirs = {short(name): v for name, v in originals.tensors_of(bases["sd1"], "text_encoder").items()}
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_a_part_that_cannot_be_converted_is_no_part_left_out(bases: dict[str, Path], tmp_path: Path) -> None:
    """Another VAE would be in its place, without a word."""
    file = originals.write(bases["flux2"], "flux2", tmp_path / "one.safetensors", **{"vae.x": torch.zeros(1)})
    held = recognise(names_in(file))
    with pytest.raises(Invalid) as caught:
        list(convert(file, held, bases["flux2"], tmp_path / "made"))
    assert caught.value.reason == "ONE_FILE_PART"
    assert "AutoencoderKLFlux2" in caught.value.message


@pytest.mark.slow
def test_half_precision_stays_and_the_same_file_gives_the_same_bytes(bases: dict[str, Path], tmp_path: Path) -> None:
    whole = originals.FILES["z_image"](bases["z_image"])
    file = tmp_path / "half.safetensors"
    save_file({name: value.to(torch.bfloat16).contiguous() for name, value in whole.items()}, file)
    held = recognise(whole)
    for folder in ("one", "two"):
        assert list(convert(file, held, bases["z_image"], tmp_path / folder)) == [
            "transformer/diffusion_pytorch_model.safetensors"
        ]
    one, two = (
        (tmp_path / folder / "transformer/diffusion_pytorch_model.safetensors").read_bytes()
        for folder in ("one", "two")
    )
    assert one == two
    ours = load_file(tmp_path / "one/transformer/diffusion_pytorch_model.safetensors")
    theirs = originals.tensors_of(bases["z_image"], "transformer")
    assert all(torch.equal(ours[name], value.to(torch.bfloat16)) for name, value in theirs.items())


@pytest.mark.slow
def test_a_denoiser_in_diffusers_names_needs_its_family_only(bases: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "one.safetensors"
    save_file(originals.tensors_of(bases["sana"], "transformer"), file)
    with pytest.raises(Invalid) as caught:
        recognise(names_in(file))
    assert (caught.value.reason, caught.value.field) == ("FAMILY_UNKNOWN", "family")
    assert "caption_norm.weight" in caught.value.message
    (path,) = convert(file, recognise(names_in(file), family="sana"), bases["sana"], tmp_path / "made")
    ours, theirs = load_file(tmp_path / "made" / path), originals.tensors_of(bases["sana"], "transformer")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_flux_at_its_one_width(tmp_path: Path) -> None:
    """The converter cuts FLUX.1's fused layers at 3072: one block of each kind, as wide as the real one."""
    torch.manual_seed(0)
    config = {
        "_class_name": "FluxTransformer2DModel", "in_channels": 16, "num_layers": 1, "num_single_layers": 1,
        "attention_head_dim": 128, "num_attention_heads": 24, "joint_attention_dim": 8, "pooled_projection_dim": 8,
        "guidance_embeds": True,
    }  # fmt: skip
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(config))
    (tmp_path / "model_index.json").write_text("{}")
    with torch.device("meta"):
        model = FluxTransformer2DModel.from_config(config)
    # Numbered along the rows, which is where tensors are cut.
    theirs = {
        name: torch.arange(value.shape[0]).to(torch.bfloat16).reshape(-1, *[1] * (value.ndim - 1)).expand(value.shape)
        for name, value in model.state_dict().items()
    }
    file = tmp_path / "flux.safetensors"
    save_file({n: v.contiguous() for n, v in originals.renamed(theirs, DENOISERS["flux"]).items()}, file)
    held = recognise(names_in(file))
    assert (held.family, reference(held, names_in(file))) == ("flux", "black-forest-labs/FLUX.1-dev")
    (path,) = convert(file, held, tmp_path, tmp_path / "made")
    with safe_open(tmp_path / "made" / path, framework="pt") as ours:
        assert set(ours.keys()) == set(theirs)
        assert all(torch.equal(ours.get_tensor(name), value) for name, value in theirs.items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model.diffusion_model.out.2.bias": None}, "1 tensors missing"),
        ({"model.diffusion_model.out.2.bias": torch.zeros(5)}, "conv_out.bias has shape (5,), not (4,)"),
        ({"model.diffusion_model.input_blocks.4.0.in_layers.0.weight": torch.zeros(5)}, "1 unknown"),
        ({"first_stage_model.decoder.conv_out.bias": None}, "the file's vae"),
        ({"cond_stage_model.transformer.text_model.encoder.layers.7.x": torch.zeros(1)}, "the file's text_encoder"),
    ],
)
def test_a_file_that_does_not_fit_its_configuration_is_corrupt(
    bases: dict[str, Path], tmp_path: Path, change: dict[str, torch.Tensor | None], words: str
) -> None:
    tensors = {**originals.FILES["sd1"](bases["sd1"]), **change}
    file = tmp_path / "one.safetensors"
    save_file({name: value.clone().contiguous() for name, value in tensors.items() if value is not None}, file)
    with pytest.raises(Corrupt) as caught:
        list(convert(file, recognise(names_in(file)), bases["sd1"], tmp_path / "made"))
    assert caught.value.reason == "ONE_FILE_MISMATCH"
    assert words in caught.value.message


@pytest.mark.slow
def test_other_files_are_told_what_they_are(bases: dict[str, Path]) -> None:
    sd1 = originals.FILES["sd1"](bases["sd1"])
    for names, family, reason in (
        (["lora_unet_down_blocks_0.lora_down.weight"], "", "MODEL_KIND"),
        (["down_blocks.0.attentions.0.lora_A.weight"], "", "MODEL_KIND"),
        (["x.weight"], "", "FAMILY_UNKNOWN"),
        (list(sd1), "sdxl", "FAMILY_MISMATCH"),
        ([*originals.FILES["z_image"](bases["z_image"]), "text_encoders.qwen3_4b.transformer.x"], "", "ONE_FILE_PART"),
    ):
        with pytest.raises(Invalid) as caught:
            recognise(names, family=family)
        assert caught.value.reason == reason


@pytest.mark.slow
def test_what_a_file_lacks_is_taken_for_granted_only_where_the_file_tells(bases: dict[str, Path]) -> None:
    told = {}
    for family, make in originals.FILES.items():
        names = list(make(bases[family]))
        told[family] = reference(recognise(names), names)
    assert told == {
        "sd1": "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
        "qwen_image": "Qwen/Qwen-Image",
        **dict.fromkeys(("sd3", "sana", "z_image", "flux2"), ""),
    }
    schnell = ["double_blocks.0.img_attn.norm.key_norm.scale", "vector_in.in_layer.weight"]
    assert reference(recognise(schnell), schnell) == "black-forest-labs/FLUX.1-schnell"
