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


def run_program(program, arguments):
    """Run a program that compiles for v5e:2x2, and return the JSON of its last line."""
    settings = {
        "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_LOG_DIR": "disabled",
    }  # fmt: skip
    command = [sys.executable, "-c", program, json.dumps(arguments)]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def compiled(shape, remat="none", backend="auto"):
    """Compile a training step for v5e:2x2; return its kernel calls as lines of HLO, and its bytes of scratch memory."""
    return run_program(PROGRAM, [shape, remat, backend])


PASS = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh
from dalle_jax.models.code_generator import Reduced, reduce_precision
from dalle_jax.models.dalle import Dalle, DalleConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.rules import Rules
from dalle_jax.plan.hlo_text import parse

shape, kinds, scan, backend = json.loads(sys.argv[1])
topology = topologies.get_topology_desc("v5e:2x2", platform="tpu", chips_per_host_bounds=[2, 2, 1])
mesh = Mesh(np.array(topology.devices).reshape(shape), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
layout, rows, window = Layout(mesh, Rules()), 8, 4
config = DalleConfig(
    text_vocab=256, text_length=64, codebook_size=256, grid=(32, 32), width=512, depth=2 * len(kinds), heads=8,
    head_size=64, attention=tuple(kinds), dtype="bfloat16", scan=scan,
)
def build():
    model = Dalle(config, rngs=nnx.Rngs(0))
    reduce_precision(model, Reduced(attention=backend))
    return model
graph, state = nnx.split(nnx.eval_shape(build))
shardings = layout.state_shardings(state)

def run(state, text):
    model = nnx.merge(graph, state)
    cache = model.slots(model.prefill(text, 1)[1], window, rows)
    def one_pass(carry, _):
        codes, at, cache = carry
        logits, cache = model.decode_window(codes, at, cache)
        codes = logits.argmax(-1).astype(jnp.int32)
        return (codes, at + 1 + codes[:, 0] % window, cache), None
    start = (jnp.zeros((rows, window), jnp.int32), jnp.ones(rows, jnp.int32), cache)
    return jax.lax.scan(one_pass, start, length=9)[0][0]

step = layout.jit(run, in_shardings=(shardings, layout.replicated))
text = step.lower(state, jax.ShapeDtypeStruct((rows, 64), jnp.int32)).compile().as_text()
computations, _ = parse(text)
loop = max((one for one in computations.values() if any(i.op == "custom-call" for i in one)), key=len)
calls = [(one.name.split(".")[0], one.type) for one in loop if "tpu_custom_call" in one.rest]
copies = [one.type for one in loop if one.op == "copy"]
print(json.dumps({"calls": calls, "copies": copies}))
"""


@pytest.mark.parametrize(("shape", "scan"), [([1, 1, 4], True), ([2, 1, 2], False)])
def test_a_pass_of_slots_writes_and_reads_the_caches_in_place_on_each_device(shape, scan):
    kinds = ["full", "column", "convolutional"]
    found = run_program(PASS, [shape, kinds, scan, "pallas"])
    rows, heads = 8 // shape[0], 4 // shape[2]  # pairs of heads are packed
    names = [name for name, _ in found["calls"]]
    assert names.count("write_codes") == names.count("decode_attention") == (3 if scan else 6)
    caches = [kind for name, kind in found["calls"] if name == "write_codes"]
    assert all(f"bf16[{rows},{2 if scan else 1},{heads}," in kind for kind in caches), caches
    full_room = "1040,128]"
    assert not [kind for kind in found["copies"] if full_room in kind], found["copies"]


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
