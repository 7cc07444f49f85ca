"""Look-ups in tables that are split by rows and by width: XLA never replicates all looked-up rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.layers.embeddings import Embedding
from dalle_jax.parallel.axes import BATCH, EMBED, SEQ, VOCAB
from dalle_jax.parallel.layout import Layout, constrain
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from tests.parallel.xla_messages import REPLICATES, printed_by_xla

IDS = jax.random.randint(jax.random.key(0), (16, 6), 0, 32)
TARGETS = jax.random.normal(jax.random.key(1), (16, 6, 8))


def gradient(mesh, look_up):
    """Return the gradient of a table of 32 rows of width 8, and what XLA printed when it compiled."""
    layout = Layout(make_mesh(mesh), Rules())
    graph, state = nnx.split(Embedding(32, 8, axis=VOCAB, rngs=nnx.Rngs(0)))
    shardings = layout.state_shardings(state)

    def loss(state, batch):
        rows = look_up(nnx.merge(graph, state), batch["ids"])
        return jnp.square(constrain(rows, BATCH, SEQ, EMBED) - batch["targets"]).sum()

    batch = layout.put_batch({"ids": np.asarray(IDS), "targets": np.asarray(TARGETS)})
    step = layout.jit(jax.grad(loss), out_shardings=shardings)
    with printed_by_xla() as said:
        found = step(jax.device_put(state, shardings), batch)
    return np.asarray(found["table"][...]), said()


@pytest.mark.parametrize("mesh", [Mesh(2, 2, 2), Mesh(1, 8, 1)], ids=str)
def test_gradients_equal_those_of_one_device_and_no_rows_are_replicated(mesh):
    expected, _ = gradient(Mesh(1, 1, 1), lambda table, ids: table(ids))
    found, said = gradient(mesh, lambda table, ids: table(ids))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert REPLICATES not in said


def test_xla_says_so_when_it_replicates_rows():
    _, said = gradient(Mesh(2, 2, 2), lambda table, ids: jnp.take(table.table[...], ids, axis=0))
    assert REPLICATES in said
