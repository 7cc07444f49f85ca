"""Karlo's prior, text projection and text encoder against diffusers and transformers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.diffusion.samplers.sampler import RecordedNoise
from dalle_jax.models.priors.prior import TextCondition, read_text
from dalle_jax.pretrained.files.read_weights import read_tensors
from dalle_jax.pretrained.publishers.karlo import export
from tests.parity.fixtures import assert_close, fixture, imported, run
from tests.parity.scheduler_rounding import RoundedDdpm


@pytest.fixture(scope="module")
def prior():
    found = fixture("unclip_prior")
    return found, imported("karlo-prior", found.folder)


def test_the_prior_predicts_x0_as_the_reference_does(prior):
    (_, io, tolerance), model = prior
    for time in io["timesteps"]:
        times = np.full(len(io["latents"]), time, np.float32)
        text = TextCondition(io["text_hidden"], io["prompt_embeds"], io["text_mask"])
        got = run(lambda model, x, t, *text: model(x, t, TextCondition(*text)), model, io["latents"], times, *text)
        assert_close(got, io[f"out_t{time}"], tolerance)


def test_the_prior_without_a_mask_and_its_statistics(prior):
    """Without a mask of the text the reference is not causal either."""
    (_, io, tolerance), model = prior
    (name,) = (name for name in io if name.startswith("out_nomask_t"))
    times = np.full(len(io["latents"]), float(name.removeprefix("out_nomask_t")), np.float32)
    text = TextCondition(io["text_hidden"], io["prompt_embeds"], io["text_mask"])

    def predict(model, x, t, *text):
        return model.predict(model.embed(x, t, TextCondition(*text)), None)

    got = run(predict, model, io["latents"], times, *text)
    assert_close(got, io[name], tolerance)
    assert_close(model.denormalise(jnp.asarray(io["latents"])), io["out_post_process"], tolerance)


def test_the_exported_prior_has_the_published_names_and_numbers(prior, tmp_path):
    (folder, _, _), model = prior
    export(model, tmp_path)
    name = "diffusion_pytorch_model.safetensors"
    ours, theirs = (read_tensors(place / name) for place in (tmp_path, folder))
    assert ours.keys() == theirs.keys()
    for tensor in theirs:
        np.testing.assert_array_equal(ours[tensor], theirs[tensor], err_msg=tensor)
    published, exported = (json.loads((place / "config.json").read_text()) for place in (folder, tmp_path))
    assert {key: published[key] for key in exported} == exported


def test_the_text_projection_is_the_references():
    folder, io, tolerance = fixture("unclip_text_proj")
    model = imported("karlo-text-proj", folder)
    mask = np.ones(io["text_hidden"].shape[:2], bool)

    def project(model, image, states, vector, mask):
        return model(image, TextCondition(states, vector, mask))

    arrays = (io["image_embeds"], io["text_hidden"], io["prompt_embeds"], mask)
    found = project(model, *map(jnp.asarray, arrays))
    assert_close(found.context, io["out_context"], tolerance)
    assert_close(found.time, io["out_time_add"], tolerance)
    assert found.mask.shape == io["out_context"].shape[:2] and bool(found.mask.all())


def test_guidance_stands_for_no_image_with_the_learned_vector():
    folder, io, tolerance = fixture("unclip_text_proj")
    model = imported("karlo-text-proj", folder)
    rows = len(io["image_embeds"])
    image = jnp.concatenate([model.without_image(rows), jnp.asarray(io["image_embeds"])])
    mask = jnp.ones(io["text_hidden_cfg"].shape[:2], bool)
    found = model(image, TextCondition(jnp.asarray(io["text_hidden_cfg"]), jnp.asarray(io["prompt_embeds_cfg"]), mask))
    assert_close(found.context, io["out_context_cfg"], tolerance)
    assert_close(found.time, io["out_time_add_cfg"], tolerance)


def test_the_text_encoder_and_the_whole_prior_with_recorded_noise():
    """The pipeline's own noise, guidance and steps, from token ids to image vectors."""
    folder, io, tolerance = fixture("unclip_pipeline")
    encoder = imported("karlo-text-encoder", folder / "text_encoder")
    model = imported("karlo-prior", fixture("unclip_prior").folder)
    ids, empty = jnp.asarray(io["input_ids"], jnp.int32), jnp.asarray(io["uncond_input_ids"], jnp.int32)
    with jax.default_matmul_precision("float32"):
        text, without = read_text(encoder, ids, False), read_text(encoder, empty, False)
        np.testing.assert_array_equal(text.mask, io["text_mask"])
        np.testing.assert_array_equal(without.mask, io["uncond_text_mask"])
        assert_close(text.vector, io["out_text_embeds"], tolerance)
        assert_close(np.asarray(text.states)[io["text_mask"]], io["out_text_hidden"][io["text_mask"]], tolerance)
        steps = int(io["steps"][0])
        noise = [io[f"noise_{number:02d}"] for number in range(steps)]
        drawn = RecordedNoise(jnp.asarray(np.stack([*noise[1:], np.zeros_like(noise[0])])))  # the last draws none
        got = model.sample(
            text, without, jnp.asarray(noise[0]), drawn, float(io["guidance"][0]), steps, RoundedDdpm("fixed_small")
        )
    assert_close(got, io["out_image_embeds"], tolerance)
