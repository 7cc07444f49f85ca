"""Small untrained networks of Karlo, with every parameter random, and a text tokenizer."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.models.clip import ClipImageConfig, ClipTextConfig, FirstEnd, TowerConfig
from dalle_jax.models.model_configs import ModelConfig, Network
from dalle_jax.models.priors.diffusion_prior import DiffusionPriorConfig
from dalle_jax.models.priors.unclip_text_projection import UnclipTextProjectionConfig
from dalle_jax.models.unet import UNetConfig
from dalle_jax.pipelines.imported.karlo_stages import KarloNetworks
from dalle_jax.text.clip_bpe import BEGIN, END, ClipBpe, ClipTokenizer

LENGTH, END_ID, EMBED = 5, 9, 6
TEXT = ClipTextConfig(10, LENGTH, TowerConfig(EMBED, 1, 2), EMBED, "quick_gelu", FirstEnd(END_ID))
PRIOR = DiffusionPriorConfig(EMBED, EMBED, LENGTH, width=8, depth=1, heads=2, unit_vectors=False)
DECODER = UNetConfig(32, (1,), 1, (0,), head_size=16, context_width=4)
PROJECTION = UnclipTextProjectionConfig(EMBED, EMBED, DECODER.context_width, DECODER.time_width, image_tokens=2)
UPSAMPLER = UNetConfig(32, (1,), 1, extra_channels=3, learned_variance=False, scale_shift=False)
IMAGE = ClipImageConfig(8, 4, TowerConfig(EMBED, 1, 2), EMBED, "quick_gelu", crop="hugging_face")
PIECES = {piece: number for number, piece in enumerate(("a", "b", "b</w>", "c</w>"), 1)}
WORDS = ClipTokenizer(
    PIECES | {BEGIN: END_ID - 1, END: END_ID}, [("z", "z")], LENGTH, ClipBpe(pad="end", text_fix="nfc")
)
"""A text tokenizer of three letters."""
CONFIGS = (TEXT, PRIOR, PROJECTION, DECODER, UPSAMPLER, UPSAMPLER, IMAGE)


def random_parameters(config: ModelConfig[Network], seed: int) -> Network:
    """Build a network with all parameters from N(0, 0.2^2), biases and scales included."""
    graph, state = nnx.split(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))))
    rng = np.random.default_rng(seed)
    return nnx.merge(
        graph, jax.tree.map(lambda leaf: jnp.asarray(0.2 * rng.standard_normal(leaf.shape, np.float32)), state)
    )


def small_karlo() -> KarloNetworks:
    """Create the networks."""
    return KarloNetworks(*(random_parameters(config, seed) for seed, config in enumerate(CONFIGS)))
