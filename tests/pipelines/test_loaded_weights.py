"""Weights of pipelines: restored into their shards, in the dtype in which a network multiplies them."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.models.code_generator import compute_dtypes
from dalle_jax.models.dalle import Dalle, DalleConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.pipelines.load.models import ModelFile, load_generator, load_network
from dalle_jax.pipelines.load.pipeline import load_pipeline
from dalle_jax.train.checkpoints.save_weights import save_weights
from tests.command_processes import ROOT
from tests.sharded_sampling import prompts_of
from tests.small_generators import forward

CONFIG = DalleConfig(
    text_vocab=32, text_length=6, codebook_size=16, grid=(4, 4), width=16, depth=2, heads=2, head_size=8, code_width=4,
    attention=("row", "full"), dtype="bfloat16",
)  # fmt: skip


def saved(folder: Path, config: DalleConfig = CONFIG) -> Path:
    """Write a random transformer as a model folder."""
    model = config.build(nnx.Rngs(0))
    model.set_code_vectors(jax.random.normal(jax.random.key(1), (config.codebook_size, config.code_width)))
    text = render(ModelFile(model=config))
    save_weights(folder, model, text, {"model.gin": text.encode()})
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("weights") / "model")


def in_float32(folder: Path) -> Dalle:
    """Load a transformer with parameters as they are trained."""
    model = load_network(folder, (DalleConfig,))
    model.fold_code_vectors()
    return model


def test_matrices_are_loaded_in_the_compute_dtype_and_nothing_else_is(folder):
    model = load_generator(folder)
    dtypes = {".".join(map(str, path)): leaf.get_value().dtype for path, leaf in nnx.to_flat_state(nnx.state(model))}
    short = {name for name, dtype in dtypes.items() if dtype == jnp.bfloat16}
    assert short == compute_dtypes(model).keys()
    assert {"stack.blocks.0.attention.qkv.kernel", "codes.head.kernel", "text_embedding.table"} <= short
    assert {"code_positions.rows.table", "codes.head.bias", "norm.scale", "bos"} <= dtypes.keys() - short


def decoded(model: Dalle):
    """Return a jitted function from a prompt and code 0 to the logits of code 1."""
    graph, state = nnx.split(model)

    @jax.jit
    def run(text, previous, index):
        network = nnx.merge(graph, state)
        cache = network.grow(network.prefill(text, 1)[1], 4)
        return network.decode(previous, index, cache)[0]

    return run


def test_logits_and_cached_steps_are_those_of_float32_parameters_to_the_bit(folder):
    loaded, trained = load_generator(folder), in_float32(folder)
    text, codes = jnp.asarray(prompts_of(loaded, 4)), jax.random.randint(jax.random.key(2), (4, 16), 0, 16)
    for ours, theirs in zip(forward(loaded)(text, codes), forward(trained)(text, codes), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    step, index = codes[:, :1], jnp.int32(1)
    ours, theirs = (decoded(model)(text, step, index) for model in (loaded, trained))
    np.testing.assert_array_equal(ours, theirs)


def test_every_weight_is_loaded_into_its_shards(folder):
    layout = Layout(make_mesh(Mesh(1, 4, 2)), Rules())
    model = load_generator(folder, layout)
    state = nnx.state(model)
    leaves, shardings = jax.tree.leaves(state), jax.tree.leaves(layout.state_shardings(state))
    for leaf, sharding in zip(leaves, shardings, strict=True):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    whole = sum(leaf.nbytes for leaf in leaves)
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    assert held < 0.25 * whole  # an eighth, and the small arrays that every device holds


GROWTH = """
import json, re, sys
from pathlib import Path
import jax
from flax import nnx
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.pipelines.load.models import load_generator
jax.devices()
def memory(name):
    return 1024 * int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
before = memory("VmRSS")
model = load_generator(Path(sys.argv[1]), Layout(make_mesh(Mesh(1, 8, 1)), Rules()))
leaves = jax.block_until_ready(jax.tree.leaves(nnx.state(model)))
alive = sum(array.nbytes for array in jax.live_arrays())
print(json.dumps({
    "alive": alive,
    "grown": memory("VmHWM") - before,
    "whole": sum(leaf.nbytes for leaf in leaves),
    "held": max(sum(leaf.addressable_shards[device].data.nbytes for leaf in leaves) for device in range(8)),
}))
"""


@pytest.mark.slow
def test_a_model_of_200_megabytes_is_never_whole_on_a_device_nor_twice_on_the_host(tmp_path):
    """On CPUs the devices' memory is the host's: eight copies would be 1.6 GB, and the shards together are 200 MB."""
    config = DalleConfig(
        text_vocab=1024, text_length=64, codebook_size=8192, grid=(16, 16), width=1024, depth=3, heads=16, scan=True
    )
    model = config.build(nnx.Rngs(0))
    text = render(ModelFile(model=config))
    save_weights(tmp_path / "model", model, text, {"model.gin": text.encode()})
    del model
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu", "PATH": ""}
    command = [sys.executable, "-c", GROWTH, str(tmp_path / "model")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert 190e6 < found["whole"] < 300e6
    assert found["held"] < 1.05 * found["whole"] / 8
    assert found["alive"] < 1.05 * found["whole"]
    assert found["grown"] < 2.5 * found["whole"]


def test_a_batch_that_the_devices_cannot_share_is_one_line(tmp_path):
    layout = Layout(make_mesh(Mesh(8, 1, 1)), Rules())
    says = r"batch: expected a multiple of 8, .* got 12; the nearest are 8 and 16"
    with pytest.raises(UserError, match=says) as error:
        load_pipeline(tmp_path, batch=12, layout=layout)
    assert "\n" not in str(error.value)
