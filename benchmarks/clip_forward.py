"""Benchmark (f): the forward pass of CLIP ViT-B/32, compared with transformers' CLIPModel.

Equal: 16 images of 224 px and 16 texts of 77 tokens, float32, random weights, QuickGELU. The case of both also computes
the 16 x 16 similarities.
Different: our images have values in [0, 1] and are normalised in the call, the peer's are normalised before it. We
L2-normalise the vectors in each case, the peer only in the case of both.
"""

from collections.abc import Callable

from harness import Case, main

BATCH = 16


def forward(images: bool, texts: bool) -> Callable[[], None]:
    """Return a function that embeds 16 images, 16 texts, or both and compares them."""
    import jax
    import numpy as np
    from flax import nnx

    from dalle_jax.parallel.layout import jit
    from dalle_jax.pretrained.publishers.clip_presets import PRESETS

    config = PRESETS["ViT-B/32"]
    graph, state = nnx.split(config.build(nnx.Rngs(0)))
    random = np.random.default_rng(0)
    pixels = jax.device_put(random.random((BATCH, config.image_size, config.image_size, 3), np.float32))
    ids = random.integers(1, config.vocab_size - 2, (BATCH, config.text_length)).astype(np.int32)
    ids[:, -1] = config.vocab_size - 1
    ids = jax.device_put(ids)

    def run(state, pixels, ids):
        clip = nnx.merge(graph, state)
        vectors = ([clip.encode_image(pixels)] if images else []) + ([clip.encode_text(ids)] if texts else [])
        return (*vectors, clip.logit_scale * vectors[0] @ vectors[1].T) if images and texts else vectors

    compiled = jit(run)
    return lambda: jax.block_until_ready(compiled(state, pixels, ids))


CASES = {
    "both": lambda: forward(images=True, texts=True),
    "images": lambda: forward(images=True, texts=False),
    "texts": lambda: forward(images=False, texts=True),
}

if __name__ == "__main__":
    main(
        "clip_forward",
        __file__,
        "peer_clip_forward.py",
        [
            Case("both", "CLIP ViT-B/32, 16 images and 16 texts", least=0.85, aim=1.0, calls=(2, 2)),
            Case("images", "CLIP ViT-B/32, 16 images", least=0.85, aim=1.0, calls=(4, 4)),
            Case("texts", "CLIP ViT-B/32, 16 texts", least=0.85, aim=1.0, calls=(4, 4)),
        ],
    )
