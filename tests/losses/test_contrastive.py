import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from dalle_jax.losses.contrastive import contrastive, retrieval_hits, same_caption_group, same_rows, sigmoid


def units(seed, rows, width=8):
    x = jax.random.normal(jax.random.key(seed), (rows, width))
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def test_the_loss_of_two_pairs_by_hand():
    image = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    text = jnp.array([[1.0, 0.0], [0.6, 0.8]])
    # logits at scale 2: [[2, 1.2], [0, 1.6]]
    of_image = (np.log1p(np.exp(1.2 - 2)) + np.log1p(np.exp(-1.6))) / 2
    of_text = (np.log1p(np.exp(-2)) + np.log1p(np.exp(1.2 - 1.6))) / 2
    assert float(contrastive(image, text, jnp.array(2.0))) == pytest.approx((of_image + of_text) / 2, rel=1e-5)


def test_equal_captions_share_their_target():
    text = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    same = same_rows(jnp.array([[4, 5, 0], [4, 5, 0], [4, 0, 0]]))
    np.testing.assert_array_equal(same, [[1, 1, 0], [1, 1, 0], [0, 0, 1]])
    # Perfect embeddings: with shared targets the loss goes to ln 2 for the twins and 0 for the third; never below.
    assert float(contrastive(text, text, jnp.array(100.0), same)) == pytest.approx(2 / 3 * np.log(2), rel=1e-4)
    log_p = jax.nn.log_softmax(2 * text @ text.T, axis=-1)
    by_hand = -(log_p[0, 0] + log_p[0, 1] + log_p[1, 0] + log_p[1, 1]) / 2 / 3 - log_p[2, 2] / 3
    assert float(contrastive(text, text, jnp.array(2.0), same)) == pytest.approx(float(by_hand), rel=1e-5)


def test_wrong_texts_of_an_image_are_further_texts_in_its_own_softmax():
    image = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    wrong = jnp.array([[[0.6, 0.8]], [[0.8, 0.6]]])
    # logits at scale 2: [[2, 0], [0, 2]], and 1.2 with each wrong text
    of_image, of_text = np.log(1 + np.exp(-2) + np.exp(1.2 - 2)), np.log1p(np.exp(-2))
    found = contrastive(image, image, jnp.array(2.0), wrong=wrong)
    assert float(found) == pytest.approx((of_image + of_text) / 2, rel=1e-5)
    both = contrastive(image, image, jnp.array(2.0), wrong=wrong, wrong_images=wrong)
    assert float(both) == pytest.approx(of_image, rel=1e-5)
    plain, more = (sigmoid(image, image, jnp.array(2.0), jnp.array(-1.0), wrong=one) for one in (None, wrong))
    assert float(more - plain) == pytest.approx(np.log1p(np.exp(1.2 - 1)), rel=1e-5)
    mirrored = sigmoid(image, image, jnp.array(2.0), jnp.array(-1.0), wrong_images=wrong)
    assert float(mirrored) == pytest.approx(float(more), rel=1e-6)


def test_captions_match_by_their_tokens_or_by_their_group():
    same = same_caption_group(jnp.array([[4, 5], [4, 5], [6, 0], [7, 0]]), jnp.array([1, 2, 3, 3]))
    np.testing.assert_array_equal(same, [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]])


def test_distinct_captions_give_clips_own_loss():
    image, text = units(0, 6), units(1, 6)
    plain = contrastive(image, text, jnp.array(5.0))
    shared = contrastive(image, text, jnp.array(5.0), jnp.eye(6, dtype=bool))
    np.testing.assert_array_equal(plain, shared)


def test_a_batch_on_eight_devices_has_the_loss_and_gradients_of_one():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    image, text = units(0, 16), units(1, 16)
    same = same_rows(jnp.arange(16)[:, None] // 2)
    loss = jax.jit(jax.value_and_grad(lambda i, t: contrastive(i, t, jnp.array(10.0), same), argnums=(0, 1)))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    alone, spread = loss(image, text), loss(jax.device_put(image, sharding), jax.device_put(text, sharding))
    for one, many in zip(jax.tree.leaves(alone), jax.tree.leaves(spread), strict=True):
        np.testing.assert_allclose(one, many, atol=1e-5)


def test_retrieval_counts_an_equivalent_caption_as_correct():
    image = jnp.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    text = jnp.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    by_caption = jnp.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=bool)
    of_image, of_text = retrieval_hits(image, text, by_caption)
    np.testing.assert_array_equal(of_image, [True, True, False])
    np.testing.assert_array_equal(of_text, [True, True, False])


def test_the_sigmoid_loss_is_its_formula():
    """SigLIP's equation 1, pair by pair: -1/B sum log 1 / (1 + exp(z (-t x.y - b)))."""
    rng = np.random.default_rng(0)
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, 4, 6)).astype(np.float32))
    scale, bias, total = 7.0, -2.0, 0.0
    for i in range(4):
        for j in range(4):
            z = 1 if i == j else -1
            total += np.log1p(np.exp(z * (-scale * float(image[i] @ text[j]) - bias)))
    got = sigmoid(jnp.asarray(image), jnp.asarray(text), jnp.array(scale), jnp.array(bias))
    assert float(got) == pytest.approx(total / 4, rel=1e-5)


def test_the_sigmoid_loss_treats_equivalent_captions_as_positives():
    image = text = jnp.ones((2, 1))
    scale, bias = jnp.array(20.0), jnp.array(-10.0)
    assert float(sigmoid(image, text, scale, bias)) > 9
    assert float(sigmoid(image, text, scale, bias, jnp.ones((2, 2), bool))) < 1e-3


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_rows_that_are_no_candidates_do_not_change_the_loss_of_other_rows(loss):
    image, text, extra = units(0, 5), units(1, 5), units(2, 3)
    same = same_rows(jnp.array([[1], [1], [2], [3], [4]]))
    real = jnp.arange(8) < 5
    longer = [jnp.concatenate([one, extra]) for one in (image, text)]
    wider = jnp.pad(same, (0, 3)).at[5:, 5:].set(True)
    given = (jnp.array(5.0),) if loss == "softmax" else (jnp.array(5.0), jnp.array(-2.0))
    function = contrastive if loss == "softmax" else sigmoid
    alone = function(image, text, *given, same)
    np.testing.assert_allclose(function(*longer, *given, wider, real, real), alone, rtol=1e-5)
    np.testing.assert_array_equal(retrieval_hits(*longer, wider, real)[0][:5], retrieval_hits(image, text, same)[0])
    np.testing.assert_array_equal(retrieval_hits(*longer, wider, real)[1][:5], retrieval_hits(image, text, same)[1])


def test_the_losses_of_rows_counted_one_by_one_have_the_loss_of_the_batch_as_their_mean():
    image, text, every = units(0, 6), units(1, 6), jnp.ones(6, bool)
    eye = jnp.eye(6, dtype=bool)
    for loss, given in ((contrastive, (jnp.array(5.0),)), (sigmoid, (jnp.array(5.0), jnp.array(-2.0)))):
        rows = [loss(image, text, *given, eye, jnp.arange(6) == row, every) for row in range(6)]
        np.testing.assert_allclose(np.mean(rows), loss(image, text, *given), rtol=1e-5)
        assert np.std(rows) > 1e-3
