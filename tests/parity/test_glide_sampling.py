"""GLIDE's tokenizer on the reference's cases, and sampling with base, upsampler and inpainting network by hand."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.diffusion.noise_schedules import CosineNoise, LinearNoise
from dalle_jax.diffusion.process import DiscreteProcess
from dalle_jax.diffusion.samplers.sampler import RecordedNoise
from dalle_jax.diffusion.spacing import SectionSteps
from dalle_jax.models.glide import KnownPixels, kept_pixels, low_resolution
from dalle_jax.pipelines.imported.glide_stages import (
    GlidePrompts,
    base_levels,
    read_prompts,
    sample_base,
    sample_upsampler,
    upsampler_levels,
)
from dalle_jax.pipelines.imported.karlo_stages import StageNoise
from dalle_jax.text.byte_pairs import GPT2_WORDS, bytes_to_letters
from dalle_jax.text.glide_bpe import END, GlideTokenizer
from tests.parity.fixtures import assert_close, fixture, glide_network, run

STEPS, SCALE = 3, 3.0
TOLERANCE = 5e-3
"""Rounding to float32 of x0 = (x - sigma noise) / alpha at the first timestep, where alpha is 5e-5; 1.2e-3 was seen."""


def last(x):
    return np.moveaxis(x, 1, -1)


def test_ids_padding_and_mask_are_the_references():
    """The vocabulary has the pieces of cases with an id for each word; their merges build each word from the left."""
    folder, _, _ = fixture("glide_diffusion")
    given = json.loads((folder / "tokenizer_cases.json").read_text())
    words = {one["text"]: [bytes_to_letters(word) for word in GPT2_WORDS.findall(one["text"].lower())]
             for one in given["cases"]}  # fmt: skip
    plain = [one for one in given["cases"] if len(words[one["text"]]) == len(one["ids"])]
    assert sum(len(one["ids"]) for one in plain) > 10
    ids = {END: given["end_token"]}
    for one in plain:
        ids |= dict(zip(words[one["text"]], one["ids"], strict=True))
    pairs = [(word[:at], word[at]) for word in ids if word != END for at in range(1, len(word))]
    tokenizer = GlideTokenizer(ids, list(dict.fromkeys(pairs)), given["text_ctx"])
    assert tokenizer.vocab_size == given["n_vocab"]
    prompts = read_prompts(tokenizer, [one["text"] for one in plain])
    np.testing.assert_array_equal(prompts.tokens, [one["padded"] for one in plain])
    np.testing.assert_array_equal(prompts.mask, [one["mask"] for one in plain])


def test_the_published_steps_are_the_references():
    _, io, _ = fixture("glide_diffusion")
    for levels, name in ((base_levels(), "base_100"), (upsampler_levels(), "upsample_fast27")):
        np.testing.assert_array_equal(levels.times, io[f"{name}_timestep_map"][::-1])
        assert_close(levels.alphas[:-1] ** 2, io[f"{name}_alphas_cumprod"][::-1], 1e-12)


@pytest.fixture(scope="module", params=[pytest.param("base", marks=pytest.mark.slow), "upsample", "inpaint"])
def glide(request):
    return request.param, *glide_network(request.param)


def by_hand(predict, process, start, noise, ancestral, known):
    """Sample in float64 by the formulas of guided-diffusion; ``predict`` gives the noise and the variance."""
    x, bars = start.astype(np.float64), process.alpha_bars
    for number, index in enumerate(reversed(range(process.steps))):
        bar, before = bars[index], bars[index - 1] if index else 1.0
        eps, share = predict(x, int(process.timesteps[index]))
        x0 = (x - np.sqrt(1 - bar) * eps) / np.sqrt(bar)
        if known is not None:
            x0 = x0 * (1 - known.mask) + known.image * known.mask
        x0 = x0.clip(-1, 1)
        if not ancestral:  # DDIM with eta 0
            x = np.sqrt(before) * x0 + np.sqrt(1 - before) * (x - np.sqrt(bar) * x0) / np.sqrt(1 - bar)
            continue
        beta = 1 - bar / before
        mean = np.sqrt(before) * beta / (1 - bar) * x0 + np.sqrt(1 - beta) * (1 - before) / (1 - bar) * x
        if index:
            low, high = np.log(beta * (1 - before) / (1 - bar)), np.log(beta)
            mean = mean + np.exp((low + (share + 1) / 2 * (high - low)) / 2) * noise[number]
        x = mean
    return x


def test_sampling_is_the_published_procedure(glide):
    """Guidance acts on the noise alone, the variance is the conditional one, times are those of the whole process."""
    kind, network, (_, io, _) = glide
    random, upsamples = np.random.default_rng(4), kind == "upsample"
    prompts = GlidePrompts(jnp.asarray(io["tokens"]), jnp.asarray(io["mask"]))
    empty = GlidePrompts(jnp.full_like(prompts.tokens[:1], io["tokens"].max()), jnp.zeros_like(prompts.mask[:1]))
    start = last(io["sample"])
    noise = random.normal(size=(STEPS, *start.shape)).astype(np.float32)
    process = DiscreteProcess.of(LinearNoise() if upsamples else CosineNoise(), SectionSteps((STEPS,)))
    known = None
    if kind == "inpaint":
        image = last(io["inpaint_image"]).clip(-1, 1)
        known = KnownPixels(jnp.asarray(image), jnp.asarray(last(io["inpaint_mask"])))
    low = jnp.asarray(last(io["low_res"])) if upsamples else None

    def network_of(network, x, times, tokens, mask):
        extra = None if known is None else kept_pixels(*known)
        if upsamples:
            extra = low_resolution(jnp.round((low + 1) * 127.5) / 127.5 - 1, x.shape[1:3])
        return network(x, times, tokens, mask, extra=extra)

    def predict(x, time):
        times = np.full(len(x), time)
        outputs = [run(network_of, network, x.astype(np.float32), times, *one) for one in (prompts, rows)]
        (eps, share), (free, _) = (np.split(one, 2, axis=-1) for one in outputs)
        return (eps if upsamples else free + SCALE * (eps - free)), share

    rows = GlidePrompts(*(jnp.broadcast_to(one, other.shape) for one, other in zip(empty, prompts, strict=True)))
    wanted = by_hand(predict, process, start, noise, not upsamples, known)
    recorded = StageNoise(jnp.asarray(start), RecordedNoise(jnp.asarray(noise)))
    with jax.default_matmul_precision("float32"):
        if upsamples:
            got = sample_upsampler(network, prompts, low, recorded, levels=process.levels)
        else:
            scales = jnp.full(len(start), SCALE)
            got = sample_base(network, prompts, empty, recorded, scales, known=known, levels=process.levels)
    assert_close(got, wanted, TOLERANCE)
    if known is not None:
        keep = np.broadcast_to(known.mask > 0, got.shape)
        assert keep.any() and not keep.all()
        assert_close(np.asarray(got)[keep], np.asarray(known.image)[keep], 1e-5)
