"""Small image tokenizers in the publishers' layouts: read into a network, or refused as another variant."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.config.errors import UserError
from dalle_jax.models.dvae import Dvae, DvaeConfig
from dalle_jax.models.lpips import Lpips, LpipsConfig
from dalle_jax.models.vqgan import Vqgan, VqganConfig
from dalle_jax.pretrained.exporters import find_exporter
from dalle_jax.pretrained.files.read_weights import read_tensors
from dalle_jax.pretrained.files.write_torch import write_state_dict
from dalle_jax.pretrained.mapping import CONV_KERNEL, fill, to_published
from dalle_jax.pretrained.publisher import find_kind
from dalle_jax.pretrained.publishers import openai_dvae
from dalle_jax.pretrained.publishers.lpips_weights import ALEXNET_NUMBERS
from dalle_jax.pretrained.publishers.vqgan_layouts import LLAMAGEN, TAMING, name_pairs, torch_rules

DVAE = DvaeConfig(width=8, codebook_size=12, code_width=6, groups=3, blocks=2)
VQGAN = VqganConfig(
    width=32, multipliers=(1, 2, 2), blocks=1, attention_levels=(1,), latent_width=6, code_width=5, codebook_size=7
)


def noisy(kind, config):
    """Return a network whose parameters, biases included, are distinct random numbers; numpy compiles nothing."""
    graph, state = nnx.split(nnx.eval_shape(lambda: kind(config, rngs=nnx.Rngs(0))))
    draw = np.random.default_rng(1)
    return nnx.merge(graph, jax.tree.map(lambda leaf: draw.random(leaf.shape, np.float32), state))


def save(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    """Save an .npz under any name; readers recognise formats by content."""
    with path.open("wb") as stream:
        np.savez(stream, **tensors)
    return path


def read(name: str, source: Path):
    found = find_kind(name).read(source)
    module = nnx.eval_shape(lambda: found.config.build(nnx.Rngs(0)))
    return module, fill(module, found.tensors, found.rules, found.ignored)


def assert_same(one, other):
    assert one.config == other.config
    for (path, a), (_, b) in zip(*(nnx.to_flat_state(nnx.state(module)) for module in (one, other)), strict=True):
        np.testing.assert_array_equal(a[...], b[...], err_msg=str(path))


def test_a_dvaes_sizes_and_weights_come_from_its_two_files(tmp_path):
    dvae = noisy(Dvae, DVAE)
    tensors = to_published(dvae, openai_dvae.rules_for(DVAE))
    for side in ("encoder", "decoder"):
        part = {name.removeprefix(f"{side}."): x for name, x in tensors.items() if name.startswith(side)}
        save(tmp_path / f"{side}.pkl", part)
    assert_same(read("openai-dvae", tmp_path)[0], dvae)
    (tmp_path / "decoder.pkl").unlink()
    with pytest.raises(UserError, match=r"decoder\.pkl or decoder\.pt"):
        find_kind("openai-dvae").read(tmp_path)


@pytest.mark.parametrize("name", ["taming-vqgan", "dalle-mini-vqgan"])
def test_an_exported_vqgan_is_imported_unchanged(name, tmp_path):
    config = {"taming-vqgan": VQGAN, "dalle-mini-vqgan": VqganConfig(**{**vars(VQGAN), "pixel_range": "0..1"})}[name]
    vqgan = noisy(Vqgan, config)
    find_exporter(name).write(vqgan, tmp_path)
    assert_same(read(name, tmp_path)[0], vqgan)
    assert not [file for file in tmp_path.iterdir() if file.name.endswith(".part")]
    cosine = Vqgan(VqganConfig(**{**vars(VQGAN), "distance": "cosine"}), rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match=r"expected a VQGAN with distance='euclidean' and .*, got distance='cosine'"):
        find_exporter(name).write(cosine, tmp_path)


def test_llamagens_decoder_numbers_its_levels_in_order_of_execution(tmp_path):
    config = VqganConfig(**{**vars(VQGAN), "distance": "cosine"})
    vqgan = noisy(Vqgan, config)
    tensors = to_published(vqgan, torch_rules(name_pairs(config, LLAMAGEN)))
    assert tensors["decoder.conv_blocks.0.res.0.conv1.weight"].shape[0] == 2 * 32
    tensors["quantize.codebook_used"] = np.zeros(9, np.float32)
    module, left = read("llamagen-vq", save(tmp_path / "vq.pt", {f"model.{one}": x for one, x in tensors.items()}))
    assert_same(module, vqgan)
    assert left == {"quantize.codebook_used": "a statistic of its training"}


def taming_tensors(config: VqganConfig) -> dict[str, np.ndarray]:
    return to_published(noisy(Vqgan, config), torch_rules(name_pairs(config, TAMING)))


def test_a_remapped_codebook_is_refused_by_name(tmp_path):
    write_state_dict(tmp_path / "last.ckpt", taming_tensors(VQGAN) | {"quantize.used": np.zeros(2, np.int64)})
    with pytest.raises(UserError, match=r"last\.ckpt: expected a VQGAN .*, got a remapped codebook \(remap\)"):
        find_kind("taming-vqgan").read(tmp_path)


def test_a_gumbel_vqgan_is_imported_and_chooses_the_most_likely_codes(tmp_path):
    config = VqganConfig(**{**vars(VQGAN), "quantizer": "gumbel"})
    tensors = taming_tensors(config)
    assert tensors["quantize.proj.weight"].shape == (7, 5, 1, 1) and tensors["quantize.embed.weight"].shape == (7, 5)
    write_state_dict(tmp_path / "last.ckpt", tensors)
    module, left = read("taming-vqgan", tmp_path)
    assert_same(module, noisy(Vqgan, config))
    assert not left
    pixels = jax.random.uniform(jax.random.key(2), (1, 8, 8, 3))
    latents = np.asarray(module.latents(2 * pixels - 1))  # [1 2 2 5]
    logits = latents @ tensors["quantize.proj.weight"][:, :, 0, 0].T + tensors["quantize.proj.bias"]
    codes = module.encode(pixels)
    np.testing.assert_array_equal(codes, logits.argmax(-1))
    drawn = module.decoder(module.out_of_codes(jnp.asarray(tensors["quantize.embed.weight"])[codes]))
    np.testing.assert_allclose(module.decode(codes), (np.asarray(drawn) / 2 + 0.5).clip(0, 1), atol=1e-6)
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    mean = shares / shares.sum(-1, keepdims=True) @ tensors["quantize.embed.weight"]
    np.testing.assert_allclose(module.encode_latents(pixels), mean, atol=1e-5)


def test_the_vqgan_inside_a_taming_transformer_is_imported_and_not_that_of_its_condition(tmp_path):
    vqgan = taming_tensors(VQGAN)
    condition = {name: np.zeros_like(value) for name, value in vqgan.items()}
    both = {f"first_stage_model.{name}": value for name, value in vqgan.items()}
    both |= {f"cond_stage_model.{name}": value for name, value in condition.items()}
    write_state_dict(tmp_path / "last.ckpt", both | {"transformer.pos_emb": np.zeros((1, 4), np.float32)})
    module, left = read("taming-vqgan", tmp_path / "last.ckpt")
    assert_same(module, noisy(Vqgan, VQGAN))
    assert len(left) == len(vqgan) + 1
    assert set(left.values()) == {"next to the weights under 'state_dict.first_stage_model'"}


@pytest.mark.parametrize(("made", "asked"), [("taming-vqgan", "llamagen-vq"), ("llamagen-vq", "taming-vqgan")])
def test_a_vqgan_of_the_other_publisher_is_named(made, asked, tmp_path):
    layout = {"taming-vqgan": TAMING, "llamagen-vq": LLAMAGEN}[made]
    write_state_dict(tmp_path / "a.pt", to_published(noisy(Vqgan, VQGAN), torch_rules(name_pairs(VQGAN, layout))))
    with pytest.raises(
        UserError, match=rf"a\.pt: expected the tensors of the kind {asked} .*; it looks like .* {made}$"
    ):
        find_kind(asked).read(tmp_path / "a.pt")


def test_wrong_fields_of_a_flax_vqgans_config_are_refused_together(tmp_path):
    find_exporter("dalle-mini-vqgan").write(Vqgan(VQGAN, rngs=nnx.Rngs(0)), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"double_z": True, "ch": "wide", "ch_mult": [1, 0]}))
    with pytest.raises(UserError, match=r"double_z = True; ch = 'wide'; ch_mult = \[1, 0\]"):
        find_kind("dalle-mini-vqgan").read(tmp_path)


def lpips_tensors(lpips: Lpips, slices: bool) -> dict[str, np.ndarray]:
    """Return the tensors by the names of LPIPS's slices, or of torchvision's features."""
    found, number = {}, 0
    for index, group in enumerate(lpips.groups):
        for conv in group:
            name = f"net.slice{index + 1}.{number}" if slices else f"features.{number}"
            found[f"{name}.weight"] = CONV_KERNEL.backward(np.asarray(conv.kernel[...]))[0]
            found[f"{name}.bias"] = np.asarray(conv.bias[...])
            number += 2
        number += 1
        found[f"lin{index}.model.1.weight"] = np.asarray(lpips.weights[index][...])[None, :, None, None]
    return found


@pytest.mark.parametrize("source", ["whole", "taming", "two"])
def test_lpips_is_read_from_one_file_a_vqgans_checkpoint_or_two_files(source, tmp_path):
    config = LpipsConfig(widths=(2, 3, 4, 5, 6), depths=(2, 2, 3, 3, 3))
    lpips = noisy(Lpips, config)
    tensors = lpips_tensors(lpips, slices=source != "two")
    if source == "whole":
        place = save(tmp_path / "lpips.pth", tensors | {"scaling_layer.shift": np.zeros((1, 3, 1, 1), np.float32)})
    elif source == "taming":
        inside = {f"loss.perceptual_loss.{name}": value for name, value in tensors.items()}
        beside = {"encoder.conv_in.bias": np.zeros(3, np.float32), "loss.discriminator.main.0.bias": np.zeros(1)}
        place = save(tmp_path / "last.ckpt", {f"state_dict.{name}": x for name, x in (inside | beside).items()})
    else:
        place = tmp_path
        own = {name: value for name, value in tensors.items() if name.startswith("lin")}
        vgg = {name: value for name, value in tensors.items() if name.startswith("features")}
        save(tmp_path / "vgg.pth", own)
        save(tmp_path / "vgg16-397923af.pth", vgg | {"classifier.0.bias": np.zeros(4, np.float32)})
    module, _ = read("lpips", place)
    for (path, a), (_, b) in zip(*(nnx.to_flat_state(nnx.state(one)) for one in (module, lpips)), strict=True):
        np.testing.assert_array_equal(a[...], b[...], err_msg=str(path))


def test_lpips_of_alexnet_is_read_from_two_files(tmp_path):
    config = LpipsConfig(widths=(2, 3, 4, 5, 6), depths=(1, 1, 1, 1, 1), backbone="alexnet")
    lpips = noisy(Lpips, config)
    network: dict = {"classifier.1.bias": np.zeros(4, np.float32)}
    for number, group in zip(ALEXNET_NUMBERS, lpips.groups, strict=True):
        network[f"features.{number}.weight"] = np.asarray(group[0].kernel[...]).transpose(3, 2, 0, 1)
        network[f"features.{number}.bias"] = np.asarray(group[0].bias[...])
    weights = enumerate(lpips.weights)
    save(tmp_path / "alex.pth", {f"lin{i}.model.1.weight": np.asarray(w[...])[None, :, None, None] for i, w in weights})
    save(tmp_path / "alexnet-owt-7be5be79.pth", network)
    module, _ = read("lpips", tmp_path)
    assert module.config == config
    assert_same(module, lpips)


def test_a_folder_that_lacks_a_file_of_lpips_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"one vgg16\*\.pth .* and one other vgg\*\.pth .*, got none"):
        find_kind("lpips").read(tmp_path)


def test_a_written_state_dict_is_read_back_in_every_dtype(tmp_path):
    tensors = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b.c": np.array(7, np.int64),
        "half": np.ones((1, 2), np.float16),
        "turned": np.arange(6.0).reshape(2, 3).T,
    }
    write_state_dict(tmp_path / "x.ckpt", tensors)
    found = read_tensors(tmp_path / "x.ckpt").under("state_dict.")
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == value.dtype
