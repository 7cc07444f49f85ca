"""Weights alone: a checkpoint of them, which loads like what was trained, and a run that begins with such."""

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
from dalle_jax.train.optim.gradient_spikes import Followed
from dalle_jax.train.state import ModuleSpec, State
from dalle_jax.train.task import Task


def save_weights(out: Place, module: nnx.Module, config_text: str, files: Mapping[str, bytes]) -> None:
    """Writes ``checkpoints/0``, sealed, and ``files`` beside it; each process gives the parts that it holds.

    Raises UserError where the folder holds checkpoints already.
    """
    folder = storage.absolute(out) / FOLDER
    steps = whole_steps(folder)
    if steps:
        raise UserError(f"{out}: expected a folder without checkpoints, found those of steps {steps}; give another")
    params, others = ModuleSpec.of(module).split(module)
    zero = jnp.zeros((), jnp.int32)
    state = State(zero, params, others, {}, {}, Followed.none(()), zero, zero, zero, ())
    checkpoints = Checkpoints(out, keep=1)
    try:
        checkpoints.save(0, state, Meta(config_text, "", 0, dict(files)))
    finally:
        checkpoints.close()
    for name, content in files.items():
        storage.write(out / name, content)


def with_weights(state: State, task: Task, folder: Place, layout: Layout) -> State:
    """A state of step 0 with the averaged weights of a trained model in place of its own, laid out as its own are.

    What is no parameter (a codebook, a batch norm's statistics, random keys) comes along. Raises UserError for
    another model.
    """
    module = nnx.eval_shape(lambda: task.init(nnx.Rngs(0)))
    load_params(folder, module, layout=layout)
    params, others = ModuleSpec.of(module).split(module)
    # A copy each: an average that shared its buffers with the parameters could not be donated beside them.
    average = jax.tree.map(jnp.copy, params) if state.average else {}
    return state._replace(params=params, others=others, average=average)
