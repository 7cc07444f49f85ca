"""Each image tokenizer from its smoke config: two steps, a checkpoint, and codes from the loaded checkpoint."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.__main__ import main
from dalle_jax.models.image_tokenizer import ImageTokenizer
from dalle_jax.pipelines.load.models import load_image_tokenizer

SMALLER = {
    "dvae": ["task.model.groups=3"],
    "vqgan": ["task.model.multipliers=(1,)", "task.model.attention_levels=()", "task.adversary.network.layers=1"],
}


@pytest.mark.parametrize("name", SMALLER)
def test_each_image_tokenizer_trains_two_steps_and_is_loaded_with_its_ema_weights(name, tmp_path):
    sets = ["trainer.evaluate_every=None", "trainer.images_every=None", "mesh.data=1", *SMALLER[name]]
    flags = [word for one in sets for word in ("--set", one)]
    assert main(["train", f"smoke/{name}.gin", "--out", str(tmp_path), *flags]) == 0
    tokenizer = load_image_tokenizer(tmp_path)
    assert isinstance(tokenizer, ImageTokenizer)
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(nnx.state(tokenizer, nnx.Param)))
    side = 32 // tokenizer.downsample
    codes = jnp.arange(side * side).reshape(1, side, side) % tokenizer.codebook_size
    graph, state = nnx.split(tokenizer)
    drawn = jax.jit(lambda state, codes: nnx.merge(graph, state).decode(codes))(state, codes)
    assert drawn.shape == (1, 32, 32, 3) and bool(jnp.isfinite(drawn).all())
