"""LlamaGen's transformers by class and by caption: the rotary table, logits, steps through the cache."""

import jax.numpy as jnp
import numpy as np
import pytest
from fixtures import imported
from generator_fixtures import arrays, assert_close, compiled, fixture_folder, stepwise

from dalle_jax.layers.rotary import grid_rotary_table


@pytest.fixture(scope="module", params=["llamagen_gpt_c2i", "llamagen_gpt_t2i"])
def loaded(request):
    folder = fixture_folder(request.param)
    model = imported("llamagen", folder / "model.pt")
    return folder, model, {name: jnp.asarray(value) for name, value in arrays(folder).items()}


def test_the_rotary_table(loaded):
    folder, model, io = loaded
    config = model.config
    table = grid_rotary_table(config.grid, config.width // config.heads, model.text_length)
    assert (table[: model.text_length] == 0).all()
    assert_close(table, io["rope_table"], folder)


def test_logits_of_teacher_forcing(loaded):
    folder, model, io = loaded
    ours = compiled(model, lambda model, prompts, codes: model(prompts, codes).image)(io["cond"], io["codes"])
    assert_close(ours, io["out_logits"][:, model.text_length - 1 :], folder)


def test_steps_through_the_cache(loaded):
    folder, model, io = loaded
    theirs = io["out_stepwise_logits"]
    assert_close(stepwise(model, io["cond"], np.asarray(io["codes"]), theirs.shape[1]), theirs, folder)
