import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from dalle_jax.diffusion.guidance import clip_gradient, score_guided
from dalle_jax.diffusion.levels import initial_noise
from dalle_jax.diffusion.noise_schedules import CosineNoise
from dalle_jax.diffusion.parameterization import Parameterization
from dalle_jax.diffusion.process import DiscreteProcess
from dalle_jax.diffusion.samplers.ddim import Ddim
from dalle_jax.diffusion.samplers.sampler import KeyedNoise
from dalle_jax.losses.contrastive import contrastive, retrieval_hits
from dalle_jax.models.clip import Clip, ClipConfig, FirstEnd, LargestId, LastToken, TowerConfig, quick_gelu
from tests.diffusion.gaussians import gaussian

CONFIG = ClipConfig(
    image_size=16,
    patch=4,
    vision=TowerConfig(width=32, layers=1, heads=2),
    vocab_size=50,
    text_length=8,
    text=TowerConfig(width=32, layers=1, heads=2),
    embed_width=16,
)
TEXT = jnp.array([[5, 6, 7, 0, 0, 0, 0, 0], [5, 6, 8, 9, 3, 2, 1, 4], [9, 0, 0, 0, 0, 0, 0, 0], [0] * 8])


# Jitted, since these tests take several times as long op by op.
@partial(jax.jit, static_argnums=0)
def run_image(graph, state, pixels):
    return nnx.merge(graph, state).encode_image(pixels)


@partial(jax.jit, static_argnums=0)
def run_text(graph, state, text):
    return nnx.merge(graph, state).encode_text(text)


def encode_image(clip, pixels):
    return run_image(*nnx.split(clip), pixels)


def encode_text(clip, text):
    return run_text(*nnx.split(clip), text)


@pytest.fixture(scope="module")
def clip():
    return Clip(CONFIG, rngs=nnx.Rngs(0))


def test_embeddings_of_images_and_captions_are_unit_vectors(clip):
    pixels = jax.random.uniform(jax.random.key(0), (4, 16, 16, 3))
    for vectors in (encode_image(clip, pixels), encode_text(clip, TEXT)):
        assert vectors.shape == (4, 16)
        np.testing.assert_allclose(jnp.linalg.norm(vectors, axis=-1), 1, atol=1e-5)


def test_each_convention_finds_the_end_of_a_text():
    """The end is found by the padding, by the largest id or by the first end token."""
    np.testing.assert_array_equal(LastToken().positions(TEXT), [2, 7, 0, 0])
    np.testing.assert_array_equal(LargestId().positions(TEXT), [2, 3, 0, 0])
    ends = jnp.array([[5, 49, 49, 49], [49, 3, 2, 49], [1, 2, 3, 4]])
    np.testing.assert_array_equal(FirstEnd(49).positions(ends), [1, 0, 0])


def test_padding_does_not_change_a_caption(clip):
    short = Clip(dataclasses.replace(CONFIG, text_length=4), rngs=nnx.Rngs(0))
    for name in ("tokens", "stack", "norm_after", "project"):
        setattr(short.text, name, getattr(clip.text, name))
    short.text.positions.table[...] = clip.text.positions.table[...][:4]
    np.testing.assert_allclose(encode_text(short, TEXT[:1, :4]), encode_text(clip, TEXT[:1]), atol=1e-6)


def test_tokens_after_the_end_do_not_change_the_embedding(clip):
    """The end is at position 2: later ids have no effect on the embedding, earlier ids do."""
    embedding = clip.text.tokens.table[...]
    clip.text.tokens.table[...] = embedding.at[0].set(100.0)  # a padding vector that would be noticed
    try:
        loud = encode_text(clip, TEXT[:1])
    finally:
        clip.text.tokens.table[...] = embedding
    np.testing.assert_allclose(loud, encode_text(clip, TEXT[:1]), atol=1e-6)
    other = encode_text(clip, TEXT[:1].at[0, 0].set(11))
    assert float(jnp.abs(other - loud).max()) > 1e-3


def test_the_order_of_words_matters(clip):
    reversed_words = TEXT[:1].at[0, :3].set(TEXT[0, 2::-1])
    assert float(jnp.abs(encode_text(clip, TEXT[:1]) - encode_text(clip, reversed_words)).max()) > 1e-3


def test_the_scale_starts_at_the_value_of_the_paper_and_is_not_clipped(clip):
    assert float(clip.logit_scale) == pytest.approx(1 / 0.07, rel=1e-5)
    loud = Clip(CONFIG, rngs=nnx.Rngs(0))
    loud.log_scale[...] = jnp.array(9.0)
    assert float(loud.logit_scale) == pytest.approx(np.exp(9.0), rel=1e-5)


def test_quick_gelu_has_the_values_of_its_formula():
    assert float(quick_gelu(jnp.array(1.0))) == pytest.approx(1 / (1 + np.exp(-1.702)), rel=1e-6)


def test_an_image_size_that_is_not_a_multiple_of_the_patch_is_an_error():
    with pytest.raises(ValueError, match="image_size: expected a multiple of patch"):
        Clip(dataclasses.replace(CONFIG, patch=5), rngs=nnx.Rngs(0))


def test_it_learns_to_tell_sixteen_images_apart():
    colours = jax.random.uniform(jax.random.key(1), (16, 1, 1, 3))
    pixels = jnp.broadcast_to(colours, (16, 16, 16, 3))
    text = jnp.zeros((16, 8), jnp.int32).at[:, 0].set(1 + jnp.arange(16) // 4).at[:, 1].set(10 + jnp.arange(16) % 4)
    graph, state = nnx.split(Clip(CONFIG, rngs=nnx.Rngs(0)))
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(state, moments):
        def loss(state):
            clip = nnx.merge(graph, state)
            return contrastive(clip.encode_image(pixels), clip.encode_text(text), clip.logit_scale)

        value, gradients = jax.value_and_grad(loss)(state)
        updates, moments = optimizer.update(gradients, moments, state)
        return optax.apply_updates(state, updates), moments, value

    moments = optimizer.init(state)
    for _ in range(160):
        state, moments, value = step(state, moments)
    clip = nnx.merge(graph, state)
    hits = retrieval_hits(encode_image(clip, pixels), encode_text(clip, text), jnp.eye(16, dtype=bool))
    assert float(value) < 0.3
    assert all(bool(hit.all()) for hit in hits)


def test_scanned_towers_equal_the_unrolled_ones():
    tower = TowerConfig(width=32, layers=2, heads=2)
    configs = (dataclasses.replace(CONFIG, vision=tower, text=tower, scan=scan) for scan in (False, True))
    plain, scanned = (Clip(config, rngs=nnx.Rngs(0)) for config in configs)
    pixels = jax.random.uniform(jax.random.key(0), (4, 16, 16, 3))
    np.testing.assert_allclose(encode_image(scanned, pixels), encode_image(plain, pixels), atol=1e-5)
    np.testing.assert_allclose(encode_text(scanned, TEXT), encode_text(plain, TEXT), atol=1e-5)


def test_a_noised_clip_guides_a_sampler_towards_the_caption():
    """The data are white noise, of which the guided images are more similar to the caption than the others."""
    noised = Clip(dataclasses.replace(CONFIG, timesteps=10), rngs=nnx.Rngs(0))
    keys = jax.random.split(jax.random.key(1), 4)
    levels = DiscreteProcess.of(CosineNoise(10)).levels

    @partial(jax.jit, static_argnums=0)
    def run(scale, start):
        text = noised.encode_text(TEXT)
        gradient = clip_gradient(lambda x, level: noised.encode_noised(x, level.time), text)
        denoise = score_guided(gaussian(mean=0.0), gradient, scale, "noise")
        images = Ddim().sample(denoise, levels, start, KeyedNoise(keys), Parameterization("noise"))
        return (noised.encode_image((images + 1) / 2) * text).sum(-1)

    start = initial_noise(keys, (16, 16, 3))
    assert (run(30.0, start) > run(0.0, start) + 0.05).all()


def test_the_time_of_a_noised_clip_changes_its_embedding_and_other_clips_have_none(clip):
    noised = Clip(dataclasses.replace(CONFIG, timesteps=10), rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(2), (4, 16, 16, 3))
    first, other = (jax.jit(noised.encode_noised)(x, jnp.full(4, time)) for time in (0.0, 7.0))
    assert jnp.abs(first - other).max() > 1e-3
    np.testing.assert_allclose(encode_image(noised, (x + 1) / 2), first, atol=1e-5)
    with pytest.raises(ValueError, match="expected a CLIP that was trained on noised images"):
        clip.encode_noised(x, jnp.zeros(4))
