import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_generators import dalle_bart, forward

from dalle_jax.models.dalle_bart import text_mask

TEXT = jnp.array([[3, 5, 0, 0], [1, 2, 9, 4]])
CODES = jax.random.randint(jax.random.key(1), (2, 12), 0, 7)


def test_a_logit_depends_only_on_earlier_codes():
    run = forward(dalle_bart())
    before = run(TEXT, CODES).image
    for position in (0, 5):
        after = run(TEXT, CODES.at[:, position].add(1) % 7).image
        np.testing.assert_array_equal(after[:, : position + 1], before[:, : position + 1])
        assert abs(after[:, position + 1] - before[:, position + 1]).max() > 1e-3


def test_attention_does_not_see_padding():
    model = dalle_bart()
    graph, _ = nnx.split(model)
    run = jax.jit(lambda state: nnx.merge(graph, state)(TEXT, CODES).image)
    before, table = run(nnx.state(model)), model.encoder.tokens.table
    table[...] = table[...].at[0].multiply(-1.0)
    np.testing.assert_allclose(run(nnx.state(model)), before, rtol=1e-5, atol=1e-5)
    table[...] = table[...].at[5].multiply(-1.0)
    assert abs(run(nnx.state(model))[0] - before[0]).max() > 1e-3


def test_the_empty_caption_gives_finite_logits_and_gradients():
    graph, state = nnx.split(dalle_bart())

    def loss(state):
        return (nnx.merge(graph, state)(jnp.zeros((2, 4), jnp.int32), CODES).image ** 2).sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(state)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_scan_equals_the_unrolled_stack():
    plain, scanned = (forward(dalle_bart(decoder_layers=3, scan=scan))(TEXT, CODES).image for scan in (False, True))
    np.testing.assert_allclose(plain, scanned, rtol=1e-4, atol=1e-4)


def test_norms_before_a_matrix_product_have_no_scale_and_products_have_no_bias():
    model = dalle_bart()
    names = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    assert "stack.blocks.0.attention_norm.bias" in names
    assert "stack.blocks.0.attention_norm.scale" not in names
    assert "stack.blocks.0.attention_norm_after.scale" in names
    assert not [name for name in names if name.endswith(("qkv.bias", "out.bias", "up.bias", "down.bias", "head.bias"))]


PUBLISHED = {"pad_id": 1, "empty_caption": (0, 2), "extra_codes": 3, "start_code": 8}


def test_extra_codes_of_published_tables_have_logits_in_training_only():
    model = dalle_bart(**PUBLISHED)
    assert model.start is None
    assert model.codes.embedding.table.shape[0] == 7 + 3
    run, text = forward(model), jnp.array([[0, 5, 2, 1], [0, 2, 1, 1]])
    logits = run(text, CODES).image
    assert logits.shape[-1] == 10
    graph, state = nnx.split(model)
    first, _ = jax.jit(lambda text: nnx.merge(graph, state).prefill(text, 1))(text)
    np.testing.assert_allclose(first, logits[:, 0, :7], rtol=1e-4, atol=1e-4)
    model.codes.embedding.table[...] = model.codes.embedding.table[...].at[8].multiply(-1.0)
    assert abs(forward(model)(text, CODES).image - logits).max() > 1e-3


def test_padding_and_the_empty_caption_use_the_ids_of_the_config():
    model = dalle_bart(**PUBLISHED)
    np.testing.assert_array_equal(model.empty(TEXT), [[0, 2, 1, 1]])
    np.testing.assert_array_equal(text_mask(jnp.array([[0, 5, 2, 1], [1, 0, 1, 1]]), 1), [[1, 1, 1, 0], [1, 1, 0, 0]])
    np.testing.assert_array_equal(dalle_bart().empty(TEXT), [[0, 0, 0, 0]])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"start_code": 7}, "start_code: expected a row from 0 to 6, got 7"),
        ({"extra_codes": 1, "code_width": 4}, "extra_codes: expected 0 with code_width 4"),
        ({"pad_id": 11}, "pad_id: expected an id from 0 to 10, got 11"),
        ({"empty_caption": (0, 1, 2, 3, 4)}, r"empty_caption: expected at most 4 ids \(text_length\), got 5"),
    ],
)
def test_ids_outside_their_tables_are_errors(changes, says):
    with pytest.raises(ValueError, match=says):
        dalle_bart(**changes)
