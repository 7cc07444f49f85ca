"""The splash kernel in one block of each kind of attention, compiled for a TPU slice ahead of time and not run.

Each program compiles in its own process, since libtpu reads its settings from the environment when it is loaded.
"""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu, which compiles for TPUs"
)

PROGRAM = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh
from dalle_jax.models.dalle import Dalle, DalleConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.rules import Rules

shape, remat, backend = json.loads(sys.argv[1])
topology = topologies.get_topology_desc("v5e:2x2", platform="tpu", chips_per_host_bounds=[2, 2, 1])
mesh = Mesh(np.array(topology.devices).reshape(shape), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
layout = Layout(mesh, Rules())
config = DalleConfig(
    text_vocab=256, text_length=256, codebook_size=256, grid=(32, 32), width=256, depth=4, heads=4, head_size=64,
    attention=("full", "row", "column", "convolutional"), dtype="bfloat16", remat=remat, backend=backend,
)
graph, state = nnx.split(nnx.eval_shape(lambda: Dalle(config, rngs=nnx.Rngs(0))))
shardings = layout.state_shardings(state)
batch = {"text": jax.ShapeDtypeStruct((4, 256), jnp.int32), "codes": jax.ShapeDtypeStruct((4, 1024), jnp.int32)}

def loss(state, batch):
    logits = nnx.merge(graph, state)(batch["text"], batch["codes"])
    return (logits.image**2).mean() + (logits.text**2).mean()

step = layout.jit(jax.grad(loss), in_shardings=(shardings, layout.batch_shardings(batch)), out_shardings=shardings)
compiled = step.lower(state, batch).compile()
lines = [line for line in compiled.as_text().splitlines() if "tpu_custom_call" in line and " = " in line]
calls = [line.split(" = ", 1)[1] for line in lines]
print(json.dumps({"calls": calls, "scratch": compiled.memory_analysis().temp_size_in_bytes}))
"""


def compiled(shape, remat="none", backend="auto"):
    """Compile a training step for v5e:2x2; return its kernel calls as lines of HLO, and its bytes of scratch memory."""
    settings = {
        "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_LOG_DIR": "disabled",
    }  # fmt: skip
    arguments = [sys.executable, "-c", PROGRAM, json.dumps([shape, remat, backend])]
    done = subprocess.run(arguments, env=os.environ | settings, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("shape", "rows", "heads"), [([1, 2, 2], 2, 2), ([1, 1, 4], 4, 1), ([4, 1, 1], 1, 4)])
def test_each_device_runs_the_kernels_on_its_own_rows_and_heads(shape, rows, heads):
    calls = compiled(shape, backend="splash")["calls"]
    assert len(calls) == 8  # a forward and a fused backward kernel for each of four layers
    whole = f"bf16[{rows},{heads},1280,64]"
    forms = (whole, whole.replace("[1,", "["))  # XLA drops a dimension of size 1
    assert all(any(form in call for form in forms) for call in calls), calls


def test_the_forward_kernel_runs_once_with_remat_of_attention_and_twice_with_full():
    mesh = [1, 2, 2]
    assert len(compiled(mesh, "attention")["calls"]) == 8
    assert len(compiled(mesh, "full")["calls"]) == 12


def test_the_kernel_needs_less_scratch_memory_than_dense_attention():
    mesh = [1, 2, 2]
    assert compiled(mesh, backend="splash")["scratch"] < compiled(mesh, backend="xla")["scratch"]
