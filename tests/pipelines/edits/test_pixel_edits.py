"""Variations, interpolation and text edits by unCLIPs whose decoder denoises pixels: a small one, and Karlo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_karlo import DECODER, EMBED, WORDS, small_karlo
from small_unclip import CLIP, VOCABULARY, small_words

from dalle_jax.config.errors import UserError
from dalle_jax.diffusion.levels import NoiseLevel, per_row
from dalle_jax.diffusion.noise_schedules import CosineNoise
from dalle_jax.diffusion.parameterization import ModelOutput
from dalle_jax.diffusion.process import DiscreteProcess
from dalle_jax.diffusion.samplers.ddim import Ddim
from dalle_jax.diffusion.tiles import Tiles
from dalle_jax.diffusion.trained_diffusion import ImageSampling
from dalle_jax.images.pixels import resize
from dalle_jax.models.clip import Clip
from dalle_jax.models.decoders.pixel_decoder import PixelDecoder
from dalle_jax.models.priors.prior import PriorOptions, TextCondition, repeat_rows
from dalle_jax.models.priors.text_vector_prior import TextVectorPrior
from dalle_jax.models.unet import UNet
from dalle_jax.pipelines.edits.embedding_editor import EmbeddingEditor
from dalle_jax.pipelines.edits.interpolate import interpolate_images, interpolate_texts
from dalle_jax.pipelines.edits.text_edit import edit
from dalle_jax.pipelines.edits.vary import vary
from dalle_jax.pipelines.imported.karlo import Karlo, KarloFile
from dalle_jax.pipelines.imported.karlo_stages import StageNoise, decode, invert_images
from dalle_jax.pipelines.pixel_unclip import PixelNetworks, PixelSampling, PixelUnclip
from dalle_jax.pipelines.prompts import TextPrompts
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.text.sentencepiece import SentencePiece
from tests.small_denoisers import UPSAMPLER, decoder_config, random_module

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
FILE = KarloFile(8, 16, PriorOptions(steps=2, draws=1), decoder_steps=2, upsampler_steps=2)
SPREAD = 0.4


def ideal_noise(x, level: NoiseLevel, mean):
    """Predict the noise exactly for pixels from N(mean, SPREAD^2)."""
    alpha, sigma = per_row(level.alpha, x), per_row(level.sigma, x)
    return sigma * (x - alpha * mean) / (alpha**2 * SPREAD**2 + sigma**2)


class IdealDecoder(PixelDecoder):
    """A decoder of pixels for Gaussian images about a mean that the embedding gives."""

    def __init__(self):
        self.config, self.statistics = decoder_config(VOCABULARY), None

    def condition(self, guide, known=None):
        del known
        return jnp.where(guide.has_clip, guide.clip.mean(axis=1), 0.0)

    def denoise(self, x, level, condition, key=None):
        del key
        return ModelOutput(ideal_noise(x, level, per_row(condition, x)))


class IdealKarloDecoder(UNet):
    """The same for Karlo's decoder, whose level is known by its timestep."""

    def __init__(self):
        self.config = DECODER

    def __call__(self, x, time, *, vector=None, context=None, extra=None, key=None):
        del context, extra, key
        square = jnp.asarray(DiscreteProcess.of(CosineNoise()).alpha_bars, jnp.float32)[time.astype(int)]
        level = NoiseLevel(time, jnp.sqrt(square), jnp.sqrt(1 - square))
        noise = ideal_noise(x, level, per_row(jnp.tanh(vector.mean(axis=1)), x))
        return jnp.concatenate([noise, jnp.zeros_like(noise)], axis=-1)


def pixel_unclip(decoder, upsamplers=(), steps=2) -> PixelUnclip:
    clip, text = Clip(CLIP, rngs=nnx.Rngs(2)), SentencePiece(small_words(), 6)
    sampling = PixelSampling(ImageSampling(steps=steps), (ImageSampling(Ddim(), 2),), tiles=Tiles(12, 4))
    networks, ranker = PixelNetworks(TextVectorPrior(), clip, decoder), ClipRanker(clip, text)
    return PixelUnclip(networks, upsamplers, TextPrompts(text), ranker, sampling=sampling, batch=1)


@pytest.fixture(scope="module")
def karlo() -> Karlo:
    return Karlo(small_karlo(), TextPrompts(WORDS), FILE, batch=1)


@pytest.fixture(params=["pixels", "karlo"])
def editor(request, karlo) -> EmbeddingEditor:
    if request.param == "karlo":
        return karlo
    return pixel_unclip(IdealDecoder(), [random_module(lambda: UPSAMPLER.build(nnx.Rngs(0)))])


def errors(back, fresh, images) -> tuple[float, float]:
    """Return the mean errors in 255ths of the image that was inverted, and of one from other noise."""
    return tuple(float(np.abs(np.asarray(one, np.float32) - images).mean()) for one in (back, fresh))


def test_a_decoder_of_pixels_returns_an_image_of_its_own_size_from_the_inverted_noise():
    """The bound of docs/editing.md: 1 of 255 on average."""
    unclip = pixel_unclip(IdealDecoder(), steps=20)
    small = np.stack([resize(one, 8, 8) for one in IMAGES])
    vectors, keys = unclip.image_vectors(IMAGES), jax.random.split(jax.random.key(0), 2)
    back = unclip.decode(vectors, keys, 2.0, unclip.invert(IMAGES, vectors, 2.0))
    error, other = errors(back, unclip.decode(vectors, keys, 2.0, unclip.noise(keys)), small)
    assert error < 1 < 20 < other


def test_karlos_decoder_returns_an_image_from_the_inverted_noise():
    parts = small_karlo()
    parts.decoder = IdealKarloDecoder()
    ids = jnp.asarray(WORDS.encode_batch([""]))
    empty = TextCondition(*parts.text.text.features(ids))
    images = jnp.asarray(IMAGES / 127.5 - 1, jnp.float32)
    vectors, scales = jax.random.normal(jax.random.key(1), (2, EMBED)), jnp.full(2, 3.0)
    noise = invert_images(parts, empty, vectors, images, 25, scales)
    start = StageNoise.of(jax.random.split(jax.random.key(2), 2), images.shape[1:])
    text = repeat_rows(empty, 2)
    back, fresh = (
        127.5 * (decode(parts, text, empty, vectors, one, 25, scales, Ddim()) + 1)
        for one in (start._replace(start=noise), start)
    )
    error, other = errors(back, fresh, IMAGES)
    assert error < 1 < 20 < other


def test_both_kinds_vary_interpolate_and_edit(editor):
    assert isinstance(editor, EmbeddingEditor) and editor.side == 16
    several = vary(editor, IMAGES[0], candidates=3, seed=5)
    assert several.candidates.shape == (3, 16, 16, 3) and several.scores is None
    assert not np.array_equal(several.candidates[0], several.candidates[1])
    again = vary(editor, IMAGES[0], candidates=1, seed=5)
    np.testing.assert_allclose(again.candidates[0].astype(int), several.candidates[0], atol=1)
    path = interpolate_images(editor, list(IMAGES), frames=2)
    ends = [vary(editor, one, candidates=1, eta=0.0).pixels[0].astype(int) for one in IMAGES]
    np.testing.assert_allclose(path.frames[0], ends, atol=1)
    texts = interpolate_texts(editor, ["ab", "c"], frames=3, candidates=2)
    assert texts.frames.shape == (2, 3, 16, 16, 3)
    assert (texts.scores is None) == (editor.ranker is None)
    edited = edit(editor, IMAGES[0], "ab", "c", strength=(0.0, 0.5), keep=2)
    np.testing.assert_allclose(edited.candidates[0].astype(int), ends[0], atol=1)
    assert not np.array_equal(edited.candidates[1], edited.candidates[0])


def test_an_edited_vector_keeps_its_length_where_vectors_are_not_of_length_1(karlo, monkeypatch):
    decoded = []
    monkeypatch.setattr(karlo, "decode", lambda vectors, *rest: decoded.append(vectors) or IMAGES[:1])
    edit(karlo, IMAGES[0], "ab", "c", strength=0.5, guidance=1.0)
    own = np.linalg.norm(karlo.image_vectors(IMAGES[:1]))
    assert abs(own - 1) > 0.05
    np.testing.assert_allclose(np.linalg.norm(decoded[0]), own, rtol=1e-5)


def test_karlo_embeds_no_image_without_its_image_encoder():
    parts = small_karlo()
    parts.image = None
    karlo = Karlo(parts, TextPrompts(WORDS), FILE, batch=1)
    with pytest.raises(UserError, match="expected Karlo's image encoder to embed an image, got none; import it"):
        vary(karlo, IMAGES[0])


def test_the_publishers_guidance_is_the_default_of_an_edit(karlo, monkeypatch):
    scales = []
    monkeypatch.setattr(karlo, "decode", lambda vectors, keys, guidance, *rest: scales.append(guidance) or IMAGES[:1])
    vary(karlo, IMAGES[0], candidates=1)
    vary(karlo, IMAGES[0], candidates=1, guidance=1.5)
    assert scales == [8.0, 1.5]
