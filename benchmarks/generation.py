"""Benchmark (b): sampling 4 images of 256 tokens for one text, compared with DALLE-pytorch.

The cases of the peer are: with a cache, as shipped, and with guidance.

The network is that of transformer_step.py with full attention. Both sides sample from the more likely half of the
codes. Our time ends with the codes; the peer's includes a pixel decoder of a few milliseconds. As shipped, the peer
loses its cache at guidance scale 1. With guidance and cache together, its guidance has no effect from the second token
on (docs/architecture.md), so that case compares time and not results.
"""

from harness import Case, main
from transformer_step import TEXT, network

IMAGES = 4


def generate(guidance: float, kinds: tuple[str, ...] = ("full",)):
    """Return a function that samples codes [4 256] for one text [1 64]; each call has a new seed."""
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx

    from dalle_jax.parallel.layout import jit
    from dalle_jax.sampling.autoregressive import Settings, image_keys, sample

    graph, state = nnx.split(network(kinds, gated=True))
    text = jnp.asarray(np.random.default_rng(0).integers(1, 8192, (1, TEXT)), jnp.int32)
    how = Settings.of(1, top_k=512, guidance=guidance)
    guided = guidance != 1.0

    def run(state, text, keys, how):
        return sample(nnx.merge(graph, state), text, keys, how, guided=guided)

    draw = jit(run)
    seeds = iter(range(1_000_000))

    def call() -> None:
        keys = image_keys(jnp.full(1, next(seeds), jnp.int32), IMAGES)
        draw(state, text, keys, how).block_until_ready()

    return call


CASES = {
    "cached": lambda: generate(1.0),
    "as_shipped": lambda: generate(1.0),
    "guided": lambda: generate(3.0),
    "mix": lambda: generate(1.0, ("row", "column", "convolutional")),
}

if __name__ == "__main__":
    main(
        "generation",
        __file__,
        "peer_generation.py",
        [
            Case("cached", "4 images, the peer's cache forced on", least=4.5, aim=5.0, rounds=15),
            Case(
                "as_shipped", "4 images, as the peer ships it", least=40.0, aim=40.0, calls=(3, 1), rounds=2, warm_up=0
            ),
            Case("guided", "4 images, guided", least=2.75, aim=4.0, rounds=3),
            Case(
                "mix",
                "4 images, our row/column/convolutional mix",
                least=2.75,
                aim=4.0,
                peer="cached",
                rounds=3,
                note="the peer keeps full attention, since its sparse layers have no cache",
            ),
        ],
    )
