"""Benchmark (a): a training step of the transformer, compared with DALLE-pytorch's.

The cases are full attention, and a mix of row, column and convolutional attention. Both sides have width 256, depth 8,
8 heads of 64, 64 text and 256 image tokens, vocabularies 8192 and 1024, batch 8, float32 and Adam. Their layers do the
same work per token: ours has the peer's gated MLP (hidden width 1024). Their output heads differ: the peer computes all
9,280 logits at every position and masks them; ours has a head for text and one for codes. The ``_plain`` case is our
default MLP, with two products where the gated one has three.
"""

from harness import Case, main

BATCH, TEXT, CODES = 8, 64, 256
MIX = ("row", "column", "convolutional")


def network(kinds: tuple[str, ...], gated: bool):
    """Create the transformer of this benchmark and of generation.py, from seed 0."""
    from flax import nnx

    from dalle_jax.models.dalle import DalleConfig

    config = DalleConfig(
        text_vocab=8192, text_length=TEXT, codebook_size=1024, grid=(16, 16), width=256, depth=8, heads=8,
        gated=gated, attention=kinds, kernel=5,
    )  # fmt: skip
    return config.build(nnx.Rngs(0))


def step(kinds: tuple[str, ...], gated: bool = True):
    """Return a function that makes one update, always from the same text [8 64] and codes [8 256].

    The kinds of attention in ``kinds`` repeat over the layers.
    """
    import jax
    import numpy as np
    import optax
    from flax import nnx

    from dalle_jax.losses.cross_entropy import cross_entropy, dalle_loss
    from dalle_jax.parallel.layout import jit

    graph, state = nnx.split(network(kinds, gated))
    optimizer = optax.adam(3e-4)
    random = np.random.default_rng(0)
    text = jax.device_put(random.integers(1, 8192, (BATCH, TEXT)).astype(np.int32))
    codes = jax.device_put(random.integers(0, 1024, (BATCH, CODES)).astype(np.int32))

    def loss(state, text, codes):
        logits = nnx.merge(graph, state)(text, codes)
        return dalle_loss(cross_entropy(logits.text, text), cross_entropy(logits.image, codes))

    def update(state, moments, text, codes):
        value, gradients = jax.value_and_grad(loss)(state, text, codes)
        updates, moments = optimizer.update(gradients, moments, state)
        return optax.apply_updates(state, updates), moments, value

    compiled = jit(update, donate_argnums=(0, 1))
    held = [state, jit(optimizer.init)(state)]

    def call() -> None:
        held[0], held[1], value = compiled(held[0], held[1], text, codes)
        value.block_until_ready()

    return call


CASES = {
    "full": lambda: step(("full",)),
    "mix": lambda: step(MIX),
    "full_plain": lambda: step(("full",), gated=False),
}

if __name__ == "__main__":
    main(
        "transformer_step",
        __file__,
        "peer_transformer_step.py",
        [
            Case("full", "training step, full attention", least=1.3, aim=1.5),
            Case("mix", "training step, row/column/convolutional", least=1.5, aim=1.5),
            Case(
                "full_plain",
                "training step, full attention, plain MLP",
                least=1.3,
                aim=1.5,
                peer="full",
                note="our default MLP has two products, the peer's gated one three",
            ),
        ],
    )
