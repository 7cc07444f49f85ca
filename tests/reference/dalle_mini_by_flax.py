"""Run by the Python of another environment, which has dalle-mini 0.1.5 and a Flax of its time: its transformer.

new CONFIG.json FOLDER OUT.npz      a new DalleBart, saved as it is published, and what it makes of captions and codes
flags OUT.npz                       the names of all flags that its config takes, with their defaults as JSON
load FOLDER IN.npz OUT.npz          the DalleBart of config.json and flax_model.msgpack
"""

import inspect
import json
import pathlib
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization


def parts():
    """The config and module of dalle_mini, whose package asks for names that this jax has no more, and for wandb."""
    jnp.DeviceArray = jax.Array
    sys.modules["wandb"] = types.ModuleType("wandb")
    for name in ("dalle_mini", "dalle_mini.model"):  # their __init__ import what is not needed here
        package = types.ModuleType(name)
        places = [pathlib.Path(place) / name.replace(".", "/") for place in sys.path]
        package.__path__ = [str(place) for place in places if place.is_dir()]
        sys.modules[name] = package
    from dalle_mini.model.configuration import DalleBartConfig
    from dalle_mini.model.modeling import FlaxBartForConditionalGenerationModule

    return DalleBartConfig, FlaxBartForConditionalGenerationModule


def arguments(config, text, codes):
    """Captions [B T] padded with 1, and codes [B I] which begin with the start."""
    places = [np.broadcast_to(np.arange(rows.shape[1]), rows.shape) for rows in (text, codes)]
    return {
        "input_ids": text,
        "attention_mask": (text != 1).astype(np.int32),
        "decoder_input_ids": codes,
        "decoder_attention_mask": np.ones_like(codes),
        "position_ids": places[0],
        "decoder_position_ids": places[1],
    }


def outputs(config, module, tree, text, codes, out):
    with jax.default_matmul_precision("float32"):
        found = module.apply({"params": tree}, **arguments(config, text, codes))
    np.savez(out, text=text, codes=codes, logits=found.logits, encoded=found.encoder_last_hidden_state)


def new(file, folder, out):
    Config, Module = parts()
    config = Config(**json.loads(pathlib.Path(file).read_text()))
    module, random = Module(config), np.random.default_rng(0)
    text = random.integers(3, config.encoder_vocab_size, (2, config.max_text_length)).astype(np.int32)
    text[0, 5:], text[1, 2:] = 1, 1
    codes = random.integers(0, config.image_vocab_size, (2, config.image_length)).astype(np.int32)
    codes[:, 0] = config.decoder_start_token_id
    tree = module.init(jax.random.PRNGKey(0), **arguments(config, text, codes))["params"]

    def noisy(path, leaf):
        name = path[-1].key
        scale, mean = (0.3, 1.0 if name == "scale" else 0.0) if name in ("scale", "bias") else (0.2, 0.0)
        return random.normal(mean, scale, leaf.shape).astype(np.float32)

    tree = jax.tree_util.tree_map_with_path(noisy, tree)
    config.save_pretrained(folder)
    (pathlib.Path(folder) / "flax_model.msgpack").write_bytes(serialization.to_bytes(tree))
    outputs(config, module, tree, text, codes, out)


def load(folder, given, out):
    Config, Module = parts()
    config = Config(**json.loads((pathlib.Path(folder) / "config.json").read_text()))
    module, rows = Module(config), np.load(given)
    text, codes = rows["text"], rows["codes"]
    shapes = jax.eval_shape(lambda: module.init(jax.random.PRNGKey(0), **arguments(config, text, codes))["params"])
    tree = serialization.msgpack_restore((pathlib.Path(folder) / "flax_model.msgpack").read_bytes())
    assert jax.tree.map(lambda x: x.shape, tree) == jax.tree.map(lambda x: x.shape, dict(shapes))
    outputs(config, module, tree, text, codes, out)


def flags(out):
    Config, _ = parts()
    given = inspect.signature(Config.__init__).parameters
    found = {name: one.default for name, one in given.items() if one.default is not inspect.Parameter.empty}
    written = json.loads(Config().to_json_string(use_diff=False))
    np.savez(out, constructor=json.dumps(found), written=json.dumps(written))


if __name__ == "__main__":
    {"flags": flags, "new": new, "load": load}[sys.argv[1]](*sys.argv[2:])
