"""Image tokenizers beside DALL-E and taming-transformers, run live in an environment of their own.

DALLE_JAX_REFERENCE names its Python, which needs torch (the CPU build), DALL-E and taming-transformers-rom1504
(--no-deps), attrs, requests, tqdm, pytorch-lightning and msgpack.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.__main__ import main
from dalle_jax.models.lpips import Lpips, LpipsConfig
from dalle_jax.models.patch_discriminator import Discriminator, DiscriminatorConfig
from dalle_jax.models.vqgan import Vqgan, VqganConfig
from dalle_jax.pipelines.load.models import load_image_tokenizer
from dalle_jax.pretrained.exporters import find_exporter
from dalle_jax.pretrained.mapping import CONV_KERNEL
from tests.parity.fixtures import assert_close, imported, run
from tests.pretrained.publishers.test_image_tokenizer_files import lpips_tensors, noisy
from tests.reference.live import by_reference

pytestmark = pytest.mark.reference
CONFIG = VqganConfig(
    width=32, multipliers=(1, 2), blocks=1, attention_levels=(1,), latent_width=8, code_width=6, codebook_size=32
)
VALUES = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
TOLERANCE = 5e-5
"""Rounding of two programs in float32."""


def by_torch(*arguments):
    return by_reference("tokenizers_by_torch.py", *arguments)


def same_codes_and_images(vqgan, wanted):
    """``wanted``: values in -1..1 that went in, and those that came back."""
    codes = run(lambda model, x: model.quantize(model.latents(x)).codes, vqgan, wanted["values"])
    np.testing.assert_array_equal(codes, wanted["codes"])
    assert len(np.unique(codes)) > 3
    drawn = run(lambda model, codes: model.decoder(model.out_of_codes(model.code_vectors[codes])), vqgan, codes)
    assert_close(drawn, wanted["drawn"], TOLERANCE * max(1, np.abs(wanted["drawn"]).max()))


DVAES = {
    "two blocks": ({"n_hid": 16, "n_blk_per_group": 2, "vocab_size": 40}, 8),
    "three blocks, other widths": ({"n_hid": 24, "n_blk_per_group": 3, "vocab_size": 72}, 12),
}


@pytest.mark.parametrize("sizes", DVAES.values(), ids=DVAES)
def test_a_new_dvae_of_openais_code_is_imported_and_gives_the_same(tmp_path, sizes):
    encoder, before = sizes
    given = {"encoder": encoder, "decoder": encoder | {"n_init": before}}
    (tmp_path / "sizes.json").write_text(json.dumps(given))
    wanted = by_torch("dvae", tmp_path / "sizes.json", tmp_path, tmp_path / "out.npz")
    dvae = imported("openai-dvae", tmp_path)
    assert_close(run(lambda model, x: model.logits(x), dvae, wanted["pixels"]), wanted["logits"], TOLERANCE)
    codes = run(lambda model, x: model.encode(x), dvae, wanted["pixels"])
    np.testing.assert_array_equal(codes, wanted["codes"])
    assert_close(run(lambda model, codes: model.decode(codes), dvae, codes), wanted["drawn"], TOLERANCE)


NETWORK = {"double_z": False, "in_channels": 3, "out_ch": 3, "dropout": 0.0, "resolution": 32}
VQ_MODELS = {
    "attention at the smallest size": NETWORK
    | {"z_channels": 12, "ch": 32, "ch_mult": [1, 1, 2], "num_res_blocks": 1, "attn_resolutions": [8]},
    "attention at two sizes, two blocks": NETWORK
    | {"z_channels": 10, "ch": 64, "ch_mult": [1, 2], "num_res_blocks": 2, "attn_resolutions": [16, 32]},
}


@pytest.mark.parametrize("network", VQ_MODELS.values(), ids=VQ_MODELS)
def test_a_new_vqgan_of_taming_goes_in_and_out_and_gives_the_same_in_both_programs(tmp_path, network):
    model = {"ddconfig": network, "lossconfig": None, "n_embed": 48, "embed_dim": 7}
    (tmp_path / "model.json").write_text(json.dumps(model))
    wanted = by_torch("new_taming", tmp_path / "model.json", tmp_path, tmp_path / "out.npz")
    vqgan = imported("taming-vqgan", tmp_path / "last.ckpt")
    same_codes_and_images(vqgan, wanted)
    find_exporter("taming-vqgan").write(vqgan, tmp_path / "ours")
    again = by_torch("taming", tmp_path / "ours", tmp_path / "out.npz", tmp_path / "again.npz")
    for name, value in wanted.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)


@pytest.mark.parametrize("name", ["taming", "flax"])
def test_an_exported_vqgan_gives_the_same_in_taming(tmp_path, name):
    """Flax's layout too, from which the script makes taming's, since vqgan-jax is on no index."""
    graph, state = nnx.split(Vqgan(CONFIG, rngs=nnx.Rngs(0)))
    random = np.random.default_rng(1)  # kernels stay as they begin: of large ones rounding would be all that is seen
    state = jax.tree.map(lambda x: x + random.normal(0, 0.3, x.shape).astype("f") if x.ndim < 3 else x, state)
    vqgan = nnx.merge(graph, state)
    find_exporter({"taming": "taming-vqgan", "flax": "dalle-mini-vqgan"}[name]).write(vqgan, tmp_path / "out")
    np.savez(tmp_path / "in.npz", values=VALUES)
    same_codes_and_images(vqgan, by_torch(name, tmp_path / "out", tmp_path / "in.npz", tmp_path / "out.npz"))


@pytest.mark.parametrize("name", ["taming", "flax"])
def test_a_vqgan_that_was_trained_here_is_exported_and_gives_the_same_there(tmp_path, name):
    quiet = ["trainer.evaluate_every=None", "trainer.images_every=None", "task.model.distance='euclidean'"]
    given = [word for one in quiet for word in ("--set", one)]
    assert main(["train", "smoke/vqgan.gin", "--out", str(tmp_path / "run"), *given]) == 0
    kind = {"taming": "taming-vqgan", "flax": "dalle-mini-vqgan"}[name]
    assert main(["export", kind, str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    np.savez(tmp_path / "in.npz", values=VALUES)
    wanted = by_torch(name, tmp_path / "out", tmp_path / "in.npz", tmp_path / "out.npz")
    same_codes_and_images(load_image_tokenizer(tmp_path / "run"), wanted)


def test_lpips_and_its_gradient_equal_taming_s(tmp_path):
    ours = Lpips(LpipsConfig(), rngs=nnx.Rngs(0))
    np.savez(tmp_path / "in.npz", one=VALUES, other=-VALUES, **lpips_tensors(ours, slices=True))
    wanted = by_torch("lpips", tmp_path / "in.npz", tmp_path / "out.npz")
    assert_close(run(lambda model, x, y: model(x, y), ours, VALUES, -VALUES), wanted["distance"], 1e-5)
    got = run(lambda model, x, y: jax.grad(lambda y: model(x, y).sum())(y), ours, VALUES, -VALUES)
    largest = np.abs(wanted["gradient"]).max()
    assert_close(got / largest, wanted["gradient"] / largest, 1e-4)


def test_the_discriminator_equals_taming_s(tmp_path):
    config = dataclasses.replace(DiscriminatorConfig(), width=16, layers=3)
    ours, tensors, number = noisy(Discriminator(config, rngs=nnx.Rngs(0))), {}, 0
    for index, conv in enumerate(ours.convs):
        tensors[f"main.{number}.weight"] = CONV_KERNEL.backward(np.asarray(conv.kernel[...]))[0]
        if conv.bias is not None:
            tensors[f"main.{number}.bias"] = np.asarray(conv.bias[...])
        else:
            number += 1
            tensors[f"main.{number}.weight"] = np.asarray(ours.norms[index - 1].scale[...])
            tensors[f"main.{number}.bias"] = np.asarray(ours.norms[index - 1].bias[...])
        number += 2
    np.savez(tmp_path / "in.npz", values=VALUES, **tensors)
    wanted = by_torch("discriminator", tmp_path / "in.npz", tmp_path / "out.npz")["logits"]
    assert_close(run(lambda model, x: model(x), ours, jnp.asarray(VALUES)), wanted, 1e-5 * max(1, np.abs(wanted).max()))
