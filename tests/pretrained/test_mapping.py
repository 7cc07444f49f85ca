import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from dalle_jax.config.errors import UserError
from dalle_jax.layers.linear import Linear
from dalle_jax.parallel.axes import EMBED, MLP
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.pretrained.files.tensors import StoredTensor, Tensors
from dalle_jax.pretrained.mapping import (
    CONV_KERNEL,
    IDENTITY,
    TRANSPOSE,
    dense,
    fill,
    reshaped,
    rule,
    stacked,
    to_published,
)
from dalle_jax.pretrained.publishers.clip_rules import patch_kernel

RULES = [rule("kernel", "w", transform=TRANSPOSE), rule("bias", "b")]


class Net(nnx.Module):
    def __init__(self):
        self.kernel = nnx.Param(np.zeros((8, 4), np.float32), axes=(EMBED, MLP))
        self.bias = nnx.Param(np.zeros(4, np.float32), axes=(MLP,))


def tensors(**arrays) -> Tensors:
    return Tensors("file", {name: StoredTensor(a.shape, a.dtype, lambda a=a: a) for name, a in arrays.items()})


W, B = np.arange(32, dtype=np.float16).reshape(4, 8), np.arange(4, dtype=np.float32)


def abstract() -> Net:
    return nnx.eval_shape(Net)


def test_every_variable_is_filled_in_its_own_dtype_and_converted_back():
    module = abstract()
    left = fill(module, tensors(w=W, b=B, n=np.zeros(()), m=np.zeros(2)), RULES, {"n": "why", "m|w": "because"})
    assert left == {"n": "why", "m": "because", "w": "because"} or left == {"n": "why", "m": "because"}
    np.testing.assert_array_equal(module.kernel[...], W.T.astype(np.float32))
    assert module.kernel[...].dtype == np.float32
    back = to_published(module, RULES)
    np.testing.assert_array_equal(back["w"], W)
    np.testing.assert_array_equal(back["b"], B)
    with pytest.raises(UserError, match="a rule for every variable of the model, got no match for bias"):
        to_published(module, RULES[:1])


def test_each_device_holds_only_its_shard():
    layout = Layout(make_mesh(Mesh(data=1, fsdp=2, tensor=4)), Rules())
    module = abstract()
    fill(module, tensors(w=W, b=B), RULES, {}, layout)
    kernel = module.kernel[...]
    assert len(kernel.addressable_shards) == 8
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(4, 1)}
    np.testing.assert_array_equal(np.asarray(kernel), W.T)


def test_a_tensor_is_read_once_and_never_after_a_mismatch():
    reads = []  # except of the first tensor, which the type checker reads too

    def counted(name, array):
        return StoredTensor(array.shape, array.dtype, lambda: reads.append(name) or array)

    good = Tensors("file", {"w": counted("w", W), "b": counted("b", B)})
    layout = Layout(make_mesh(Mesh(data=1, fsdp=8)), Rules())
    fill(abstract(), good, RULES, {}, layout)
    assert reads.count("b") == 1
    bad = Tensors("file", {"w": counted("w", W), "b": counted("b", W)})
    with pytest.raises(UserError):
        fill(abstract(), bad, RULES, {})
    assert reads.count("b") == 1


def test_all_mismatches_are_in_one_error():
    rules = [*RULES, rule("bias", "b"), rule("scale", "gone")]
    with pytest.raises(UserError) as caught:
        fill(abstract(), tensors(w=W.T, b=B.astype(int), more=B), rules, {})
    lines = str(caught.value).splitlines()
    assert all(line.startswith("file: ") for line in lines) and len(lines) == 5
    for words in (
        "which are missing: gone",
        "which no rule uses: more",
        "more often: b",
        "which the model does not have or which have several: bias, scale",
        "w (expected float32[4, 8], got float16[8, 4])",
        "b (expected float32[4], got int64[4])",
    ):
        assert words in str(caught.value)
    with pytest.raises(UserError, match="expected a rule for these variables, got none: bias"):
        fill(abstract(), tensors(w=W), RULES[:1], {})


def test_long_lists_of_mismatches_are_cut_and_counted():
    extra = {f"x{number}": B for number in range(30)}
    with pytest.raises(UserError, match=r"x19, and 10 more"):
        fill(abstract(), tensors(w=W, b=B, **extra), RULES, {})


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_every_transform_is_inverted(a, b, c):
    rng = np.random.default_rng(a * 100 + b * 10 + c)
    for how, shapes in (
        (IDENTITY, [(a, b)]),
        (TRANSPOSE, [(a, b)]),
        (CONV_KERNEL, [(a, b, c, c)]),
        (reshaped(a, b, c, stored=(a * b * c,)), [(a * b * c,)]),
        (dense((a, b), (c,)), [(c, a * b)]),
        (stacked(dense((a,), (b, c)), 3, axis=1), [(b * c, a)] * 3),
        (patch_kernel(c, a), [(a, 3, c, c)]),
    ):
        sources = [rng.normal(size=shape) for shape in shapes]
        for source, again in zip(sources, how.backward(how.forward(*sources)), strict=True):
            np.testing.assert_array_equal(again, source)


def test_a_dense_kernel_of_several_axes_equals_torchs_matrix():
    """Compare with torch's y = x W^T over flattened inputs and outputs."""
    linear = Linear((2, 3), (4, 5), axes=(None,) * 4, rngs=nnx.Rngs(0))
    matrix = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    linear.kernel[...] = jax.numpy.asarray(dense((2, 3), (4, 5)).forward(matrix))
    x = jax.random.normal(jax.random.key(1), (7, 2, 3))
    np.testing.assert_allclose(linear(x), (np.asarray(x).reshape(7, 6) @ matrix.T).reshape(7, 4, 5), atol=1e-5)
