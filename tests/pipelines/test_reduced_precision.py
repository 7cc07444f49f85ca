"""Transformers with int8 weights, or with bfloat16 caches of a float32 model."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.layers.linear import Linear
from dalle_jax.models.code_generator import Reduced, reduce_precision
from dalle_jax.models.dalle import DalleConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.pipelines.load.models import ModelFile, load_generator
from dalle_jax.pipelines.load.pipeline import load_pipeline
from dalle_jax.sampling.autoregressive import Settings, image_keys, sample
from dalle_jax.train.checkpoints.save_weights import save_weights
from tests.small_generators import MIX, dalle, dalle_bart, forward, llamagen

CONFIG = DalleConfig(
    text_vocab=32, text_length=6, codebook_size=64, grid=(4, 4), width=128, depth=2, heads=2, head_size=64, code_width=4
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("reduced") / "model"
    model = CONFIG.build(nnx.Rngs(0))
    model.set_code_vectors(jax.random.normal(jax.random.key(1), (CONFIG.codebook_size, CONFIG.code_width)))
    text = render(ModelFile(model=CONFIG))
    save_weights(out, model, text, {"model.gin": text.encode()})
    return out


def nbytes(module: nnx.Module) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(module)))


def test_int8_weights_take_a_quarter_and_give_the_logits_of_the_rounded_matrices(folder):
    plain, small = load_generator(folder), load_generator(folder, reduced=Reduced(weights="int8"))
    print(f"bytes of the weights: float32 {nbytes(plain):,}, int8 {nbytes(small):,}")
    assert nbytes(small) < 0.3 * nbytes(plain)
    text = jax.random.randint(jax.random.key(2), (2, 6), 1, 32)
    codes = jax.random.randint(jax.random.key(3), (2, 16), 0, 64)
    exact, found = forward(plain)(text, codes).image, forward(small)(text, codes).image
    rounded = {".".join(map(str, path)): node for path, node in nnx.iter_graph(small) if isinstance(node, Linear)}
    for path, node in nnx.iter_graph(plain):
        if isinstance(node, Linear):
            one = rounded[".".join(map(str, path))]
            node.kernel[...] = one.kernel[...].astype(jnp.float32) * one.scales[...]
    np.testing.assert_allclose(found, forward(plain)(text, codes).image, rtol=1e-4, atol=1e-4)
    assert 1e-4 < float(jnp.abs(found - exact).max()) < 0.1 * float(jnp.abs(exact).max())


def test_int8_weights_and_scales_lie_in_their_shards(folder):
    layout = Layout(make_mesh(Mesh(1, 4, 2)), Rules())
    state = nnx.state(load_generator(folder, layout, Reduced(weights="int8")))
    leaves, shardings = jax.tree.leaves(state), jax.tree.leaves(layout.state_shardings(state))
    assert any(leaf.dtype == jnp.int8 for leaf in leaves)
    for leaf, sharding in zip(leaves, shardings, strict=True):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)


GENERATORS = {
    "dalle": lambda: dalle(MIX),
    "dalle, scanned": lambda: dalle(MIX[:1], scan=True),
    "dalle_bart": dalle_bart,
    "llamagen": llamagen,
}


def prompts(model) -> jax.Array:
    spec = model.prompt_spec(2)
    return jnp.arange(1, 1 + np.prod(spec.shape)).reshape(spec.shape).astype(spec.dtype) % 5


def steps(model):
    """Return the logits of codes 1 to 11 from cached steps, and the dtypes of the cached keys and values."""
    codes = jnp.arange(11)[None, None] * jnp.array([2, 3])[:, None, None] % 7  # [P 1 11]

    @jax.jit
    def run(state):
        network = nnx.merge(graph, state)
        cache = network.grow(network.prefill(prompts(model), 1)[1], 11)
        out = []
        for index in range(11):
            logits, cache = network.decode(codes[:, :, index], jnp.int32(index + 1), cache)
            out.append(logits)
        return jnp.stack(out), cache

    graph, state = nnx.split(model)
    logits, cache = run(state)
    return logits, {leaf.dtype.name for leaf in jax.tree.leaves(cache) if jnp.issubdtype(leaf.dtype, jnp.floating)}


@pytest.mark.parametrize("name", GENERATORS)
def test_a_bfloat16_cache_changes_logits_by_its_rounding(name):
    model = GENERATORS[name]()
    exact, dtypes = steps(model)
    assert dtypes == {"float32"}
    reduce_precision(model, Reduced(cache="bfloat16"))
    found, dtypes = steps(model)
    assert "bfloat16" in dtypes and (dtypes == {"bfloat16"} or name == "dalle_bart")  # its keys of the text stay
    assert found.dtype == jnp.float32
    error = float(jnp.abs(found - exact).max())
    assert 0 < error < 0.02 * float(jnp.abs(exact).max())


@pytest.mark.parametrize("reduced", [Reduced(weights="int8"), Reduced(cache="bfloat16"), Reduced("int8", "bfloat16")])
def test_greedy_codes_of_a_reduced_transformer_are_sampled(reduced, folder):
    model = load_generator(folder, reduced=reduced)
    keys, settings = image_keys(jnp.zeros(2, jnp.int32), 2), Settings.of(2, temperature=0.0, guidance=2.0)
    text = jax.random.randint(jax.random.key(2), (2, 6), 1, 32)
    codes = jax.jit(lambda text: sample(model, text, keys, settings, guided=True))(text)
    assert codes.shape == (2, 2, 16)
    np.testing.assert_array_equal(codes[:, 0], codes[:, 1])


def test_a_folder_of_another_kind_refuses_both(tmp_path):
    (tmp_path / "pipeline.gin").write_text("run = @PipelineFile\nneeds.decoder = 'd'\nneeds.clip = 'c'\n")
    with pytest.raises(
        UserError, match=r"weights: expected none for .*, which is not a transformer of codes, got 'int8'"
    ):
        load_pipeline(tmp_path, reduced=Reduced(weights="int8"))
    with pytest.raises(UserError, match=r"cache: expected none for .*got 'bfloat16'"):
        load_pipeline(tmp_path, reduced=replace(Reduced(), cache="bfloat16"))
