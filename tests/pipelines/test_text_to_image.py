import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from dalle_jax.config.errors import UserError
from dalle_jax.models.clip import Clip, ClipConfig, TowerConfig
from dalle_jax.models.dalle import Dalle, DalleConfig
from dalle_jax.models.vqvae import Vqvae, VqvaeConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.pipelines.image_codec import ImageCodec
from dalle_jax.pipelines.prompts import TextPrompts
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.pipelines.request import Request, RequestOptions, check_rankers
from dalle_jax.pipelines.text_to_image import TextToImage
from dalle_jax.text.sentencepiece import SentencePiece, train_sentencepiece

LENGTH = 6
PAIRS = [(row, candidate) for row in range(2) for candidate in range(3)]


def build(layout: Layout | None = None, ranked: bool = True) -> TextToImage:
    """Return a new pipeline; each has the same parameters."""
    model = train_sentencepiece(["a red circle", "a blue square", "a green ring"] * 5, 40, "bpe", 0)
    text = SentencePiece(model, LENGTH)
    vocabulary = text.vocab_size
    dalle = DalleConfig(
        text_vocab=vocabulary,
        text_length=LENGTH,
        codebook_size=16,
        grid=(4, 4),
        width=16,
        depth=1,
        heads=2,
        head_size=8,
    )
    vqvae = VqvaeConfig(downsample=4, width=8, blocks=1, codebook_size=16, code_width=4, stem="patch")
    tower = TowerConfig(width=16, layers=1, heads=2)
    clip = ClipConfig(
        image_size=16,
        patch=8,
        vision=tower,
        vocab_size=vocabulary,
        text_length=LENGTH,
        text=tower,
        embed_width=8,
    )
    return TextToImage(
        Dalle(dalle, rngs=nnx.Rngs(0)),
        ImageCodec(Vqvae(vqvae, rngs=nnx.Rngs(1)), 8, layout),
        TextPrompts(text),
        ClipRanker(Clip(clip, rngs=nnx.Rngs(2)), text, 8, layout) if ranked else None,
        8,
        layout,
    )


@pytest.fixture(scope="module")
def pipeline() -> TextToImage:
    return build()


def request(prompt: str, given_image: np.ndarray | None = None, **options) -> Request:
    return Request(prompt, RequestOptions(**options), given_image)


def test_a_seed_gives_the_same_images_in_any_batch(pipeline):
    alone = pipeline("a red circle", candidates=4, keep=4, seed=3)
    others = [request("a blue square", candidates=4, seed=9), request("a green ring", candidates=2, keep=1)]
    together = pipeline.draw([*others, request("a red circle", candidates=4, keep=4, seed=3)])[2]
    np.testing.assert_array_equal(alone.candidates, together.candidates)
    np.testing.assert_allclose(alone.candidate_scores, together.candidate_scores, atol=1e-5)


def test_the_first_candidates_of_many_are_those_of_few(pipeline):
    few = pipeline("a red circle", candidates=4, keep=1, seed=1)
    many = pipeline("a red circle", candidates=20, keep=1, seed=1)
    assert many.candidates.shape == (20, 16, 16, 3)
    np.testing.assert_array_equal(many.candidates[:4], few.candidates)
    later = pipeline("a red circle", candidates=4, keep=1, seed=1, first=16)
    np.testing.assert_array_equal(many.candidates[16:], later.candidates)


def test_seeds_and_candidates_differ_from_each_other(pipeline):
    drawn = pipeline("a red circle", candidates=8, keep=1, seed=1).candidates.reshape(8, -1)
    assert len(np.unique(drawn, axis=0)) > 4
    assert not np.array_equal(pipeline("a red circle", candidates=8, keep=1, seed=2).candidates.reshape(8, -1), drawn)


def test_the_images_with_the_best_scores_are_kept_in_order(pipeline):
    drawn = pipeline("a red circle", candidates=8, keep=3, seed=5)
    order = np.argsort(-drawn.candidate_scores, kind="stable")[:3]
    np.testing.assert_array_equal(drawn.chosen, order)
    np.testing.assert_array_equal(drawn.pixels, drawn.candidates[order])
    np.testing.assert_array_equal(drawn.scores, drawn.candidate_scores[order])
    again = pipeline.ranker.similarity(drawn.candidates, ["a red circle"])[:, 0]
    np.testing.assert_allclose(again, drawn.candidate_scores, atol=1e-5)


def test_the_codes_of_a_given_image_are_kept_exactly(pipeline):
    image = np.random.default_rng(0).integers(0, 256, (8, 16, 3), dtype=np.uint8)
    requests = [request("a red circle", candidates=4, given_image=image), request("a blue square", candidates=4)]
    codes, keep = pipeline._given(requests, 4)
    assert keep.sum(axis=1).tolist() == [8, 0] and bool(keep[0, :8].all())
    whole = np.concatenate([image, np.zeros((8, 16, 3), np.uint8)])
    expected = pipeline.codec.encode(whole)[0, :2].reshape(-1)
    np.testing.assert_array_equal(np.asarray(codes)[0, :, :8], np.repeat(expected[None], 4, axis=0))
    drawn = pipeline.draw(requests)[0].candidates
    tops = np.unique(drawn[:, :4].reshape(4, -1), axis=0)  # the codes of the first row decode alike but for neighbours
    assert len(np.unique(drawn.reshape(4, -1), axis=0)) >= len(tops)


def test_all_candidates_are_equal_at_temperature_zero(pipeline):
    drawn = pipeline("a red circle", candidates=4, keep=1, temperature=0.0).candidates
    assert (drawn == drawn[:1]).all()


def test_without_a_clip_the_first_candidates_are_kept_and_nothing_is_scored():
    bare = build(ranked=False)
    drawn = bare("a red circle", candidates=4, keep=2, seed=3)
    assert drawn.scores is None
    np.testing.assert_array_equal(drawn.pixels, drawn.candidates[:2])
    with pytest.raises(UserError, match="--clip"):
        bare.rank(drawn.pixels, "a red circle")


def test_candidates_are_ranked_by_the_likelihood_of_their_codes_or_by_a_weighted_sum(pipeline):
    options = {"candidates": 4, "keep": 4, "seed": 3, "temperature": 3.0, "likelihood_weight": 0.5}
    requests = [request("a red circle", **options, ranker=one) for one in ("both", "clip", "likelihood", None)]
    both, clip, likelihood, plain = pipeline.draw(requests)
    np.testing.assert_array_equal(plain.candidate_scores, clip.candidate_scores)
    assert len({*likelihood.candidate_scores.tolist()}) > 1
    wanted = clip.candidate_scores + 0.5 * likelihood.candidate_scores
    np.testing.assert_allclose(both.candidate_scores, wanted, rtol=1e-5)
    np.testing.assert_array_equal(likelihood.chosen, np.argsort(-likelihood.candidate_scores, kind="stable"))
    codes = np.random.default_rng(0).integers(0, 16, (2, 3, 16))
    prompts = ["a red circle", "a blue square"]
    alone = [pipeline.likelihood.of_codes([prompts[row]], codes[row : row + 1, m : m + 1])[0, 0] for row, m in PAIRS]
    np.testing.assert_allclose(pipeline.likelihood.of_codes(prompts, codes).reshape(-1), alone, rtol=1e-4)
    images, nats = clip.candidates, pipeline.likelihood.nats(clip.candidates, ["a blue square"] * 4)
    given = [
        pipeline.rank(images, "a blue square", ranker=one, likelihood_weight=2.0) for one in ("likelihood", "both")
    ]
    np.testing.assert_allclose(given[0], -nats, rtol=1e-5)
    np.testing.assert_allclose(given[1], pipeline.rank(images, "a blue square") - 2 * nats, rtol=1e-5)


def test_a_ranker_that_is_not_there_is_refused_and_a_likelihood_needs_no_clip():
    bare = build(ranked=False)
    with pytest.raises(UserError, match=r"ranker: expected likelihood, since there is no CLIP, got both; give its"):
        bare("a red circle", candidates=4, ranker="both")
    assert bare("a red circle", candidates=4, ranker="likelihood").scores.shape == (4,)
    with pytest.raises(UserError, match="ranker: expected clip, since only images drawn by a transformer"):
        check_rankers([request("x", candidates=4, ranker="likelihood")], clip=True, transformer=False)
    with pytest.raises(UserError, match="caption: expected a text for ranker = clip"):
        check_rankers([Request(3, RequestOptions(ranker="clip"))], clip=True, transformer=True)


def test_a_given_image_of_the_wrong_size_is_refused(pipeline):
    with pytest.raises(UserError, match="16 px wide"):
        pipeline.draw([request("a red circle", candidates=4, given_image=np.zeros((8, 12, 3), np.uint8))])


def test_calls_of_the_same_shape_compile_once_whatever_their_settings():
    fresh = build()
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    for seed, settings in enumerate(({}, {"top_k": 3}, {"top_p": 0.5, "guidance": 2.0}, {"given_image": images[0]})):
        fresh("a red circle", candidates=4, temperature=1.0 + seed, seed=seed, **settings)
        fresh.rank(images[: 3 + seed % 2], ["a blue square", "a green ring"])
        fresh.codec.decode(fresh.codec.encode(images))
    compiled = (fresh._sample, fresh.ranker._score, fresh.ranker._encode_text, fresh.ranker._encode_image)
    assert [function.compiles() for function in compiled] == [1, 1, 1, 1]
    assert fresh.codec._decode.compiles() == 1  # four candidates, or three images padded to four


def test_a_layout_of_two_devices_gives_the_images_of_one(pipeline):
    layout = Layout(make_mesh(Mesh(fsdp=2), jax.devices()[:2]), Rules())
    sharded = build(layout)
    ours, theirs = (one("a red circle", candidates=4, keep=1, seed=2) for one in (sharded, pipeline))
    np.testing.assert_array_equal(ours.candidates, theirs.candidates)
    np.testing.assert_allclose(ours.candidate_scores, theirs.candidate_scores, atol=1e-5)
    prompts = ["a red circle"] * 4
    nats = [one.likelihood.nats(theirs.candidates, prompts) for one in (sharded, pipeline)]
    np.testing.assert_allclose(*nats, rtol=1e-5)


def test_sampler_and_likelihood_share_the_parameters_of_one_transformer(pipeline):
    states = [function._parameters for function in (pipeline._sample, pipeline.likelihood._nats)]
    first, second = ([leaf.unsafe_buffer_pointer() for leaf in arrays(state)] for state in states)
    assert first == second and len(first) > 10


def arrays(state) -> list[jax.Array]:
    return [leaf for leaf in jax.tree.leaves(state) if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)]


def test_several_prompts_give_the_images_of_each_alone(pipeline):
    together = pipeline(["a red circle", "a blue square"], candidates=4, keep=2, seed=4)
    for drawn, prompt in zip(together, ["a red circle", "a blue square"], strict=True):
        alone = pipeline(prompt, candidates=4, keep=2, seed=4)
        assert drawn.prompt == prompt
        np.testing.assert_array_equal(drawn.candidates, alone.candidates)
        np.testing.assert_array_equal(np.stack([np.asarray(image) for image in drawn.images]), drawn.pixels)
    assert len(pipeline("a red circle", candidates=2).pixels) == 2  # fewer than are kept by default


def test_a_given_image_may_be_an_array_a_pillow_image_or_a_file(pipeline, tmp_path):
    array = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    asked = request("a red circle", array[:12], candidates=4, keep=4)
    expected = pipeline.draw([asked])[0].candidates
    for image in (array, Image.fromarray(array), tmp_path / "a.png", str(tmp_path / "a.png")):
        drawn = pipeline("a red circle", candidates=4, given_image=image, given_rows=0.75).candidates
        np.testing.assert_array_equal(drawn, expected)
    codes = pipeline.codec.encode(array)[0, :3]
    np.testing.assert_array_equal(np.asarray(pipeline._given([asked], 1).codes)[0, 0, :12], codes.reshape(-1))


def test_codes_of_images_decode_to_their_reconstructions(pipeline):
    images = np.random.default_rng(2).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    codes = pipeline.codec.encode(list(images))
    assert codes.shape == (5, 4, 4) and codes.min() >= 0 and codes.max() < pipeline.codec.codebook_size == 16
    np.testing.assert_array_equal(pipeline.codec.encode(Image.fromarray(images[3])), codes[3:4])
    np.testing.assert_array_equal(pipeline.codec.decode(codes), pipeline.codec.reconstruct(images))
    np.testing.assert_array_equal(pipeline.codec.decode(codes[1]), pipeline.codec.decode(codes)[1:2])


def test_ranks_are_cosine_similarities_of_images_of_any_size(pipeline):
    images = np.random.default_rng(3).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    scores = pipeline.rank(images, ["a red circle", "a blue square"])
    assert scores.shape == (3, 2) and np.abs(scores).max() <= 1
    np.testing.assert_allclose(pipeline.rank(images, "a blue square"), scores[:, 1], atol=1e-6)
    large = [Image.fromarray(image).resize((48, 48), Image.Resampling.NEAREST) for image in images]
    small = [np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC)) for image in large]
    np.testing.assert_allclose(pipeline.rank(large, "a ring"), pipeline.rank(small, "a ring"), atol=1e-6)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda one: one("x", candidates=0), "candidates: expected between 1 and 512, got 0"),
        (lambda one: one("x", candidates=2, keep=3), r"keep: expected between 1 and candidates \(2\), got 3"),
        (lambda one: one("x", given_image=np.zeros((4, 4), np.uint8)), r"given_image: expected .* got uint8\[4, 4\]"),
        (lambda one: one("x", given_image=np.zeros((4, 4, 3))), r"given_image: expected .* got float64\[4, 4, 3\]"),
        (lambda one: one("x", given_image=__file__), "test_text_to_image.py"),
        (
            lambda one: one("x", given_image=np.zeros((4, 4, 3), np.uint8), given_rows=0.0),
            "given_rows: expected the share of the image's rows",
        ),
        (lambda one: one([]), r"prompt: expected one or several, got \[\]"),
        (lambda one: one.codec.encode(np.zeros((5, 8, 3), np.uint8)), "multiples of 4 px, got 8 x 5 px"),
        (lambda one: one.codec.encode([]), "images: expected one image or several, got nothing"),
        (
            lambda one: one.codec.encode([np.zeros((8, 8, 3), np.uint8), np.zeros((4, 8, 3), np.uint8)]),
            "images of one size, got 8 x 4 and 8 x 8 px",
        ),
        (lambda one: one.codec.decode(np.full((1, 4, 4), 16)), r"from 0 to 15, got int64\[1, 4, 4\] from 16 to 16"),
        (lambda one: one.codec.decode(np.zeros((4, 4))), r"got float64\[4, 4\]"),
    ],
)
def test_a_wrong_argument_is_one_error_that_names_it(pipeline, call, says):
    with pytest.raises(UserError, match=says):
        call(pipeline)


def test_jacobi_decoding_gives_the_images_of_sequential_decoding_in_fewer_passes(pipeline):
    options = {"candidates": 2, "guidance": 2.0, "seed": 3}
    plain, quick = pipeline.draw(
        [request("a red circle", **options), request("a red circle", **options, decoding="jacobi", window=4)]
    )
    np.testing.assert_array_equal(quick.candidates, plain.candidates)
    assert plain.passes == 15  # code 0 comes from the prompt's pass
    assert quick.passes < 15
