"""Checkpoints of weights alone, and new runs that start from the weights of another model."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.parallel.layout import Layout
from dalle_jax.storage import Place
from dalle_jax.train.checkpoints.checkpoints import FOLDER, Checkpoints, Meta, load_params
from dalle_jax.train.checkpoints.recovery import whole_steps
from dalle_jax.train.optim.gradient_spikes import RunningNorms
from dalle_jax.train.state import Counted, Learned, ModuleSpec, Remembered, State
from dalle_jax.train.task import ExtendsTrained, Task


def save_weights(out: Place, module: nnx.Module, config_text: str, files: Mapping[str, bytes]) -> None:
    """Write ``files`` into the folder ``out``, then the weights as the checkpoint ``checkpoints/0``, with checksums.

    The checkpoint comes last, so a folder with one is complete. Each process writes the shards that it holds. Raise
    UserError if the folder has checkpoints already.
    """
    folder = storage.absolute(out) / FOLDER
    steps = whole_steps(folder)
    if steps:
        raise UserError(
            f"{out}: expected a folder without checkpoints, got checkpoints of steps {steps}; give a different one"
        )
    params, non_params = ModuleSpec.of(module).split(module)
    learned = Learned(params, non_params, {}, {})
    state = State(learned, Counted.zero(), Remembered(RunningNorms.none(()), ()))
    for name, content in files.items():
        storage.write(out / name, content)
    checkpoints = Checkpoints(out, keep=1)
    try:
        checkpoints.save(0, state, Meta(config_text, "", 0, dict(files)))
    finally:
        checkpoints.close()


def with_weights(state: State, task: Task, folder: Place, layout: Layout) -> State:
    """Return a state of step 0 with the EMA weights of a trained model, sharded by ``layout``.

    Variables that are not parameters (a codebook, batch statistics, random keys) are loaded too. A smaller model is
    extended if the task can (``ExtendsTrained``). Raise UserError if the folder holds a different model.
    """
    smaller = task.smaller(folder) if isinstance(task, ExtendsTrained) else None
    started: Task = task if smaller is None else smaller
    module = nnx.eval_shape(lambda: started.init(nnx.Rngs(0)))
    load_params(folder, module, layout=layout)
    if isinstance(task, ExtendsTrained) and smaller is not None:
        module = task.extended(module)
    params, non_params = ModuleSpec.of(module).split(module)
    params = {name: jax.device_put(value, state.learned.params[name].sharding) for name, value in params.items()}
    # A copy, since parameters and EMA could not both be donated if they shared buffers.
    ema_params = jax.tree.map(jnp.copy, params) if state.learned.ema_params else {}
    learned = state.learned._replace(params=params, non_params=non_params, ema_params=ema_params)
    return state._replace(learned=learned)
