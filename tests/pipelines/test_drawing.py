import numpy as np
import pytest
from flax import nnx

from dalle_jax.config.errors import UserError
from dalle_jax.models.clip import Clip, ClipConfig, TowerConfig
from dalle_jax.models.dalle import Dalle, DalleConfig
from dalle_jax.models.vqvae import Vqvae, VqvaeConfig
from dalle_jax.pipelines.autoregressive import Pipeline, Request
from dalle_jax.text.sentencepiece import SentencePiece, train_sentencepiece

LENGTH = 6


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
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
    return Pipeline(
        generator=Dalle(dalle, rngs=nnx.Rngs(0)),
        image_tokenizer=Vqvae(vqvae, rngs=nnx.Rngs(1)),
        text=text,
        clip=Clip(clip, rngs=nnx.Rngs(2)),
        clip_text=text,
        batch=8,
    )


def test_a_seed_gives_the_same_pictures_whatever_else_is_drawn(pipeline):
    alone = pipeline("a red circle", candidates=4, keep=4, seed=3)
    others = [Request("a blue square", candidates=4, seed=9), Request("a green ring", candidates=2, keep=1)]
    together = pipeline.draw([*others, Request("a red circle", candidates=4, keep=4, seed=3)])[2]
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


def test_what_is_kept_are_the_best_scores_in_their_order(pipeline):
    drawn = pipeline("a red circle", candidates=8, keep=3, seed=5)
    order = np.argsort(-drawn.candidate_scores, kind="stable")[:3]
    np.testing.assert_array_equal(drawn.chosen, order)
    np.testing.assert_array_equal(drawn.pictures, drawn.candidates[order])
    np.testing.assert_array_equal(drawn.scores, drawn.candidate_scores[order])
    again = pipeline.similarity(drawn.candidates, ["a red circle"])[:, 0]
    np.testing.assert_allclose(again, drawn.candidate_scores, atol=1e-5)


def test_the_codes_of_a_given_beginning_are_kept_exactly(pipeline):
    picture = np.random.default_rng(0).integers(0, 256, (8, 16, 3), dtype=np.uint8)
    requests = [Request("a red circle", candidates=4, beginning=picture), Request("a blue square", candidates=4)]
    codes, lengths = pipeline._prefix(requests)
    assert lengths.tolist() == [8, 0]
    whole = np.concatenate([picture, np.zeros((8, 16, 3), np.uint8)])
    expected = np.asarray(pipeline._encode(pipeline._tokenizer[1], whole[None]))[0, :2].reshape(-1)
    np.testing.assert_array_equal(np.asarray(codes)[0, :8], expected)
    drawn = pipeline.draw(requests)[0].candidates
    tops = np.unique(drawn[:, :4].reshape(4, -1), axis=0)  # the codes of the first row decode alike but for neighbours
    assert len(np.unique(drawn.reshape(4, -1), axis=0)) >= len(tops)


def test_temperature_zero_draws_every_candidate_alike(pipeline):
    drawn = pipeline("a red circle", candidates=4, keep=1, temperature=0.0).candidates
    assert (drawn == drawn[:1]).all()


def test_without_a_clip_the_first_candidates_are_kept_and_nothing_is_scored(pipeline):
    bare = Pipeline(nnx.merge(*pipeline._generator), pipeline.image_tokenizer, pipeline.text, batch=8)
    drawn = bare("a red circle", candidates=4, keep=2, seed=3)
    assert drawn.scores is None
    np.testing.assert_array_equal(drawn.pictures, drawn.candidates[:2])
    with pytest.raises(UserError, match="--clip"):
        bare.similarity(drawn.pictures, ["a red circle"])


def test_a_beginning_of_the_wrong_size_is_refused(pipeline):
    with pytest.raises(UserError, match="16 px wide"):
        pipeline("a red circle", candidates=4, beginning=np.zeros((8, 12, 3), np.uint8))
