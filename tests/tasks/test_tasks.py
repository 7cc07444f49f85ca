from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.config.errors import UserError
from dalle_jax.losses.cross_entropy import cross_entropy
from dalle_jax.models.dalle import Dalle, DalleConfig
from dalle_jax.models.dalle_bart import DalleBartConfig
from dalle_jax.models.vqvae import Vqvae, VqvaeConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.tasks.batches import with_random_codes
from dalle_jax.tasks.caption_tokens import Captions
from dalle_jax.tasks.generate_codes import CodeGeneration, GenerateCodes
from dalle_jax.tasks.generate_from_conditions import ConditionalCodeGeneration, GenerateFromConditions
from dalle_jax.tasks.tokenizers.tokenize_images import TokenizeImages, VqvaeReconstruction
from dalle_jax.text.sentencepiece import train_sentencepiece
from tests.parallel.test_sharded_tasks import MODELS

LAYOUT = Layout(make_mesh(Mesh(1, 1, 1)), Rules())
VQVAE = VqvaeConfig(downsample=4, width=8, blocks=1, codebook_size=16, code_width=4, stem="patch")


@pytest.fixture(scope="module")
def captions(tmp_path_factory) -> Captions:
    path = tmp_path_factory.mktemp("text") / "text.model"
    path.write_bytes(train_sentencepiece(["a red circle", "a blue square"] * 5, 30, "bpe", 0))
    return Captions(file=str(path))


@pytest.fixture(scope="module")
def generate(captions) -> CodeGeneration:
    opened = captions.open(6)
    vocabulary = opened.tokenizer.vocab_size
    model = DalleConfig(
        text_vocab=vocabulary, text_length=6, codebook_size=16, grid=(4, 4), width=16, depth=1, heads=2, head_size=8
    )
    config = GenerateCodes(model=model, image_tokenizer="none", image_size=16, captions=captions, text_weight=0.125)
    return CodeGeneration(config, opened, Vqvae(VQVAE, rngs=nnx.Rngs(1)))


def changed(task: CodeGeneration, **changes) -> CodeGeneration:
    """Return the task with changes to its config; without an image tokenizer if the config names none."""
    config = replace(task.config, **changes)
    return CodeGeneration(config, task.captions, None if config.image_tokenizer is None else task.image_tokenizer)


@pytest.fixture(scope="module")
def batch(generate) -> dict:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(4)]
    examples = {"image": images, "caption": ["a red circle", "a blue square"] * 2, "key": list("abcd")}
    prepared = generate.prepare(examples, [(0, row) for row in range(len(examples["caption"]))])
    spec = generate.batch_spec(4)
    assert {name: (array.shape, array.dtype) for name, array in prepared.items()} == {
        name: (one.shape, one.dtype) for name, one in spec.items()
    }
    return {name: jnp.asarray(array) for name, array in prepared.items()}


def test_the_loss_is_the_weighted_sum_of_the_means_over_text_and_image(generate, batch):
    module, tokenizer = Dalle(generate.config.model, rngs=nnx.Rngs(0)), generate.image_tokenizer
    plain = changed(generate, blank_captions=0.0)
    loss, sums = plain.loss(module, generate.frozen(), batch, jax.random.key(0), jnp.int32(0))
    codes = tokenizer.encode(batch["pixels"] / 255.0).reshape(4, -1)
    logits = module(batch["text"], codes)
    image, text = cross_entropy(logits.image, codes).mean(), cross_entropy(logits.text, batch["text"]).mean()
    np.testing.assert_allclose(loss, 0.875 * image + 0.125 * text, rtol=1e-5)
    np.testing.assert_allclose(sums["image_nll"][0] / sums["image_nll"][1], image, rtol=1e-5)


def test_a_share_of_the_captions_is_blanked_in_training_and_none_in_evaluation(generate, batch):
    module = Dalle(generate.config.model, rngs=nnx.Rngs(0))
    blanking = changed(generate, blank_captions=0.999999)
    blank = dict(batch, text=jnp.zeros_like(batch["text"]))
    key, step = jax.random.key(0), jnp.int32(0)
    np.testing.assert_allclose(
        blanking.loss(module, generate.frozen(), batch, key, step)[0],
        blanking.loss(module, generate.frozen(), blank, key, step)[0],
        rtol=1e-6,
    )
    kept = blanking.evaluate(module, generate.frozen(), batch, key)["image_nll"][0]
    emptied = blanking.evaluate(module, generate.frozen(), blank, key)["image_nll"][0]
    assert abs(float(kept - emptied)) > 1e-4


def test_a_share_of_the_codes_is_shown_as_others_while_the_images_own_are_predicted(generate, batch):
    module = Dalle(generate.config.model, rngs=nnx.Rngs(0))
    plain = changed(generate, blank_captions=0.0)
    confused = changed(plain, random_codes=0.999999)
    key, step, frozen = jax.random.key(0), jnp.int32(0), generate.frozen()
    codes = plain.codes_of(frozen, batch)
    shown = with_random_codes(codes, 0.999999, 16, jax.random.fold_in(key, 1))
    assert 0.8 < float((shown != codes).mean()) < 1.0  # a sixteenth of the draws are the code itself
    found = confused.loss(module, frozen, batch, key, step)[1]["image_nll"]
    expected = cross_entropy(module(batch["text"], shown).image, codes).mean()
    np.testing.assert_allclose(found[0] / found[1], expected, rtol=1e-5)
    assert abs(float(found[0] - plain.loss(module, frozen, batch, key, step)[1]["image_nll"][0])) > 1e-3
    np.testing.assert_array_equal(
        confused.evaluate(module, frozen, batch, key)["image_nll"][0],
        plain.evaluate(module, frozen, batch, key)["image_nll"][0],
    )


@pytest.mark.parametrize(("blank", "guidance"), [(0.1, 1.5), (0.0, 1.0)])
def test_the_model_file_recommends_the_guidance_of_the_config_if_captions_were_blanked(generate, blank, guidance):
    task = changed(generate, blank_captions=blank, guidance=1.5)
    assert f"sampling.guidance = {guidance}".encode() in task.model_files()["model.gin"]


def test_random_codes_replace_the_asked_share_by_codes_of_the_codebook():
    codes = jnp.full((100, 64), 5)
    shown = np.asarray(with_random_codes(codes, 0.2, 512, jax.random.key(0)))
    assert abs((shown != 5).mean() - 0.2) < 0.02
    assert shown.min() >= 0
    assert 480 < shown.max() < 512
    assert len(np.unique(shown)) > 400
    np.testing.assert_array_equal(with_random_codes(codes, 0.0, 512, jax.random.key(0)), codes)


def test_the_effect_of_guidance_is_the_mean_change_of_the_logits_by_a_caption(generate, batch):
    module, tokenizer = Dalle(generate.config.model, rngs=nnx.Rngs(0)), generate.image_tokenizer
    codes = tokenizer.encode(batch["pixels"] / 255.0).reshape(4, -1)
    moved = np.asarray(module(batch["text"], codes).image - module(jnp.zeros_like(batch["text"]), codes).image)
    expected = np.abs(moved - moved.mean(-1, keepdims=True)).mean()
    total, weight = generate.evaluate(module, generate.frozen(), batch, jax.random.key(0))["guidance_effect"]
    assert expected > 1e-3
    np.testing.assert_allclose(total / weight, expected, rtol=1e-4)
    empty = generate.evaluate(
        module, generate.frozen(), dict(batch, text=jnp.zeros_like(batch["text"])), jax.random.key(0)
    )
    np.testing.assert_allclose(empty["guidance_effect"][0], 0.0, atol=1e-3)
    unguided = changed(generate, blank_captions=0.0)
    assert "guidance_effect" not in unguided.evaluate(module, generate.frozen(), batch, jax.random.key(0))


def test_the_loss_is_also_given_as_a_share_of_the_uniform_guess(generate, batch):
    module = Dalle(generate.config.model, rngs=nnx.Rngs(0))
    sums = generate.loss(module, generate.frozen(), batch, jax.random.key(0), jnp.int32(0))[1]
    total, weight = sums["image_nll_of_uniform"]
    np.testing.assert_allclose(total / weight * np.log(16), sums["image_nll"][0] / sums["image_nll"][1], rtol=1e-5)


def test_no_gradient_reaches_the_frozen_tokenizer(generate, batch):
    module, tokenizer = Dalle(generate.config.model, rngs=nnx.Rngs(0)), generate.image_tokenizer
    graph, state = nnx.split(tokenizer, nnx.Param, ...)[0], nnx.split(tokenizer, nnx.Param, ...)[1:]

    def loss(params):
        return generate.loss(
            module, {"image_tokenizer": nnx.merge(graph, params, *state[1:])}, batch, jax.random.key(0), jnp.int32(0)
        )[0]

    leaves = jax.tree.leaves(jax.grad(loss)(state[0]))
    assert leaves
    assert all(float(jnp.abs(leaf).max()) == 0.0 for leaf in leaves)


def test_the_reconstruction_loss_equals_the_formula_of_its_docstring():
    task = VqvaeReconstruction(TokenizeImages(model=VQVAE, image_size=16, l2=2.0, l1=0.5))
    module, twin = Vqvae(VQVAE, rngs=nnx.Rngs(0)), Vqvae(VQVAE, rngs=nnx.Rngs(0))
    pixels = np.random.default_rng(1).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    key = jax.random.key(0)
    loss, sums = task.loss(module, {}, {"pixels": jnp.asarray(pixels)}, key, jnp.int32(0))
    out = twin(jnp.asarray(pixels, jnp.float32) / 255.0)
    error = np.asarray(pixels / 255.0 - out.reconstruction)
    expected = 2.0 * np.mean(error**2) + 0.5 * np.mean(np.abs(error)) + float(out.commitment)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    np.testing.assert_allclose(sums["mse"][0], np.mean(error**2), rtol=1e-4)


def test_an_image_size_that_the_downsampling_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="multiple of 4"):
        TokenizeImages(model=VQVAE, image_size=18)


def test_precomputed_codes_give_the_loss_of_their_images(generate, batch):
    module, tokenizer = Dalle(generate.config.model, rngs=nnx.Rngs(0)), generate.image_tokenizer
    codes_task = changed(generate, image_tokenizer=None, image_size=None)
    codes = np.asarray(tokenizer.encode(batch["pixels"] / 255.0))  # [B h w]
    prepared = codes_task.prepare({"codes": list(codes), "caption": ["a red circle", "a blue square"] * 2}, None)
    spec = codes_task.batch_spec(4)
    assert {name: (rows.shape, rows.dtype) for name, rows in prepared.items()} == {
        name: (one.shape, one.dtype) for name, one in spec.items()
    }
    prepared = {name: jnp.asarray(rows) for name, rows in prepared.items()}
    key, step = jax.random.key(0), jnp.int32(0)
    images = generate.loss(module, generate.frozen(), batch, key, step)
    np.testing.assert_allclose(codes_task.loss(module, {}, prepared, key, step)[0], images[0], rtol=1e-6)
    expected = generate.evaluate(module, generate.frozen(), batch, key)["image_nll"]
    np.testing.assert_allclose(codes_task.evaluate(module, {}, prepared, key)["image_nll"], expected, rtol=1e-6)
    assert codes_task.frozen() == {} and codes_task.images(module, {}, prepared, key) is None
    assert b"needs = {}" in codes_task.model_files()["model.gin"]


@pytest.mark.parametrize(
    ("codes", "says"),
    [
        (None, "expected precomputed codes, got examples with caption, image"),
        (np.full((4, 4), 16), r"expected 16 codes \(task\.model\.grid \(4, 4\)\) from 0 to 15, got 16 from 16 to 16"),
        (np.zeros((2, 4), int), "got 8 from 0 to 0"),
    ],
)
def test_data_without_codes_or_with_codes_that_do_not_fit_is_refused(generate, codes, says):
    codes_task = changed(generate, image_tokenizer=None, image_size=None)
    examples = {"caption": ["a red circle"]} | ({"image": [None]} if codes is None else {"codes": [codes]})
    with pytest.raises(UserError, match=says):
        codes_task.prepare(examples, None)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image_tokenizer": None}, "image_tokenizer: expected the folder of an .* got None and image_size 16"),
        ({"image_tokenizer": None, "image_size": None, "model": "wide"}, "expected 0 without an image_tokenizer"),
    ],
)
def test_an_image_size_or_code_width_without_an_image_tokenizer_is_refused(generate, changes, says):
    settings = vars(generate.config) | changes
    if settings["model"] == "wide":
        settings["model"] = replace(generate.config.model, code_width=4)
    with pytest.raises(ValueError, match=says):
        GenerateCodes(**settings)


def test_a_model_with_a_padding_id_that_the_text_tokenizer_does_not_use_is_refused(captions):
    model = DalleBartConfig(
        text_vocab=captions.open(6).tokenizer.vocab_size, text_length=6, codebook_size=16, grid=(4, 4), width=16,
        encoder_layers=1, encoder_heads=2, encoder_hidden=8, decoder_layers=1, decoder_heads=2, decoder_hidden=8,
        pad_id=1,
    )  # fmt: skip
    with pytest.raises(UserError, match=r"expected a text tokenizer that pads with id 1.* got SentencePieceModel"):
        GenerateCodes(model=model, captions=captions).open(LAYOUT)


def test_codes_of_conditions_are_shown_as_others_too():
    task = ConditionalCodeGeneration(GenerateFromConditions(model=MODELS["llamagen"], blanks=0.0, random_codes=0.5))
    module, key = task.init(nnx.Rngs(0)), jax.random.key(0)
    batch = {
        name: jnp.asarray(np.random.default_rng(0).integers(0, 4, one.shape), one.dtype)
        for name, one in task.batch_spec(8).items()
    }
    codes = batch["codes"]
    shown = with_random_codes(codes, 0.5, task.config.model.codebook_size, jax.random.fold_in(key, 1))
    expected = cross_entropy(module(batch["condition"], shown).image[..., : task.config.model.codebook_size], codes)
    loss, _ = task.loss(module, {}, batch, key, jnp.int32(0))
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-4)
    assert (shown != codes).any()


def test_a_share_of_random_codes_is_below_one():
    with pytest.raises(ValueError, match=r"random_codes: expected a share in \[0, 1\), got 1.0"):
        GenerateFromConditions(model=MODELS["llamagen"], random_codes=1.0)
