"""Benchmark (c): a training step of an image tokenizer at 64 px, compared with DALLE-pytorch's DiscreteVAE.

Equal: 64x64 images, batch 8, two 4x4 convolutions of stride 2 to 16x16 codes, hidden width 64, on either side two
residual blocks (3x3, 3x3, 1x1), two transposed convolutions, a codebook of 512 x 64, mean squared error, Adam.
Different: ours has nearest codes with a moving average, commitment and revival, the peer a Gumbel-softmax over 512
maps. Ours has 64 features before the codes instead of 512, and a 3x3 convolution after them instead of a 1x1.
"""

from harness import Case, main

SIZE, BATCH = 64, 8
NOTE = "VQ-VAE with EMA codebook against Gumbel-softmax dVAE at equal layout (what differs: tokenizer_step.py)"


def training_step():
    """Return a function that makes one update, always from the same images [8 64 64 3] in [0, 1]."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from dalle_jax.losses.quantization import reconstruction
    from dalle_jax.models.vqvae import VqvaeConfig
    from dalle_jax.parallel.layout import jit

    config = VqvaeConfig(
        downsample=4, width=64, blocks=2, codebook_size=512, code_width=64, block_kernels=(3, 3, 1), stem="conv"
    )
    graph, parameters, rest = nnx.split(config.build(nnx.Rngs(0)), nnx.Param, ...)
    optimizer = optax.adam(1e-3)
    state = parameters, rest, optimizer.init(parameters)
    pixels = jax.random.uniform(jax.random.key(0), (BATCH, SIZE, SIZE, 3))

    @jit
    def step(state, pixels, key):
        parameters, rest, moments = state

        def loss(parameters):
            model = nnx.merge(graph, parameters, rest, copy=True)
            output = model(pixels)
            model.quantizer.follow(output.assignments, key)
            value = reconstruction(pixels, output.reconstruction, absolute=0.0, squared=1.0) + output.commitment
            return value, nnx.state(model, nnx.Not(nnx.Param))

        (value, rest), gradients = jax.value_and_grad(loss, has_aux=True)(parameters)
        updates, moments = optimizer.update(gradients, moments, parameters)
        return (jax.tree.map(jnp.add, parameters, updates), rest, moments), value

    key = jax.random.key(1)

    def call() -> None:
        nonlocal state
        state, value = step(state, pixels, key)
        jax.block_until_ready((state, value))

    return call


CASES = {"training_step": training_step}

if __name__ == "__main__":
    main(
        "tokenizer_step",
        __file__,
        "peer_tokenizer_step.py",
        [Case("training_step", "tokenizer step, 64 px, batch 8", least=0.7, aim=1.0, note=NOTE)],
    )
