import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from dalle_jax.config.errors import UserError
from dalle_jax.parallel import axes as names
from dalle_jax.parallel.axes import BATCH, EMBED, HEAD_DIM, HEADS, MLP, SEQ
from dalle_jax.parallel.layout import Layout, compiler_options, constrain, platform
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules


@pytest.fixture
def cube() -> Layout:
    return Layout(make_mesh(Mesh(2, 2, 2)), Rules())


class Block(nnx.Module):
    def __init__(self, size: int = 4):
        self.kernel = nnx.Param(jnp.zeros((size, 6)), axes=(EMBED, MLP))
        self.stacked = nnx.Param(jnp.zeros((3, 4, 6)), axes=(EMBED, MLP))
        self.plain = nnx.Param(jnp.zeros((5,)))


def test_every_logical_axis_has_a_rule():
    vocabulary = {value for name, value in vars(names).items() if name.isupper()}
    assert vocabulary == set(Rules.__dataclass_fields__)


@pytest.mark.parametrize("axis", sorted(Rules.__dataclass_fields__))
def test_a_rule_shards_its_own_logical_axis_and_no_other(axis):
    other = next(name for name in Rules.__dataclass_fields__ if name != axis)
    replicated = dict.fromkeys(Rules.__dataclass_fields__, ())
    layout = Layout(make_mesh(Mesh(2, 2, 2)), Rules(**(replicated | {axis: ("tensor",)})))
    assert layout.spec((axis, other)) == P("tensor")
    assert layout.spec((other,)) == P()


def test_a_name_outside_the_vocabulary_is_an_error(cube):
    with pytest.raises(KeyError, match="embedd"):
        cube.spec(("embedd",))


def test_a_mesh_axis_is_used_once_in_an_array(cube):
    assert cube.spec((EMBED, HEADS, HEAD_DIM)) == P("fsdp", "tensor")
    assert cube.spec((BATCH, SEQ, EMBED)) == P(("data", "fsdp"))
    assert cube.spec((None, HEADS)) == P(None, "tensor")


def test_variables_are_sharded_by_their_axes_and_replicated_without(cube):
    state = nnx.state(nnx.eval_shape(Block))
    shardings = cube.state_shardings(state)
    assert shardings["kernel"].spec == P("fsdp", "tensor")
    assert shardings["stacked"].spec == P(None, "fsdp", "tensor")
    assert shardings["plain"].spec == P()
    sharded = jax.jit(lambda: nnx.state(Block()), out_shardings=shardings)()
    assert sharded["kernel"].get_value().addressable_shards[0].data.shape == (2, 3)


def test_a_size_that_does_not_divide_names_the_nearest_that_do(cube):
    with pytest.raises(UserError, match=r"'embed' of size 5 .* fsdp of 2 .* 4 or 6"):
        cube.state_shardings(nnx.state(nnx.eval_shape(lambda: Block(5))))
    with pytest.raises(UserError, match=r"'batch' of size 6 .* data and fsdp of 4 .* 4 or 8"):
        cube.put_batch({"x": np.zeros((6, 2), np.float32)})


def test_put_batch_shards_the_rows_and_keeps_the_values(cube):
    rows = np.arange(16, dtype=np.int32).reshape(8, 2)
    batch = cube.put_batch({"x": rows})
    assert batch["x"].sharding == cube.batch_shardings({"x": rows})["x"]
    np.testing.assert_array_equal(batch["x"], rows)
    np.testing.assert_array_equal(cube.local_rows(8), np.arange(8))


def test_constrain_shards_inside_a_layouts_jit_and_is_the_identity_outside(cube):
    x = jnp.ones((8, 4))
    assert constrain(x, BATCH, MLP) is x
    assert cube.jit(lambda x: constrain(x, BATCH, MLP))(x).sharding.spec == P(("data", "fsdp"), "tensor")


def test_platform_is_that_of_the_mesh(cube):
    assert platform() == "cpu"
    seen = []
    cube.jit(lambda x: (seen.append(platform()), x)[1])(jnp.ones(()))
    assert seen == ["cpu"]


def test_layout_jit_compiles_once_for_one_signature(cube):
    double = cube.jit(lambda x: 2 * x)
    for value in range(3):
        assert float(double(jnp.asarray(float(value)))) == 2 * value
    assert double.compiles() == 1


def test_layout_jit_nests(cube):
    inner = cube.jit(lambda x: constrain(x + 1, BATCH))
    assert float(cube.jit(lambda x: inner(x) * 2)(jnp.ones(8))[0]) == 4


def test_only_a_cpu_compiles_at_level_1_and_xla_flags_take_precedence(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    assert compiler_options("cpu") == {"xla_backend_optimization_level": 1}
    assert compiler_options("gpu") is None
    assert compiler_options("tpu") is None
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=3")
    assert compiler_options("cpu") is None
