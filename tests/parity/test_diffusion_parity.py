"""Diffusion against diffusers' UnCLIPScheduler and GLIDE's respaced process: schedules and single reverse steps."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.diffusion.levels import NoiseLevel, add_noise
from dalle_jax.diffusion.noise_schedules import CosineNoise, LinearNoise
from dalle_jax.diffusion.parameterization import ClipX0, ModelOutput, Parameterization, split_variance
from dalle_jax.diffusion.process import DiscreteProcess
from dalle_jax.diffusion.samplers.ddim import Ddim
from dalle_jax.diffusion.samplers.ddpm import Ddpm
from dalle_jax.diffusion.samplers.sampler import RecordedNoise, StepInfo
from dalle_jax.diffusion.spacing import RoundedSteps, parse_spacing
from tests.parity.fixtures import assert_close, fixture
from tests.parity.scheduler_rounding import RoundedDdim, RoundedDdpm

VARIANCES = {"learned_range": "learned_range", "fixed_small_log": "fixed_small"}
PREDICTIONS = {"epsilon": "noise", "sample": "x0"}


def last(x):
    """[B C H W] to [B H W C]."""
    return jnp.asarray(np.moveaxis(x, 1, -1))


def one_step(sampler, levels, position, x, output, noise, parameterization):
    """Step ``position`` of a sampler with the network's output and the noise given."""
    noises = jnp.zeros((position + 1, *x.shape)).at[position].set(noise)
    steps = slice(position, position + 1), slice(position, position + 2)
    single = type(levels)(levels.times[steps[0]], levels.alphas[steps[1]], levels.sigmas[steps[1]])
    recorded = RecordedNoise(noises[position:])
    return sampler.sample(lambda *_: output, single, x, recorded, parameterization)


@pytest.mark.parametrize("part", ["prior", "decoder", "super_res"])
def test_karlo_s_scheduler_has_the_same_timesteps_and_steps(part):
    folder, io, tolerance = fixture("unclip_scheduler")
    config = json.loads((folder / f"{part}_scheduler_config.json").read_text())
    assert config["beta_schedule"] == "squaredcos_cap_v2"
    whole = DiscreteProcess.of(CosineNoise(config["num_train_timesteps"]))
    assert_close(whole.alpha_bars, io[f"{part}_alphas_cumprod"], tolerance)
    timesteps = io[f"{part}_timesteps"]
    process = whole.respaced(RoundedSteps(len(timesteps)))
    np.testing.assert_array_equal(process.timesteps[::-1], timesteps)
    sampler = RoundedDdpm(VARIANCES[config["variance_type"]])
    form = Parameterization(PREDICTIONS[config["prediction_type"]], ClipX0(config["clip_sample_range"]))
    raw, x, noise = (last(io[f"{part}_{name}"]) for name in ("model_output", "sample", "noise"))
    output = split_variance(raw) if raw.shape[-1] == 2 * x.shape[-1] else ModelOutput(raw)
    positions = [int(name.rsplit("_", 1)[1]) for name in io if name.startswith(f"{part}_out_")]
    assert len(positions) > 3
    for position in positions:
        got = one_step(sampler, process.levels, position, x, output, noise, form)
        assert_close(got, last(io[f"{part}_out_{position}"]), tolerance)


def test_karlo_s_coefficients_are_ours_but_for_its_rounding():
    for variance in VARIANCES.values():
        levels = DiscreteProcess.of(CosineNoise(), RoundedSteps(25)).levels
        ours, exact = Ddpm(variance).coefficients(levels), RoundedDdpm(variance, np.float64).coefficients(levels)
        rounded = RoundedDdpm(variance).coefficients(levels)
        for part in (0, 1):
            np.testing.assert_allclose(ours[part], exact[part], rtol=0, atol=1e-11)
            np.testing.assert_allclose(ours[part], rounded[part], rtol=0, atol=1e-3)
        np.testing.assert_allclose(ours[2][:-1], exact[2][:-1], rtol=0, atol=1e-9)  # the last has no noise


@pytest.mark.parametrize(("model", "schedule"), [("base", CosineNoise()), ("upsample", LinearNoise())])
def test_glide_s_respaced_processes_have_the_same_indices_and_noise(model, schedule):
    _, io, _ = fixture("glide_diffusion")
    names = [key.split("_")[1] for key in io if key.startswith(model) and key.endswith("timestep_map")]
    assert "fast27" in names
    for name in names:
        process = DiscreteProcess.of(schedule, parse_spacing(name))
        np.testing.assert_array_equal(process.timesteps, io[f"{model}_{name}_timestep_map"])
        assert_close(process.alpha_bars, io[f"{model}_{name}_alphas_cumprod"], 1e-12)


def test_glide_s_reverse_steps_are_the_same():
    _, io, tolerance = fixture("glide_diffusion")
    process = DiscreteProcess.of(CosineNoise(), parse_spacing("27"))
    form = Parameterization("noise", ClipX0(1.0))
    x, noise = last(io["sample"]), last(io["noise"])
    output = split_variance(last(io["model_output"]))
    sampler = Ddpm("learned_range")
    indices = [int(name.rsplit("_", 1)[1]) for name in io if name.startswith("p_mean_")]
    assert len(indices) > 3
    for index in indices:
        position = process.steps - 1 - index
        level = process.level(jnp.full(x.shape[0], index))
        coefficients = tuple(jnp.float32(column[position]) for column in sampler.coefficients(process.levels))
        reverse = sampler.reverse(output, x, StepInfo(jnp.int32(0), level, coefficients), form)
        assert_close(reverse.mean, last(io[f"p_mean_{index}"]), tolerance)
        assert_close(reverse.log_variance, last(io[f"p_logvar_{index}"]), tolerance)
        assert_close(reverse.x0, last(io[f"pred_x0_{index}"]), tolerance)
        for method, name in ((sampler, "p_sample"), (RoundedDdim(), "ddim"), (RoundedDdim(1.0), "ddim_eta1")):
            got = one_step(method, process.levels, position, x, output, noise, form)
            assert_close(got, last(io[f"{name}_{index}"]), tolerance)


def test_glide_s_ddim_coefficients_are_ours_but_for_its_rounding():
    levels = DiscreteProcess.of(CosineNoise(), parse_spacing("27")).levels
    ours, exact = Ddim(1.0).coefficients(levels), RoundedDdim(1.0, np.float64).coefficients(levels)
    for one, other, rounded in zip(ours, exact, RoundedDdim(1.0).coefficients(levels), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-11)
        np.testing.assert_allclose(one, rounded, rtol=0, atol=1e-4)


def test_glide_s_noised_image_is_the_same():
    _, io, tolerance = fixture("glide_diffusion")
    process = DiscreteProcess.of(CosineNoise(), parse_spacing("27"))
    x, noise = last(io["sample"]), last(io["noise"])
    for name in [name for name in io if name.startswith("q_sample_")]:
        level: NoiseLevel = process.level(jnp.full(x.shape[0], int(name.rsplit("_", 1)[1])))
        assert_close(add_noise(x, noise, level), last(io[name]), tolerance)
