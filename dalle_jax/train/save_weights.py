"""A checkpoint of weights alone, such as training leaves: what was imported then loads like what was trained."""

from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.storage import Place
from dalle_jax.train.checkpoint import FOLDER, Checkpoints, Meta
from dalle_jax.train.recovery import whole_steps
from dalle_jax.train.state import Blueprint, State


def save_weights(out: Place, module: nnx.Module, config_text: str, files: Mapping[str, bytes]) -> None:
    """Writes ``checkpoints/0``, sealed, and ``files`` beside it; each process gives the parts that it holds.

    Raises UserError where the folder holds checkpoints already.
    """
    folder = storage.absolute(out) / FOLDER
    steps = whole_steps(folder)
    if steps:
        raise UserError(f"{out}: expected a folder without checkpoints, found those of steps {steps}; give another")
    params, others = Blueprint.of(module).split(module)
    zero = jnp.zeros((), jnp.int32)
    state = State(zero, params, others, {}, {}, {}, zero, zero, zero, ())
    checkpoints = Checkpoints(out, keep=1)
    try:
        checkpoints.save(0, state, Meta(config_text, "", 0, dict(files)))
    finally:
        checkpoints.close()
    for name, content in files.items():
        storage.write(out / name, content)
