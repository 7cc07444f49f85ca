"""Our prior, decoder and upsampler, exported, beside diffusers: predictions, reverse steps and training losses.

DALLE_JAX_REFERENCE names its Python, which needs torch (the CPU build) and diffusers.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from small_karlo import random_parameters

from dalle_jax.diffusion.levels import Levels, add_noise
from dalle_jax.diffusion.loss import simple_loss
from dalle_jax.diffusion.noise_schedules import CosineNoise
from dalle_jax.diffusion.parameterization import ClipX0, ModelOutput, Parameterization, split_variance
from dalle_jax.diffusion.process import DiscreteProcess
from dalle_jax.diffusion.samplers.ddpm import Ddpm
from dalle_jax.diffusion.samplers.dpm_solver import DpmSolver
from dalle_jax.diffusion.samplers.sampler import RecordedNoise
from dalle_jax.diffusion.weighting import UniformWeight
from dalle_jax.models.priors.diffusion_prior import DiffusionPriorConfig
from dalle_jax.models.priors.prior import TextCondition
from dalle_jax.models.unet import UNetConfig, UNetContext
from dalle_jax.pretrained.exporters import find_exporter
from tests.parity.fixtures import assert_close, run
from tests.parity.scheduler_rounding import RoundedDdim, RoundedDdpm
from tests.reference.live import by_reference

pytestmark = pytest.mark.reference
TOLERANCE = 1e-4
ROWS, SIDE, STEPS, TEXT, EMBED, CONTEXT = 2, 8, 4, 5, 12, 20
PRIOR = DiffusionPriorConfig(EMBED, EMBED, TEXT, width=24, depth=2, heads=3, unit_vectors=False)
DECODER = UNetConfig(32, (1, 2), 1, (1,), head_size=16, context_width=CONTEXT)
UPSAMPLER = UNetConfig(32, (1, 2), 1, extra_channels=3, learned_variance=False, scale_shift=False)
PROCESS = DiscreteProcess.of(CosineNoise())
CLIPPED, FREE = Parameterization("noise", ClipX0(1.0)), Parameterization("noise")
SAMPLERS = {
    "unclip": (RoundedDdpm("learned_range"), CLIPPED), "ddpm": (Ddpm("learned_range"), CLIPPED),
    "ddim": (RoundedDdim(0.5), FREE), "dpm": (DpmSolver(), FREE),
}  # fmt: skip
"""The sampler and the threshold of each scheduler of diffusers; two have the reference's float32 coefficients."""


def levels_of(falling: np.ndarray) -> Levels:
    """Return the levels of the timesteps that a scheduler chose, then the data."""
    kept = falling[::-1].astype(np.int64)
    bars = PROCESS.alpha_bars[kept]
    return DiscreteProcess(1 - bars / np.append(1.0, bars[:-1]), kept).levels


def last(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, 1, -1) if x.ndim > 2 else x


def live(kind: str, exporter: str, network, folder, conditions: dict[str, np.ndarray], shape: tuple[int, ...]):
    """Export a network and run diffusers on it; return the inputs and diffusers' outputs, channels last."""
    random = np.random.default_rng(5)
    names = {"start": (), "x0": (), "loss_noise": (), "noise": (STEPS,)}
    given = {name: random.normal(size=(*more, ROWS, *shape)).astype(np.float32) for name, more in names.items()}
    given |= {"loss_times": np.array([3, 700][:ROWS]), "steps": np.array(STEPS)}
    find_exporter(exporter).write(network, folder / kind)
    np.savez(folder / "in.npz", **given, **conditions)
    found = by_reference("diffusers_by_torch.py", kind, folder / kind, folder / "in.npz", folder / "out.npz")
    given["noise"] = np.stack([last(one) for one in given["noise"]])
    given |= {name: last(given[name]) for name in ("start", "x0", "loss_noise")}
    return given, {name: last(value) for name, value in found.items()}


def check(network, predict, given, found, samplers, target: str, split):
    """Compare the prediction, the reverse steps of each sampler, and the training loss."""
    times = given["loss_times"].astype(np.float32)
    assert_close(run(predict, network, given["start"], times), found["prediction"], TOLERANCE)
    level = PROCESS.level(jnp.asarray(given["loss_times"]))
    x0, noise = (jnp.asarray(given[name]) for name in ("x0", "loss_noise"))
    x = add_noise(x0, noise, level)
    output = split(jnp.asarray(run(predict, network, x, times)))
    losses = simple_loss(output, x0, noise, level, target, UniformWeight())
    for name, (sampler, form) in samplers.items():
        levels = levels_of(found[f"{name}_times"])

        def sample(network, start, noise, sampler=sampler, levels=levels, form=form):
            def denoise(x, level):
                return split(predict(network, x, level.time))

            return sampler.sample(denoise, levels, start, RecordedNoise(noise), form)

        assert_close(run(sample, network, given["start"], given["noise"]), found[f"{name}_x"], TOLERANCE)
        if name != "dpm":  # a solver for sampling
            assert_close(losses.mean(), found[f"{name}_loss"], TOLERANCE)


def test_the_exported_prior_predicts_samples_and_has_the_loss_of_diffusers(tmp_path):
    network, random = random_parameters(PRIOR, 0), np.random.default_rng(1)
    text = {
        "states": random.normal(size=(ROWS, TEXT, EMBED)).astype(np.float32),
        "vector": random.normal(size=(ROWS, EMBED)).astype(np.float32),
        "mask": np.arange(TEXT) < np.array([[3], [TEXT]]),
    }
    given, found = live("prior", "karlo-prior", network, tmp_path, text, (EMBED,))
    samplers = {"unclip": (RoundedDdpm("fixed_small"), Parameterization("x0", ClipX0(5.0)))}
    condition = TextCondition(**{name: jnp.asarray(value) for name, value in text.items()})
    check(network, lambda model, x, t: model(x, t, condition), given, found, samplers, "x0", ModelOutput)


def test_the_exported_decoder_predicts_samples_and_has_the_loss_of_diffusers_under_each_scheduler(tmp_path):
    network, random = random_parameters(DECODER, 0), np.random.default_rng(2)
    tokens = random.normal(size=(ROWS, TEXT, CONTEXT)).astype(np.float32)
    vector = random.normal(size=(ROWS, DECODER.time_width)).astype(np.float32)
    mask = np.arange(TEXT) < np.array([[2], [TEXT]])
    conditions = {"context": tokens, "vector": vector, "mask": mask}
    given, found = live("decoder", "diffusers-unet", network, tmp_path, conditions, (3, SIDE, SIDE))

    def predict(unet, x, time):
        return unet(x, time, vector=jnp.asarray(vector), context=UNetContext(jnp.asarray(tokens), jnp.asarray(mask)))

    check(network, predict, given, found, SAMPLERS, "noise", split_variance)


def test_the_exported_upsampler_predicts_samples_and_has_the_loss_of_diffusers(tmp_path):
    network, random = random_parameters(UPSAMPLER, 0), np.random.default_rng(3)
    low = random.normal(size=(ROWS, 3, SIDE, SIDE)).astype(np.float32)
    given, found = live("upsampler", "diffusers-unet", network, tmp_path, {"low": low}, (3, SIDE, SIDE))
    samplers = {"unclip": (RoundedDdpm("fixed_small"), CLIPPED)}

    def predict(unet, x, time):
        return unet(x, time, extra=jnp.asarray(last(low)))

    check(network, predict, given, found, samplers, "noise", ModelOutput)
