"""Variations, interpolation and text edits, on a small untrained unCLIP."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from small_unclip import small_unclip

from dalle_jax.config.errors import UserError
from dalle_jax.models.priors.prior import PriorOptions
from dalle_jax.models.priors.text_vector_prior import TextVectorPrior
from dalle_jax.pipelines.edits.embedding_edits import EmbeddingEdit
from dalle_jax.pipelines.edits.interpolate import interpolate_images, interpolate_texts
from dalle_jax.pipelines.edits.text_edit import edit, text_differences
from dalle_jax.pipelines.edits.vary import vary
from dalle_jax.pipelines.image_codec import ImageCodec
from dalle_jax.pipelines.prompts import TextPrompts
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.pipelines.unclip import Unclip, UnclipNetworks
from dalle_jax.sampling.autoregressive import image_keys

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, 16, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def unclip():
    """Return a pipeline with a decoder whose logits depend a little on the vector; those of a new one are almost 0."""
    parts = small_unclip()
    parts.decoder.head.kernel[...] = np.random.default_rng(1).normal(0, 0.05, parts.decoder.head.kernel[...].shape)
    text, networks = parts.text, UnclipNetworks(TextVectorPrior(), parts.clip, parts.decoder)
    codec, ranker = ImageCodec(parts.tokenizer), ClipRanker(parts.clip, text)
    return Unclip(networks, codec, TextPrompts(text), ranker, steps=8, prior=PriorOptions(steps=3), batch=4)


def test_edits_have_the_default_guidance_of_the_models_images(unclip):
    assert EmbeddingEdit.of(unclip, {}).guidance == unclip.options().guidance


def codes_of(unclip, images):
    return unclip.codec.encode(list(images))


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_an_inverted_image_comes_back_in_nearly_all_codes(unclip, guidance):
    """The bound of docs/editing.md: at least 95 % of the codes, by the image's own vector without new noise."""
    vectors = unclip.embedder.image_vectors(IMAGES)
    noise = unclip.invert(IMAGES, vectors, guidance)
    keys = image_keys(jnp.arange(3, dtype=jnp.uint32), 1)[:, 0]
    expected = codes_of(unclip, IMAGES)
    assert (unclip.decode_codes(vectors, keys, guidance, noise) == expected).mean() >= 0.95
    assert (unclip.decode_codes(vectors, keys, guidance) == expected).mean() < 0.5


def test_a_variation_without_new_noise_is_the_image_and_new_noise_makes_several(unclip):
    one = vary(unclip, IMAGES[0], candidates=1, eta=0.0)
    assert (one.pixels == unclip.codec.reconstruct(IMAGES[:1])).mean() > 0.8 and one.scores is None
    several = vary(unclip, IMAGES[0], candidates=3, seed=5)
    assert several.pixels.shape == (3, 16, 16, 3)
    assert not np.array_equal(several.candidates[0], several.candidates[1])
    again = vary(unclip, IMAGES[0], candidates=1, seed=5)
    np.testing.assert_array_equal(again.candidates[0], several.candidates[0])


def test_a_variation_with_a_text_turns_toward_the_vector_of_the_prior_and_is_ranked(unclip):
    named = vary(unclip, IMAGES[0], text="a red circle", strength=1.0, candidates=3, keep=2, guidance=2.0)
    assert named.scores is not None and named.scores[0] >= named.scores[1]
    keys, own = image_keys(jnp.zeros(1, jnp.uint32), 3)[0], unclip.embedder.image_vectors(IMAGES[:1])
    noise = np.repeat(unclip.invert(IMAGES[:1], own, 2.0), 3, axis=0)
    vector = np.repeat(unclip.embedder.text_vectors(["a red circle"]), 3, axis=0)  # the prior returns the text's
    np.testing.assert_array_equal(named.candidates, unclip.decode(vector, keys, 2.0, noise, 1.0))


def test_the_ends_of_an_interpolation_are_the_two_images(unclip):
    found = interpolate_images(unclip, list(IMAGES[:2]), frames=3)
    assert found.frames.shape == (1, 3, 16, 16, 3) and found.scores is None
    np.testing.assert_allclose(found.shares, [0, 0.5, 1])
    for frame, image in ((0, 0), (2, 1)):
        own = vary(unclip, IMAGES[image], candidates=1, eta=0.0)
        assert (found.frames[0, frame] == own.pixels[0]).mean() > 0.95
    assert not np.array_equal(found.frames[0, 1], found.frames[0, 0])


def test_paths_between_texts_are_ranked_and_depend_on_the_seed_and_their_number_alone(unclip):
    two = interpolate_texts(unclip, ["a red circle", "a blue square"], frames=3, candidates=2, keep=2, seed=4)
    assert two.frames.shape == (2, 3, 16, 16, 3) and two.scores[0] >= two.scores[1]
    one = interpolate_texts(unclip, ["a red circle", "a blue square"], frames=3, candidates=1, seed=4)
    assert any(np.array_equal(one.frames[0], path) for path in two.frames)
    assert len(two.images) == 3


def test_an_edit_turns_the_vector_half_of_the_angle_to_the_difference_of_the_texts(unclip, monkeypatch):
    decoded, decode = [], unclip.decode
    monkeypatch.setattr(unclip, "decode", lambda vectors, *rest: decoded.append(vectors) or decode(vectors, *rest))
    result = edit(unclip, IMAGES[0], "a red circle", "a blue circle", strength=(0.0, 0.5), keep=2)
    own = unclip.embedder.image_vectors(IMAGES[:1])[0]
    difference = text_differences(unclip, ["a red circle"], ["a blue circle"])[0]
    np.testing.assert_allclose(np.linalg.norm(difference), 1, atol=1e-5)
    np.testing.assert_allclose(decoded[0][0], own, atol=1e-5)
    half = own + difference
    np.testing.assert_allclose(decoded[0][1], half / np.linalg.norm(half), atol=1e-4)
    assert result.scores[0] == result.candidate_scores.max()
    none = vary(unclip, IMAGES[0], candidates=1, eta=0.0)
    np.testing.assert_array_equal(result.candidates[0], none.pixels[0])


def test_images_of_any_size_and_mode_are_taken_and_results_have_the_size_that_is_asked_for(unclip):
    wide = Image.fromarray(np.tile(IMAGES[0], (3, 5, 1)))  # 80 x 48
    given = {"RGB": wide, "RGBA": wide.convert("RGBA"), "L": wide.convert("L"), "P": wide.convert("P")}
    for mode, image in given.items():
        assert image.mode == mode and vary(unclip, image, candidates=1).pixels.shape == (1, 16, 16, 3)
    assert vary(unclip, wide, candidates=1, original_size=True).pixels.shape == (1, 48, 48, 3)
    assert vary(unclip, IMAGES[0][:3, :5], candidates=1, original_size=True).pixels.shape == (1, 3, 3, 3)
    found = interpolate_images(unclip, [wide, IMAGES[1]], frames=2, original_size=True)
    assert found.frames.shape == (1, 2, 48, 48, 3)


def test_transparent_parts_of_an_image_are_white(unclip):
    clear = Image.fromarray(np.dstack([IMAGES[0], np.zeros((16, 16), np.uint8)]), "RGBA")
    white = np.full((16, 16, 3), 255, np.uint8)
    results = [vary(unclip, one, candidates=1, eta=0.0).pixels for one in (clear, white)]
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda u: vary(u, IMAGES[0], eta=1.5), "eta: expected between 0 and 1, got 1.5"),
        (
            lambda u: vary(u, IMAGES[0], eta=0.0),
            "candidates: expected 1 at eta 0, where an image has one",
        ),
        (lambda u: vary(u, IMAGES[0], strength=0.5), "strength: expected a text"),
        (lambda u: vary(u, IMAGES[0], text="a", strength=2.0), "strength: expected between 0 and 1"),
        (lambda u: vary(u, IMAGES[0], keep=5), r"keep: expected between 1 and the results \(4\), got 5"),
        (lambda u: vary(u, Image.new("F", (8, 8))), "image: .*F"),
        (lambda u: edit(u, IMAGES[0], "a red circle", "a red circle"), "texts: expected two that differ"),
        (lambda u: edit(u, IMAGES[0], "a", "b", strength=-1.0), "strength: expected values between 0 and 1"),
        (lambda u: interpolate_images(u, list(IMAGES)), "images: expected two, got 3"),
        (lambda u: interpolate_texts(u, ["a"]), "texts: expected two, got 1"),
        (lambda u: interpolate_texts(u, ["a red circle", "b"], frames=1), "frames: expected at least 2"),
    ],
)
def test_wrong_values_are_errors_that_name_them(unclip, call, message):
    with pytest.raises(UserError, match=message):
        call(unclip)
