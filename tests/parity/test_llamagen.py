"""LlamaGen's transformers by class and by caption: the rotary table, logits, steps through the cache."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from generator_fixtures import arrays, assert_close, compiled, filled, fixture_folder, stepwise

from dalle_jax.layers.rotary import grid_rotary_table
from dalle_jax.models.llamagen import LlamaGen
from dalle_jax.pretrained.llamagen import config_of, rules_of, tensors_of


@pytest.fixture(scope="module", params=["llamagen_gpt_c2i", "llamagen_gpt_t2i"])
def loaded(request):
    folder = fixture_folder(request.param)
    sizes = json.loads((folder / "config.json").read_text())
    side = int(sizes["block_size"] ** 0.5)
    length = sizes["cls_token_num"] if sizes["model_type"] == "t2i" else None
    tensors = tensors_of(folder / "model.pt", caption_length=length)
    shapes = {name: one.shape for name, one in tensors.stored.items()}
    config = config_of(shapes, str(folder), heads=sizes["n_head"], grid=(side, side))
    model = filled(LlamaGen, config, tensors, rules_of(config))
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
