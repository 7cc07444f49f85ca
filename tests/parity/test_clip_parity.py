"""CLIP against Hugging Face, OpenAI and open_clip: blocks, towers, logits."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.losses.contrastive import similarities
from dalle_jax.models.clip import unit
from dalle_jax.pretrained.files.read_weights import read_tensors
from dalle_jax.pretrained.files.safetensors_files import write_safetensors
from tests.parity.fixtures import assert_close, fixture, imported, run


def pixels(io):
    return io["pixel_values"].transpose(0, 2, 3, 1)


def ids(io):
    return io["input_ids"].astype(np.int32)


def logits(clip, images, text):
    return clip.logit_scale * similarities(unit(clip.vision(images)), unit(clip.text(text)))


@pytest.fixture(scope="module")
def hugging_face():
    found = fixture("clip_hf")
    return found, imported("hf-clip", found.folder)


def test_hugging_face_image_tower_block_by_block(hugging_face):
    (_, io, tolerance), clip = hugging_face
    assert_close(run(lambda clip, x: clip.vision.states(x), clip, pixels(io)), io["out_vision_last_hidden"], tolerance)
    features = run(lambda clip, x: clip.vision(x), clip, pixels(io))
    assert_close(features, io["out_vision_pooled"], tolerance)
    assert_close(unit(jnp.asarray(features)), io["out_image_embeds"], tolerance)


def test_hugging_face_text_tower_block_by_block(hugging_face):
    """States are compared where there is text: behind its end the reference masks, and nobody reads."""
    (_, io, tolerance), clip = hugging_face
    there = io["attention_mask"].astype(bool)
    states = run(lambda clip, text: clip.text.states(text), clip, ids(io))
    assert_close(states[there], io["out_text_last_hidden"][there], tolerance)
    features = run(lambda clip, text: clip.text(text), clip, ids(io))
    assert_close(features, io["out_text_pooled"], tolerance)
    assert_close(unit(jnp.asarray(features)), io["out_text_embeds"], tolerance)


def test_hugging_face_logits(hugging_face):
    (_, io, tolerance), clip = hugging_face
    got = run(logits, clip, pixels(io), ids(io))
    assert_close(got, io["out_logits_per_image"], tolerance)
    assert_close(got.T, io["out_logits_per_text"], tolerance)


def test_an_image_encoder_alone_is_the_image_tower_of_the_whole(hugging_face, tmp_path):
    """Karlo's variations publish the tower so; its vectors are those before the L2 normalisation."""
    (folder, io, tolerance), clip = hugging_face
    (tmp_path / "feature_extractor").mkdir()
    whole = json.loads((folder / "config.json").read_text())
    (tmp_path / "image_encoder").mkdir()
    (tmp_path / "image_encoder" / "config.json").write_text(json.dumps(whole["vision_config"]))
    mean = {"image_mean": [0.5, 0.4, 0.3]}
    (tmp_path / "feature_extractor" / "preprocessor_config.json").write_text(json.dumps(mean))
    tensors = {name: x for name, x in read_tensors(folder / "model.safetensors").items() if name.startswith("vis")}
    write_safetensors(tmp_path / "image_encoder" / "model.safetensors", tensors, {})
    encoder = imported("karlo-image-encoder", tmp_path / "image_encoder")
    assert encoder.config.pixel_mean == (0.5, 0.4, 0.3) and encoder.config.image_size == clip.config.image_size
    own = pixels(io) * np.asarray(encoder.config.pixel_std) + np.asarray(encoder.config.pixel_mean)
    got = run(lambda encoder, x: encoder.encode_image(x), encoder, own.astype(np.float32))
    assert_close(unit(jnp.asarray(got)), io["out_image_embeds"], tolerance)


@pytest.mark.parametrize("file", ["model.pt", "state_dict.pt"])
@pytest.mark.parametrize("name", ["clip_openai_vit", "clip_openai_resnet"])
def test_openai_features_and_logits(name, file):
    folder, io, tolerance = fixture(name)
    clip = imported("openai-clip", folder / file)
    assert_close(run(lambda clip, x: clip.vision(x), clip, pixels(io)), io["out_image_features"], tolerance)
    assert_close(run(lambda clip, text: clip.text(text), clip, ids(io)), io["out_text_features"], tolerance)
    got = run(logits, clip, pixels(io), ids(io))
    assert_close(got, io["out_logits_per_image"], tolerance)
    assert_close(got.T, io["out_logits_per_text"], tolerance)


def test_open_clip_features_and_logits():
    folder, io, tolerance = fixture("open_clip")
    clip = imported("open-clip", folder)
    image, text = (
        run(lambda clip, x: clip.vision(x), clip, pixels(io)),
        run(lambda clip, x: clip.text(x), clip, ids(io)),
    )
    assert_close(image, io["out_image_features"], tolerance)
    assert_close(text, io["out_text_features"], tolerance)
    assert_close(unit(jnp.asarray(image)), io["out_image_features_norm"], tolerance)
    assert_close(unit(jnp.asarray(text)), io["out_text_features_norm"], tolerance)
    assert_close(run(logits, clip, pixels(io), ids(io)), io["out_logits_per_image"], tolerance)
