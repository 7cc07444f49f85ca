"""The dtype in which devices sum gradients, read from the collectives of the compiled step.

A CPU sums bfloat16 in float32, and marks the promoted collectives.
"""

import math
import re
from dataclasses import is_dataclass, replace
from typing import Any

import jax
import pytest

from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.train.compiled import CompiledTask
from dalle_jax.train.optim.schedules import ConstantRate
from dalle_jax.train.trainer import Trainer
from tests.parallel.test_sharded_tasks import MODELS, ONLY_SLOW, ROWS, task_of

COLLECTIVE = re.compile(r"= (.*?) (?:all-reduce|reduce-scatter)\(.*to_apply=%([\w.\-]+)")


def summed(text: str) -> dict[str, int]:
    """Count the values that the collectives of a compiled program sum, by dtype."""
    found: dict[str, int] = {}
    for shapes, computation in COLLECTIVE.findall(text):
        for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
            name = "bf16" if "promoted" in computation else dtype
            found[name] = found.get(name, 0) + math.prod(int(size) for size in shape.split(",") if size)
    return found


def in_bfloat16(model: Any) -> Any:
    """Return the config of a network that computes in bfloat16; a UNet's config may be a part of it."""
    if hasattr(model, "dtype"):
        return replace(model, dtype="bfloat16")
    return replace(model, unet=replace(model.unet, dtype="bfloat16"))


def compiled(kind: str) -> tuple[CompiledTask, str]:
    """Compile the train step of a task in bfloat16, on eight devices with replicated parameters."""
    task = task_of(kind)
    model = in_bfloat16(task.config.model)
    if hasattr(model, "scan"):  # a collective in a loop is counted once, not per layer
        model = replace(model, scan=False)
    config = replace(task.config, model=model)
    task = replace(task, config=config) if is_dataclass(task) else type(task)(config)
    layout = Layout(make_mesh(Mesh(8, 1, 1)), Rules())
    compiled_task = CompiledTask(task, Trainer(steps=1, schedule=ConstantRate(1e-3)), layout)
    spec = task.batch_spec(ROWS)
    lies = layout.batch_shardings(spec)
    batch = {name: jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=lies[name]) for name, one in spec.items()}
    lowered = compiled_task._step.lower(
        compiled_task.state_spec.target(), compiled_task._frozen, batch, compiled_task._key
    )
    return compiled_task, lowered.compile(compiler_options={"xla_allow_excess_precision": False}).as_text()


@pytest.mark.parametrize(
    "kind", ["tokenizer", *(pytest.param(one, marks=[pytest.mark.slow] * (one in ONLY_SLOW)) for one in MODELS)]
)
def test_float32_gradients_are_never_summed_in_less(kind):
    compiled_task, text = compiled(kind)
    found = summed(text)
    shapes = {name: one.shape for name, one in compiled_task.state_spec.abstract.learned.params.items()}
    # The MLPs over code vectors have no batch axis: devices sum the gradient of the table that they compute.
    alone = ("codes.read", "codes.predicted", "features.")
    parameters = sum(math.prod(shape) for name, shape in shapes.items() if not name.startswith(alone))
    assert "bf16" not in found
    assert found["f32"] >= parameters
