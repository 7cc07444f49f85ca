import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.layers import head_groups
from dalle_jax.layers.attend import dense_attention
from dalle_jax.layers.head_groups import own_columns, pack_heads, packed_together, spread_queries
from dalle_jax.parallel.axes import HEADS


@pytest.fixture
def on_tpu(monkeypatch):
    monkeypatch.setattr(head_groups, "platform", lambda: "tpu")


def test_heads_are_packed_on_a_tpu_only():
    assert packed_together(32, 64) == 1


@pytest.mark.parametrize(
    ("heads", "size", "devices", "together"),
    [
        (32, 64, 1, 2),  # two heads fill the 128 columns of a tile
        (20, 128, 1, 1),
        (62, 64, 2, 31),  # a device has 31 heads, which no pairs divide
        (62, 64, 4, 2),  # 4 devices do not share 62 heads, so each has all
        (6, 48, 1, 2),  # six would fill as much
        (3, 64, 1, 3),
    ],
)
def test_the_fewest_heads_that_fill_tiles_best_are_packed(on_tpu, monkeypatch, heads, size, devices, together):
    monkeypatch.setattr(head_groups, "axis_parts", lambda axis: {HEADS: devices}[axis])
    assert packed_together(heads, size) == together


def test_attention_over_packed_heads_equals_attention(on_tpu):
    """Eight query heads of width 32 over four key heads, which are packed into one."""
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (jax.random.normal(key, (2, heads, 5, 32)) for key, heads in zip(keys, (8, 4, 4), strict=True))
    packed_k, packed_v = pack_heads(k), pack_heads(v)
    assert packed_k.shape == (2, 1, 5, 128)
    spread = spread_queries(q.swapaxes(1, 2), 4, 128).swapaxes(1, 2)  # [B N L F]
    scores = jnp.einsum("bnlf,bysf->bnls", spread, packed_k) * 32**-0.5
    out = jnp.einsum("bnls,bysf->blnf", jax.nn.softmax(scores), packed_v)
    np.testing.assert_allclose(own_columns(out, 4, 32).swapaxes(1, 2), dense_attention(q, k, v), rtol=1e-5, atol=1e-6)
