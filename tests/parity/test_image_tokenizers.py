"""Image tokenizers against DALL-E, taming-transformers, vqgan-jax and LlamaGen: blocks, codes, images."""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.losses.logit_laplace import map_pixels
from dalle_jax.models.dvae import expected_pixels
from dalle_jax.models.vqgan import to_range
from dalle_jax.pretrained.exporters import find_exporter
from dalle_jax.pretrained.publisher import find_kind as kind_of
from tests.parity.fixtures import assert_close, fixture, imported, run


def last(x):
    """[B C H W] to [B H W C]."""
    return np.moveaxis(x, 1, -1)


def integers(x):
    return x.astype(np.int32)


@pytest.fixture(scope="module", params=["decoder.pkl", "decoder_state_legacy.pt"])
def dvae(request, tmp_path_factory):
    """The encoder's pickled module beside the decoder's, or beside its state dict in the older container."""
    found = fixture("dalle_dvae")
    folder = tmp_path_factory.mktemp("dvae")
    shutil.copy(found.folder / "encoder.pkl", folder / "encoder.pkl")
    shutil.copy(found.folder / request.param, folder / "decoder.pkl")
    return found, imported("openai-dvae", folder)


def test_the_dvae_s_encoder_maps_pixels_and_finds_the_logits_and_codes(dvae):
    (_, io, tolerance), model = dvae
    pixels = last(io["image"])
    assert_close(map_pixels(jnp.asarray(pixels)), last(io["out_mapped"]), 1e-6)
    assert_close(run(lambda model, x: model.logits(x), model, pixels), last(io["out_logits"]), tolerance)
    np.testing.assert_array_equal(run(lambda model, x: model.encode(x), model, pixels), io["out_indices"])


def test_the_dvae_s_decoder_gives_the_statistics_of_hard_and_soft_codes_and_the_images(dvae):
    (_, io, tolerance), model = dvae
    codes = jnp.asarray(integers(io["out_indices"]))
    hard = model.decoder.hard(codes)
    wanted = last(io["out_decoder_stats"])
    channels = wanted.shape[-1] // 2
    assert_close(hard.mean, wanted[..., :channels], tolerance)
    assert_close(hard.log_scale, wanted[..., channels:], tolerance)
    assert_close(expected_pixels(hard), last(io["out_reconstruction"]), tolerance)
    assert_close(run(lambda model, codes: model.decode(codes), model, codes), last(io["out_reconstruction"]), tolerance)
    soft = model.decoder.soft(jnp.asarray(last(io["soft_codes"])))
    assert_close(np.concatenate([soft.mean, soft.log_scale], axis=-1), last(io["out_soft_stats"]), tolerance)


@pytest.fixture(scope="module")
def taming():
    found = fixture("vqgan")
    return found, imported("taming-vqgan", found.folder)


def test_taming_s_encoder_and_codes(taming):
    (_, io, tolerance), model = taming
    values = last(io["image"])
    assert_close(run(lambda model, x: model.encoder(x), model, values), last(io["out_encoder"]), tolerance)
    assert_close(run(lambda model, x: model.latents(x), model, values), last(io["out_pre_quant"]), tolerance)
    quantized = run(lambda model, x: model.quantize(model.latents(x)).nearest, model, values)
    assert_close(quantized, last(io["out_quantized"]), tolerance)
    codes = run(lambda model, x: model.encode(x), model, (values + 1) / 2)
    np.testing.assert_array_equal(codes, io["out_indices"].reshape(codes.shape))


def test_taming_s_images_and_the_loss_of_its_codebook(taming):
    (_, io, tolerance), model = taming

    def drawn(model, codes):
        return model.decoder(model.out_of_codes(model.code_vectors[codes]))

    shape = io["codes"].shape
    assert_close(run(drawn, model, integers(io["codes"])), last(io["out_decoded_codes"]), tolerance)
    codes = integers(io["out_indices"]).reshape(shape)
    assert_close(run(drawn, model, codes), last(io["out_reconstruction"]), tolerance)
    wanted = ((last(io["out_reconstruction"]) + 1) / 2).clip(0, 1)
    assert_close(run(lambda model, codes: model.decode(codes), model, codes), wanted, tolerance)
    apart = np.square(last(io["out_quantized"]) - last(io["out_pre_quant"])).mean()
    assert_close((0.25 + 1.0) * apart, io["out_loss"], tolerance)  # the two weights of TokenizeImagesGan


def test_dalle_mini_s_flax_vqgan_encodes_and_decodes_pixels_from_0_to_1():
    folder, io, tolerance = fixture("vqgan_flax")
    model = imported("dalle-mini-vqgan", folder)
    codes = run(lambda model, x: model.encode(x), model, io["image01"])
    np.testing.assert_array_equal(codes.reshape(io["out_indices"].shape), io["out_indices"])
    pixels = io["image01"]
    nearest = run(lambda model, x: model.quantize(model.latents(to_range(model.config, x))).nearest, model, pixels)
    assert_close(nearest, io["out_quantized"], tolerance)
    grid = integers(io["codes"]).reshape(nearest.shape[:3])
    drawn = run(lambda model, codes: model.decoder(model.out_of_codes(model.code_vectors[codes])), model, grid)
    assert_close(drawn, io["out_decoded_codes"], tolerance)
    assert_close(run(lambda model, codes: model.decode(codes), model, grid), io["out_decoded_01"], tolerance)


def test_llamagen_s_tokenizer_has_unit_codes():
    folder, io, tolerance = fixture("llamagen_vq")
    model = imported("llamagen-vq", folder / "vq.pt")
    values = last(io["image"])
    quantized = run(lambda model, x: model.quantize(model.latents(x)).nearest, model, values)
    assert_close(quantized, last(io["out_quantized"]), tolerance)
    codes = run(lambda model, x: model.encode(x), model, (values + 1) / 2)
    np.testing.assert_array_equal(codes, io["out_indices"].reshape(codes.shape))

    def drawn(model, codes):
        return model.decoder(model.out_of_codes(model.code_vectors[codes]))

    assert_close(run(drawn, model, codes), last(io["out_reconstruction"]), tolerance)
    assert_close(run(drawn, model, integers(io["codes"])), last(io["out_decoded_codes"]), tolerance)


@pytest.mark.parametrize(("name", "kind"), [("vqgan", "taming-vqgan"), ("vqgan_flax", "dalle-mini-vqgan")])
def test_an_exported_file_equals_the_imported_file(name, kind, tmp_path):
    source = fixture(name).folder
    find_exporter(kind).write(imported(kind, source), tmp_path)
    before, after = kind_of(kind).read(source), kind_of(kind).read(tmp_path)
    assert after.config == before.config
    assert set(after.tensors) == {one for rule in before.rules for one in rule.sources}
    for one in after.tensors:
        np.testing.assert_array_equal(after.tensors[one], before.tensors[one], err_msg=one)
