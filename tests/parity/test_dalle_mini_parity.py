"""DALL·E mini's Flax layout and min-dalle's: encoder, logits, super conditioning, the cache, and back again."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from fixtures import imported
from flax import nnx
from generator_fixtures import arrays, assert_close, compiled, fixture_folder, stepwise

from dalle_jax.models.dalle_bart import DalleBart, text_mask
from dalle_jax.pretrained.files.read_weights import read_tensors
from dalle_jax.pretrained.mapping import fill
from dalle_jax.pretrained.publishers.dalle_mini import REQUIRED, SIZES, export
from dalle_jax.pretrained.publishers.min_dalle import config_from_shapes, min_dalle_rules, read_min_dalle
from dalle_jax.sampling.autoregressive import guide

NAMES = ("dalle_mini_flax", "min_dalle")


def load(name):
    """The network, its prompts and empty prompts, codes that were given, and the reference's outputs."""
    folder = fixture_folder(name)
    io = {key: jnp.asarray(value) for key, value in arrays(folder).items()}
    if name == "dalle_mini_flax":
        model = imported("dalle-mini", folder)
        text, empty, given = io["input_ids"], io["input_ids_uncond"], io["decoder_input_ids"]
    else:
        tensors, sizes = read_min_dalle(folder), json.loads((folder / "meta.json").read_text())["config"]
        shapes = {name: one.shape for name, one in tensors.stored.items()}
        config = config_from_shapes(shapes, str(folder), heads=sizes["heads"])  # which no tensor tells
        model = nnx.eval_shape(lambda: DalleBart(config, rngs=nnx.Rngs(0)))
        fill(model, tensors, min_dalle_rules(config), {})
        text, empty, given = io["text_tokens"][1:], io["text_tokens"][:1], io["codes"]
    assert (given[:, 0] == model.config.start_code).all()
    codes = jnp.concatenate([given[:, 1:], jnp.zeros_like(given[:, :1])], axis=1)  # the last one is never an input
    return folder, model, text, empty, codes, io


@pytest.fixture(scope="module", params=NAMES)
def loaded(request):
    return load(request.param)


def test_the_encoder_outputs_equal_the_references(loaded):
    folder, model, text, empty, _, io = loaded

    def run(model, text):
        return model.encoder(text, text_mask(text, model.config.pad_id))

    ours = compiled(model, run)(jnp.concatenate([text, empty]))
    if "out_encoder_state" in io:
        theirs = jnp.concatenate([io["out_encoder_state"][1:], io["out_encoder_state"][:1]])
    else:
        theirs = jnp.concatenate([io["out_encoder_hidden"], io["out_encoder_hidden_uncond"]])
        np.testing.assert_array_equal(text_mask(text, model.config.pad_id), io["attention_mask"] != 0)
    assert_close(ours, theirs, folder)


def test_logits_of_prompts_and_of_the_empty_prompt_and_super_conditioning(loaded):
    folder, model, text, empty, codes, io = loaded
    np.testing.assert_array_equal(jnp.broadcast_to(model.empty(text), empty.shape), empty)
    run = compiled(model, lambda model, text, codes: model(text, codes).image)
    ours, without = run(text, codes), run(empty, codes)
    if "out_logits" in io:
        theirs, theirs_without = io["out_logits"], io["out_logits_uncond"]
    else:
        theirs_without, theirs = io["out_logits_teacher_forced"][:1], io["out_logits_teacher_forced"][1:]
        every = ours.shape[1] // theirs.shape[1]
        ours, without = ours[:, ::every], without[:, ::every]
    assert_close(ours, theirs, folder)
    assert_close(without, theirs_without, folder)
    scale = jnp.broadcast_to(io["condition_scale"], ours.shape[:1])
    assert_close(guide(ours, without, scale[:, None]), io["out_superconditioned"], folder)


def test_steps_through_the_cache_are_the_reference_and_give_no_code_beyond_the_codebook(loaded):
    folder, model, text, empty, codes, io = loaded
    if "out_logits_stepwise" in io:
        theirs, prompts = io["out_logits_stepwise"], jnp.concatenate([empty, text])
        codes = jnp.concatenate([codes, codes])
    else:
        theirs, prompts = io["out_logits"], text
    ours = stepwise(model, prompts, codes, theirs.shape[1])
    assert ours.shape[-1] == model.codebook_size < theirs.shape[-1]
    assert_close(ours, theirs[..., : model.codebook_size], folder)


def test_exported_weights_equal_the_imported_ones_and_are_read_back(loaded, tmp_path):
    model = loaded[1]
    export(model, tmp_path)
    again = imported("dalle-mini", tmp_path)
    assert again.config == model.config
    for (path, ours), (_, theirs) in zip(
        nnx.to_flat_state(nnx.state(model)), nnx.to_flat_state(nnx.state(again)), strict=True
    ):
        np.testing.assert_array_equal(ours[...], theirs[...], err_msg=str(path))


def test_the_export_has_the_published_names_and_numbers(tmp_path):
    folder, model, *_ = load("dalle_mini_flax")
    export(model, tmp_path)
    ours, theirs = (read_tensors(place / "flax_model.msgpack") for place in (tmp_path, folder))
    assert ours.keys() == theirs.keys()
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    published, exported = (json.loads((place / "config.json").read_text()) for place in (folder, tmp_path))
    network = {*SIZES, *REQUIRED, "image_vocab_size", "image_length", "decoder_start_token_id"}
    both = network & published.keys() & exported.keys()
    assert both >= SIZES.keys()
    assert {key: exported[key] for key in both} == {key: published[key] for key in both}
