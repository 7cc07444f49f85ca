"""What is exported, loaded by taming-transformers itself: needs torch and taming-transformers 0.0.1, else skipped."""

import sys
import types
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.models.lpips import Lpips, LpipsConfig
from dalle_jax.models.patch_discriminator import Discriminator, DiscriminatorConfig
from dalle_jax.models.vqgan import Vqgan, VqganConfig
from dalle_jax.pretrained.exporters import exporter
from dalle_jax.pretrained.mapping import KERNEL
from tests.parity.fixtures import assert_close, run
from tests.pretrained.test_image_tokenizer_files import lpips_tensors, noisy

pytestmark = pytest.mark.reference
CONFIG = VqganConfig(
    width=32, multipliers=(1, 2), blocks=1, attention_levels=(1,), latent_width=8, code_width=6, codebook_size=32
)
VALUES = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def torch():
    found = pytest.importorskip("torch")
    pytest.importorskip("taming.modules.vqvae.quantize")
    return found


def first(torch, x):
    return torch.tensor(x).permute(0, 3, 1, 2)


def last(x):
    return x.detach().permute(0, 2, 3, 1).numpy()


def test_taming_loads_an_exported_vqgan_and_gives_the_same_codes_and_pictures(torch, tmp_path):
    from taming.modules.diffusionmodules.model import Decoder, Encoder
    from taming.modules.vqvae.quantize import VectorQuantizer

    vqgan = Vqgan(CONFIG, rngs=nnx.Rngs(0))
    vqgan.codebook[...] = 0.1 * jax.random.normal(jax.random.key(3), vqgan.codebook.shape)
    exporter("taming-vqgan").write(vqgan, tmp_path)
    yaml = (tmp_path / "model.yaml").read_text()
    assert "attn_resolutions: [128]" in yaml and "resolution: 256" in yaml
    sizes = {
        "double_z": False, "z_channels": 8, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32,
        "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [128], "dropout": 0.0,
    }  # fmt: skip
    model = torch.nn.ModuleDict(
        {
            "encoder": Encoder(**sizes),
            "decoder": Decoder(**sizes),
            "quantize": VectorQuantizer(32, 6, beta=0.25),
            "quant_conv": torch.nn.Conv2d(8, 6, 1),
            "post_quant_conv": torch.nn.Conv2d(6, 8, 1),
        }
    )
    model.load_state_dict(torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"], strict=True)
    quantized, _, found = model["quantize"](model["quant_conv"](model["encoder"](first(torch, VALUES))))
    drawn = last(model["decoder"](model["post_quant_conv"](quantized)))
    codes = run(lambda model, x: model.encode(x), vqgan, (VALUES + 1) / 2)
    np.testing.assert_array_equal(codes, found[2].reshape(codes.shape).numpy())
    ours = run(lambda model, codes: model.decoder(model.out_of_codes(model.code_vectors[codes])), vqgan, codes)
    assert_close(ours, drawn, 5e-5)


def test_lpips_and_its_gradient_are_taming_s(torch, monkeypatch):
    layers, inputs = [], 3
    config = LpipsConfig()
    for width, depth in zip(config.widths, config.depths, strict=True):
        for size in [inputs] + [width] * (depth - 1):
            layers += [torch.nn.Conv2d(size, width, 3, padding=1), torch.nn.ReLU()]
        layers.append(torch.nn.MaxPool2d(2))
        inputs = width
    features = types.SimpleNamespace(features=torch.nn.Sequential(*layers))
    models = types.SimpleNamespace(vgg16=lambda pretrained: features)
    for name in ("torchvision", "requests", "tqdm"):
        if name not in sys.modules:
            monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(models=models, tqdm=None))
    from taming.modules.losses import lpips as theirs

    monkeypatch.setattr(theirs, "models", models)
    monkeypatch.setattr(theirs.LPIPS, "load_from_pretrained", lambda self: None)
    ours, reference = Lpips(config, rngs=nnx.Rngs(0)), theirs.LPIPS().eval()
    tensors = {name: torch.tensor(value) for name, value in lpips_tensors(ours, slices=True).items()}
    assert not reference.load_state_dict(tensors, strict=False).unexpected_keys
    other = first(torch, -VALUES).requires_grad_(True)
    distance = reference(first(torch, VALUES), other)
    distance.sum().backward()
    assert_close(run(lambda model, x, y: model(x, y), ours, VALUES, -VALUES), distance.detach().flatten(), 1e-5)
    got = run(lambda model, x, y: jax.grad(lambda y: model(x, y).sum())(y), ours, VALUES, -VALUES)
    wanted = last(other.grad)
    assert_close(got / np.abs(wanted).max(), wanted / np.abs(wanted).max(), 1e-4)


def test_the_discriminator_is_taming_s(torch):
    from taming.modules.discriminator.model import NLayerDiscriminator

    ours = noisy(Discriminator(replace(DiscriminatorConfig(), width=16, layers=3), rngs=nnx.Rngs(0)))
    reference, tensors, number = NLayerDiscriminator(3, 16, 3), {}, 0
    for index, conv in enumerate(ours.convs):
        tensors[f"main.{number}.weight"] = KERNEL.backward(np.asarray(conv.kernel[...]))[0]
        if conv.bias is not None:
            tensors[f"main.{number}.bias"] = np.asarray(conv.bias[...])
        else:
            number += 1
            tensors[f"main.{number}.weight"] = np.asarray(ours.norms[index - 1].scale[...])
            tensors[f"main.{number}.bias"] = np.asarray(ours.norms[index - 1].bias[...])
        number += 2
    missing = reference.load_state_dict({name: torch.tensor(x) for name, x in tensors.items()}, strict=False)
    assert not missing.unexpected_keys and all("running" in name for name in missing.missing_keys)
    wanted = last(reference.train()(first(torch, VALUES)))
    assert_close(run(lambda model, x: model(x), ours, jnp.asarray(VALUES)), wanted, 1e-5 * max(1, np.abs(wanted).max()))
