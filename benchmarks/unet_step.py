"""Benchmark (d): the UNet of DALL·E 2's decoder, a training step and sampling, compared with diffusers.

Equal: 32x32 images, batch 8, widths 64, 128 and 192, one residual block a level, attention at 16 and 8 px with heads of
32 and a context of 12 tokens of width 64, scale-shift norms, residual blocks that change the size, 3 output channels,
mean squared error of the noise, Adam; sampling is 8 steps of DDIM without guidance.
Different: diffusers chooses timesteps by ``leading`` spacing, ours by rounding, which costs the same.
"""

from harness import Case, main

SIZE, BATCH, STEPS, TOKENS = 32, 8, 8, 12
NOTE = "the same network as diffusers' UNet2DConditionModel (unet_step.py)"


def network():
    """Return the network and its inputs: images, times, context and vector."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from dalle_jax.models.unet import UNetConfig

    config = UNetConfig(
        width=64, multipliers=(1, 2, 3), blocks=1, attention_levels=(1, 2), head_size=32, context_width=64,
        learned_variance=False,
    )  # fmt: skip
    keys = jax.random.split(jax.random.key(0), 4)
    inputs = (
        jax.random.normal(keys[0], (BATCH, SIZE, SIZE, 3)), jax.random.randint(keys[1], (BATCH,), 0, 1000),
        jax.random.normal(keys[2], (BATCH, TOKENS, config.context_width)),
        jax.random.normal(keys[3], (BATCH, config.time_width)),
    )  # fmt: skip
    return config.build(nnx.Rngs(0)), inputs, jnp.zeros_like(inputs[0])


def training_step():
    """Return a function that makes one update, always from the same noised images."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from dalle_jax.models.unet import UNetContext
    from dalle_jax.parallel.layout import jit

    unet, inputs, target = network()
    graph, parameters = nnx.split(unet)
    optimizer = optax.adam(1e-4)
    state = parameters, optimizer.init(parameters)

    @jit
    def step(state, x, times, context, vector):
        parameters, moments = state

        def loss(parameters):
            predicted = nnx.merge(graph, parameters)(x, times, vector=vector, context=UNetContext(context))
            return jnp.mean(jnp.square(predicted - target))

        value, gradients = jax.value_and_grad(loss)(parameters)
        updates, moments = optimizer.update(gradients, moments, parameters)
        return (jax.tree.map(jnp.add, parameters, updates), moments), value

    def call() -> None:
        nonlocal state
        state, value = step(state, *inputs)
        jax.block_until_ready((state, value))

    return call


def sampling():
    """Return a function that samples a batch of images."""
    import jax
    from flax import nnx

    from dalle_jax.diffusion.noise_schedules import CosineNoise
    from dalle_jax.diffusion.parameterization import ModelOutput, Parameterization
    from dalle_jax.diffusion.process import DiscreteProcess
    from dalle_jax.diffusion.samplers.ddim import Ddim
    from dalle_jax.diffusion.samplers.sampler import KeyedNoise
    from dalle_jax.diffusion.spacing import RoundedSteps
    from dalle_jax.models.unet import UNetContext
    from dalle_jax.parallel.layout import jit

    unet, (start, _, context, vector), _ = network()
    graph, parameters = nnx.split(unet)
    levels, keys = DiscreteProcess.of(CosineNoise(), RoundedSteps(STEPS)).levels, jax.random.split(jax.random.key(1), 8)

    @jit
    def sample(parameters, start, context, vector, keys):
        network = nnx.merge(graph, parameters)

        def denoise(x, level):
            return ModelOutput(network(x, level.time, vector=vector, context=UNetContext(context)))

        return Ddim().sample(denoise, levels, start, KeyedNoise(keys), Parameterization("noise"))

    return lambda: jax.block_until_ready(sample(parameters, start, context, vector, keys))


CASES = {"training_step": training_step, "sampling": sampling}

if __name__ == "__main__":
    main(
        "unet_step",
        __file__,
        "peer_unet_step.py",
        [
            Case("training_step", "UNet's training step, 32 px, batch 8", least=0.6, aim=1.0, note=NOTE),
            Case("sampling", "8 steps of DDIM, 32 px, batch 8", least=0.6, aim=1.0, note=NOTE),
        ],
    )
