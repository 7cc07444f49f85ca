"""Every kind of published weights: all mismatches are reported together, and every tensor is accounted for."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from dalle_jax.config.errors import UserError
from dalle_jax.models.clip import Clip, ClipImageConfig, ClipTextConfig, FirstEnd, TowerConfig
from dalle_jax.models.dalle_bart import DalleBart
from dalle_jax.models.dvae import Dvae
from dalle_jax.models.glide import Glide, GlideConfig
from dalle_jax.models.llamagen import LlamaGen
from dalle_jax.models.lpips import Lpips, LpipsConfig
from dalle_jax.models.model_configs import ModelConfig
from dalle_jax.models.priors.diffusion_prior import DiffusionPriorConfig
from dalle_jax.models.priors.unclip_text_projection import UnclipTextProjectionConfig
from dalle_jax.models.unet import UNet, UNetConfig
from dalle_jax.models.vision.dinov2 import Dinov2, Dinov2Config
from dalle_jax.models.vision.efficientnet_lite import EfficientNetLite, EfficientNetLiteConfig
from dalle_jax.models.vision.inception_v3 import InceptionV3, InceptionV3Config
from dalle_jax.models.vqgan import Vqgan, VqganConfig
from dalle_jax.pretrained.exporters import find_exporter
from dalle_jax.pretrained.files.read_weights import read_tensors
from dalle_jax.pretrained.mapping import Rule, fill, to_published
from dalle_jax.pretrained.publisher import KINDS, find_kind
from dalle_jax.pretrained.publishers import clip_presets, dalle_mini, glide, karlo, llamagen, min_dalle, openai_dvae
from dalle_jax.pretrained.publishers.clip_presets import OpenClipPreset, OpenClipText
from dalle_jax.pretrained.publishers.clip_rules import hugging_face_vision_rules, openai_rules
from dalle_jax.pretrained.publishers.vision import dinov2_weights, efficientnet_weights, inception_weights
from dalle_jax.pretrained.publishers.vqgan_layouts import LLAMAGEN, name_pairs, torch_rules
from dalle_jax.sampling.options import RecommendedSampling
from tests.commands.test_import import CONFIG as CLIP
from tests.pretrained.publishers.test_generators import BART, LLAMA
from tests.pretrained.publishers.test_image_tokenizer_files import DVAE, VQGAN, lpips_tensors, noisy, save

DIFFUSERS = "diffusion_pytorch_model.safetensors"


def exported(name: str, network: nnx.Module, folder: Path) -> None:
    find_exporter(name).write(network, folder)


def openai_clip(folder: Path) -> Path:
    return save(folder / "clip.pt", to_published(noisy(Clip, CLIP), openai_rules(CLIP)))


def hf_clip(folder: Path) -> Path:
    exported("hf-clip", noisy(Clip, CLIP), folder)
    return folder


def open_clip(folder: Path) -> Path:
    openai_clip(folder).rename(folder / "open_clip_pytorch_model.bin")
    model = {"embed_dim": 8, "quick_gelu": True, "vision_cfg": {"head_width": 64}, "text_cfg": {"heads": 1}}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model}))
    return folder


def dvae(folder: Path) -> Path:
    tensors = to_published(noisy(Dvae, DVAE), openai_dvae.rules_for(DVAE))
    split(folder, tensors, ("encoder", "decoder"), ".", "pkl")
    return folder


def split(folder: Path, tensors: dict, sides: tuple[str, ...], joint: str, ending: str) -> None:
    for side in sides:
        own = {name.removeprefix(side + joint): x for name, x in tensors.items() if name.startswith(side + joint)}
        save(folder / f"{side}.{ending}", own)


def taming(folder: Path) -> Path:
    exported("taming-vqgan", noisy(Vqgan, VQGAN), folder)
    return folder


def flax_vqgan(folder: Path) -> Path:
    exported("dalle-mini-vqgan", noisy(Vqgan, VQGAN), folder)
    return folder


def llamagen_vq(folder: Path) -> Path:
    config = VqganConfig(**{**vars(VQGAN), "distance": "cosine"})
    rules = torch_rules(name_pairs(config, LLAMAGEN))
    return save(folder / "vq.pt", to_published(noisy(Vqgan, config), rules))


def lpips(folder: Path) -> Path:
    config = LpipsConfig(widths=(2, 3, 4, 5, 6), depths=(2, 2, 3, 3, 3))
    return save(folder / "lpips.pth", lpips_tensors(noisy(Lpips, config), slices=True))


EFFICIENTNET = EfficientNetLiteConfig(stem=2, widths=(1, 2, 3, 4, 5, 6, 7), features=3, classes=2)


def efficientnet(folder: Path) -> Path:
    tensors = to_published(noisy(EfficientNetLite, EFFICIENTNET), efficientnet_weights.network_rules(EFFICIENTNET))
    return save(folder / "lite0.pth", tensors | {"_bn0.num_batches_tracked": np.array(7)})


def inception(folder: Path) -> Path:
    tensors = to_published(noisy(InceptionV3, InceptionV3Config(unit=1, classes=5)), inception_weights.network_rules())
    return save(folder / "inception.pth", tensors | {"Mixed_5b.branch1x1.bn.num_batches_tracked": np.array(7)})


DINOV2 = Dinov2Config(width=64, layers=1, heads=1, grid=3, patch=2, registers=2, image_size=32)


def dinov2(folder: Path) -> Path:
    tensors = to_published(noisy(Dinov2, DINOV2), dinov2_weights.network_rules(DINOV2))
    return save(folder / "dinov2.pth", tensors | {"mask_token": np.zeros((1, 64), np.float32)})


def dalle_mini_folder(folder: Path) -> Path:
    dalle_mini.export(noisy(DalleBart, BART), folder)
    return folder


def min_dalle_folder(folder: Path) -> Path:
    tensors = to_published(noisy(DalleBart, BART), min_dalle.min_dalle_rules(BART))
    split(folder, tensors, ("encoder", "decoder"), "/", "pt")
    return folder


def llamagen_file(folder: Path) -> Path:
    (folder / "config.json").write_text(json.dumps({"n_head": 2, "block_size": 256}))
    return save(folder / "c2i.pt", to_published(noisy(LlamaGen, LLAMA), llamagen.rules_for(LLAMA)))


UNET = UNetConfig(width=32, multipliers=(1, 2), blocks=1, attention_levels=(1,), head_size=32, context_width=4)


def diffusers_unet(folder: Path) -> Path:
    exported("diffusers-unet", noisy(UNet, UNET), folder)
    return folder


def consistency_decoder(folder: Path) -> Path:
    config = UNetConfig(width=32, multipliers=(1,), blocks=1, extra_channels=4)
    exported("diffusers-unet", noisy(UNet, config), folder)
    flags = json.loads((folder / "config.json").read_text())
    flags |= {"time_embedding_type": "learned", "num_train_timesteps": 1024}
    latents = {"latent_channels": 4, "block_out_channels": [32, 32], "scaling_factor": 0.5}
    whole = latents | {f"decoder_{name}": value for name, value in flags.items()}
    (folder / "config.json").write_text(json.dumps(whole))
    tensors = {f"decoder_unet.{name}": x for name, x in copied(folder / DIFFUSERS).items()}
    more = {"quant_conv.bias": np.zeros(8), "decoder_unet.time_proj.weight": np.ones((1024, 32))}
    save(folder / DIFFUSERS, tensors | {name: x.astype(np.float32) for name, x in more.items()})
    return folder


def glide_file(folder: Path) -> Path:
    config = GlideConfig(UNET, vocab_size=9, text_length=3, text=TowerConfig(4, 1, 2))
    (folder / "config.json").write_text(json.dumps({"num_head_channels": 32, "xf_heads": 2}))
    return save(folder / "base.pt", to_published(noisy(Glide, config), glide.rules_for(config)))


EMBED, LENGTH = 4, 3


def karlo_prior(folder: Path) -> Path:
    config = DiffusionPriorConfig(EMBED, EMBED, LENGTH, width=8, depth=1, heads=2, unit_vectors=False)
    exported("karlo-prior", noisy(lambda config, rngs: config.build(rngs), config), folder)
    return folder


def karlo_part(folder: Path, config: ModelConfig, rules: list[Rule], flags: dict, file: str) -> Path:
    (folder / "config.json").write_text(json.dumps(flags))
    save(folder / file, to_published(noisy(lambda config, rngs: config.build(rngs), config), rules))
    return folder


def karlo_text_proj(folder: Path) -> Path:
    config, flags = UnclipTextProjectionConfig(EMBED, EMBED, 6, 8), {"_class_name": "UnCLIPTextProjModel"}
    return karlo_part(folder, config, karlo.text_proj_rules(), flags, DIFFUSERS)


def karlo_text_encoder(folder: Path) -> Path:
    config = ClipTextConfig(9, LENGTH, TowerConfig(EMBED, 1, 2, 8), EMBED, "quick_gelu", FirstEnd(8))
    flags = {"num_attention_heads": 2, "eos_token_id": 8}
    return karlo_part(folder, config, karlo.text_encoder_rules(config), flags, "model.safetensors")


def karlo_image_encoder(folder: Path) -> Path:
    config = ClipImageConfig(4, 2, TowerConfig(EMBED, 1, 2, 8), EMBED, "quick_gelu", crop="hugging_face")
    rules = hugging_face_vision_rules(config.vision, config.patch)
    return karlo_part(folder, config, rules, {"num_attention_heads": 2}, "model.safetensors")


Made = Callable[[Path], Path]
SOURCES: dict[str, tuple[Made, str, str, str]] = {
    "openai-clip": (openai_clip, "clip.pt", "ln_final.bias", "visual.ln_pre.weight"),
    "hf-clip": (hf_clip, "model.safetensors", "text_model.final_layer_norm.bias", "text_projection.weight"),
    "open-clip": (open_clip, "open_clip_pytorch_model.bin", "ln_final.bias", "visual.ln_pre.weight"),
    "openai-dvae": (dvae, "encoder.pkl", "blocks.output.conv.b", "blocks.input.b"),
    "taming-vqgan": (taming, "last.ckpt", "state_dict.quant_conv.bias", "state_dict.decoder.norm_out.bias"),
    "dalle-mini-vqgan": (flax_vqgan, "flax_model.msgpack", "quant_conv/bias", "decoder/norm_out/bias"),
    "llamagen-vq": (llamagen_vq, "vq.pt", "quant_conv.bias", "decoder.norm_out.bias"),
    "lpips": (lpips, "lpips.pth", "net.slice2.5.bias", "net.slice1.0.bias"),
    "efficientnet-lite0": (efficientnet, "lite0.pth", "_fc.bias", "_blocks.15._bn2.bias"),
    "inception-v3": (inception, "inception.pth", "fc.bias", "Mixed_7c.branch_pool.bn.bias"),
    "dinov2": (dinov2, "dinov2.pth", "norm.bias", "blocks.0.mlp.fc2.bias"),
    "dalle-mini": (dalle_mini_folder, "flax_model.msgpack", "lm_head/kernel", "model/encoder/final_ln/bias"),
    "min-dalle": (min_dalle_folder, "decoder.pt", "lm_head.weight", "final_ln.bias"),
    "llamagen": (llamagen_file, "c2i.pt", "norm.weight", "output.weight"),
    "diffusers-unet": (diffusers_unet, DIFFUSERS, "conv_out.bias", "conv_in.bias"),
    "consistency-decoder": (consistency_decoder, DIFFUSERS, "decoder_unet.conv_out.bias", "decoder_unet.conv_in.bias"),
    "glide": (glide_file, "base.pt", "final_ln.bias", "time_embed.0.bias"),
    "karlo-prior": (karlo_prior, DIFFUSERS, "norm_out.bias", "proj_in.bias"),
    "karlo-text-proj": (karlo_text_proj, DIFFUSERS, "embedding_proj.bias", "encoder_hidden_states_proj.bias"),
    "karlo-text-encoder": (
        karlo_text_encoder,
        "model.safetensors",
        "text_model.final_layer_norm.bias",
        "text_model.encoder.layers.0.mlp.fc2.bias",
    ),
    "karlo-image-encoder": (
        karlo_image_encoder,
        "model.safetensors",
        "vision_model.post_layernorm.bias",
        "vision_model.encoder.layers.0.mlp.fc2.bias",
    ),
}
"""Function that writes a small source, the file to corrupt, a tensor to remove and a tensor to enlarge."""


def read(name: str, source: Path):
    found = find_kind(name).read(source)
    module = nnx.eval_shape(lambda: found.config.build(nnx.Rngs(0)))
    return found, module, lambda: fill(module, found.tensors, found.rules, found.ignored)


def copied(path: Path) -> dict[str, np.ndarray]:
    """Copy the tensors out of the mapped file, so that it can be overwritten."""
    return {name: array.copy() for name, array in read_tensors(path).items()}


def last(name: str) -> str:
    return name.removeprefix("state_dict.")


def test_every_kind_has_a_small_source_here():
    assert SOURCES.keys() == {one.name for one in KINDS}


@pytest.mark.parametrize("name", SOURCES)
def test_missing_surplus_and_misshapen_tensors_are_reported_together(tmp_path, name):
    made, file, gone, longer = SOURCES[name]
    source = made(tmp_path)
    tensors = copied(tmp_path / file)
    missing = tensors.pop(gone)
    wrong = tensors[longer]
    tensors[longer] = np.zeros((*wrong.shape[:-1], (wrong.shape or (0,))[-1] + 1), wrong.dtype)
    extra = f"{longer.removesuffix(last(longer))}surplus.weight".replace(".", "/" if "/" in longer else ".")
    save(tmp_path / file, tensors | {extra: missing})
    _, _, filled = read(name, source)
    with pytest.raises(UserError) as caught:
        filled()
    said = str(caught.value)
    kinds = {"are missing:": last(gone), "which no rule uses:": last(extra), "dtypes differ:": last(longer)}
    for words, tensor in kinds.items():
        (line,) = (line for line in said.splitlines() if words in line)
        assert tensor in line and line.startswith(str(source.parent if source.is_file() else source)), said
    assert len(said.splitlines()) == 3


@pytest.mark.parametrize("name", SOURCES)
def test_every_tensor_is_used_once_or_skipped_with_a_reason(tmp_path, name):
    made, file, *_ = SOURCES[name]
    source = made(tmp_path)
    found, module, filled = read(name, source)
    left = filled()
    used = [one for rule in found.rules for one in rule.sources]
    files = [one for one in tmp_path.iterdir() if one.suffix in {".pt", ".pth", ".pkl", ".ckpt", ".msgpack", ".bin"}]
    stored = sum(len(read_tensors(one)) for one in files or [tmp_path / file])
    assert len(used) == len(set(used)) and stored == len(used) + len(left)
    assert all(left.values())
    for path, leaf in nnx.to_flat_state(nnx.state(module)):
        assert np.isfinite(np.asarray(leaf[...])).all(), path


@pytest.mark.parametrize("name", ["openai-clip", "taming-vqgan", "llamagen-vq", "llamagen"])
def test_checkpoint_entries_next_to_the_weights_are_skipped_with_that_reason(tmp_path, name):
    made, file, *_ = SOURCES[name]
    source = made(tmp_path)
    tensors = {last(one): x for one, x in copied(tmp_path / file).items()}
    inside = {f"state_dict.{one}": x for one, x in tensors.items()}
    save(tmp_path / file, inside | {"optimizer.0.moment": np.zeros(3, np.float32)})
    left = read(name, source)[2]()
    assert left == {"optimizer.0.moment": "next to the weights under 'state_dict'"}


def test_an_epoch_of_open_clip_is_imported_by_the_name_of_its_preset(tmp_path, monkeypatch):
    tensors = {f"state_dict.module.{one}": x for one, x in copied(openai_clip(tmp_path)).items()}
    tensors["state_dict.module.logit_scale"] = tensors["state_dict.module.logit_scale"].reshape(1)
    epoch = save(tmp_path / "epoch_3.pt", tensors | {"epoch": np.array(3)})
    text = OpenClipText(CLIP.text.width, CLIP.embed_width, CLIP.text.layers)
    assert isinstance(CLIP.vision, TowerConfig)
    fitting = OpenClipPreset(CLIP.image_size, CLIP.patch, CLIP.vision.width, CLIP.vision.layers, text)
    monkeypatch.setitem(clip_presets.OPEN_CLIP_PRESETS, "ViT-T-8", fitting)
    found = find_kind("open-clip").read(epoch, "ViT-T-8-quickgelu")
    module = nnx.eval_shape(lambda: found.config.build(nnx.Rngs(0)))
    assert fill(module, found.tensors, found.rules, found.ignored) == {
        "epoch": "next to the weights under 'state_dict.module'"
    }
    assert found.config == replace(CLIP, activation="quick_gelu") and found.name == "ViT-T-8-quickgelu"
    np.testing.assert_array_equal(module.log_scale[...], noisy(Clip, CLIP).log_scale[...])
    assert find_kind("open-clip").read(epoch, "ViT-T-8").config.activation == "gelu"
    with pytest.raises(UserError, match=r"epoch_3\.pt: expected the weights of ViT-B-32, got others: image_size"):
        find_kind("open-clip").read(epoch, "ViT-B-32")
    with pytest.raises(
        UserError, match="--preset: expected a model of open_clip, got 'ViT-B-3'; did you mean ViT-B-32"
    ):
        find_kind("open-clip").read(epoch, "ViT-B-3")
    with pytest.raises(UserError, match="--preset: expected none, because openai-clip has no presets, got ViT-B-32"):
        find_kind("openai-clip").read(epoch, "ViT-B-32")


def test_a_tensor_in_both_files_of_lpips_is_refused(tmp_path):
    tensors = copied(lpips(tmp_path))
    for file in ("vgg.pth", "vgg16-397923af.pth"):
        save(tmp_path / file, tensors)
    with pytest.raises(UserError, match="expected every tensor once, got 'net"):
        find_kind("lpips").read(tmp_path)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("consistency-decoder", {"latent_channels": 8}, "expected latent_channels 4, block_out_channels and"),
        ("consistency-decoder", {"decoder_num_train_timesteps": 9}, "expected more than 1008 learned"),
        ("karlo-prior", {"_class_name": "UNet2DModel"}, "expected _class_name 'PriorTransformer', got 'UNet2DModel'"),
        ("karlo-prior", {"added_emb_type": None}, "added_emb_type = 'None', of which only 'prd' is implemented"),
        ("karlo-prior", {"num_attention_heads": 3}, "expected num_attention_heads to divide 8"),
        ("karlo-prior", {"num_attention_heads": 1e9}, "num_attention_heads as a whole number"),
        ("karlo-prior", {"causal": 1}, "causal = '1' is not known here"),
        ("karlo-text-proj", {"_class_name": ["x"] * 99}, "expected _class_name 'UnCLIPTextProjModel'"),
        ("karlo-text-proj", {"clip_extra_context_tokens": -1}, "clip_extra_context_tokens as a whole number"),
        ("karlo-text-encoder", {"hidden_act": "relu"}, "hidden_act of quick_gelu or gelu, got 'relu'"),
        ("karlo-text-encoder", {"layer_norm_eps": 1e-6}, "layer_norm_eps = '1e-06', of which only 1e-05"),
        ("karlo-text-encoder", {"eos_token_id": "8"}, "eos_token_id to be a whole number, got '8'"),
        ("karlo-text-encoder", {"num_attention_heads": 3}, "num_attention_heads to divide 4, got 3"),
        ("karlo-image-encoder", {"hidden_act": "relu"}, "hidden_act of quick_gelu or gelu for all towers, got relu"),
    ],
)
def test_a_config_of_diffusers_that_is_not_implemented_is_one_line(tmp_path, name, changes, message):
    source = SOURCES[name][0](tmp_path)
    path = source / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError) as caught:
        find_kind(name).read(source)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("dalle-mini", (10.0, None)), ("min-dalle", (16.0, 256)), ("llamagen", (4.0, 2000)), ("taming-vqgan", None)],
)
def test_a_model_that_samples_has_its_publishers_options(tmp_path, name, expected):
    found = find_kind(name).read(SOURCES[name][0](tmp_path)).sampling
    assert found == (None if expected is None else RecommendedSampling(*expected))
