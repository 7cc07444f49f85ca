"""Run by the Python of another environment, which has torch and diffusers: outputs on exported folders, as an .npz.

diffusers_by_torch.py prior FOLDER IN.npz OUT.npz       PriorTransformer: prediction, reverse steps, loss
diffusers_by_torch.py decoder FOLDER IN.npz OUT.npz     UNet2DConditionModel: the same under each scheduler
diffusers_by_torch.py upsampler FOLDER IN.npz OUT.npz   UNet2DModel: the same under UnCLIPScheduler

IN has ``start``, ``noise`` (one array for each step), ``x0``, ``loss_noise``, ``loss_times``, and the conditions.
"""

import sys

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    PriorTransformer,
    UnCLIPScheduler,
    UNet2DConditionModel,
    UNet2DModel,
)
from diffusers.schedulers import scheduling_ddim, scheduling_ddpm, scheduling_unclip

COSINE = {"beta_schedule": "squaredcos_cap_v2"}
SCHEDULERS = {
    "unclip": lambda: UnCLIPScheduler(variance_type="learned_range"),
    "ddpm": lambda: DDPMScheduler(**COSINE, variance_type="learned_range", timestep_spacing="leading"),
    "ddim": lambda: DDIMScheduler(**COSINE, clip_sample=False, timestep_spacing="leading"),
    "dpm": lambda: DPMSolverMultistepScheduler(**COSINE, timestep_spacing="leading"),
}


def reverse(scheduler, predict, given, count):
    """Run the scheduler's reverse steps with the given noise, in the order in which they ask for it."""
    noise = iter(given["noise"])
    for module in (scheduling_ddim, scheduling_ddpm, scheduling_unclip):
        module.randn_tensor = lambda *_, **__: next(noise)
    scheduler.set_timesteps(count)
    x, times = given["start"], scheduler.timesteps
    for number, time in enumerate(times):
        options = {}
        if isinstance(scheduler, UnCLIPScheduler):
            options = {"prev_timestep": times[number + 1] if number + 1 < len(times) else None}
        elif isinstance(scheduler, DDIMScheduler):
            options = {"eta": 0.5}
        output = predict(x, time.expand(len(x)))
        if not isinstance(scheduler, UnCLIPScheduler | DDPMScheduler) and output.shape[1] == 2 * x.shape[1]:
            output = output[:, : x.shape[1]]  # these know no learned variance
        x = scheduler.step(output, time, x, **options).prev_sample
    return x, times


def loss(scheduler, predict, given, target):
    """The mean squared error of a training step: of the noise, or of x0."""
    x = scheduler.add_noise(given["x0"], given["loss_noise"], given["loss_times"])
    output = predict(x, given["loss_times"])[:, : x.shape[1]]
    return torch.nn.functional.mse_loss(output, given[target])


def results(name, scheduler, predict, given, target):
    x, times = reverse(scheduler, predict, given, int(given["steps"]))
    found = {f"{name}_x": x, f"{name}_times": times}
    if isinstance(scheduler, DPMSolverMultistepScheduler):
        return found  # a solver for sampling: its add_noise knows the noise of its own few steps alone
    return found | {f"{name}_loss": loss(scheduler, predict, given, target)}


def prior(folder, given):
    model = PriorTransformer.from_pretrained(folder).eval()

    def predict(x, time):
        return model(
            x, time, proj_embedding=given["vector"], encoder_hidden_states=given["states"], attention_mask=given["mask"]
        ).predicted_image_embedding

    scheduler = UnCLIPScheduler(prediction_type="sample", clip_sample_range=5.0)
    found = results("unclip", scheduler, predict, given, "x0")
    return found | {"prediction": predict(given["start"], given["loss_times"])}


def decoder(folder, given):
    model = UNet2DConditionModel.from_pretrained(folder).eval()

    def predict(x, time):
        return model(
            x, time, given["context"], class_labels=given["vector"], encoder_attention_mask=given["mask"]
        ).sample

    found = {"prediction": predict(given["start"], given["loss_times"])}
    for name, make in SCHEDULERS.items():
        found |= results(name, make(), predict, given, "loss_noise")
    return found


def upsampler(folder, given):
    model = UNet2DModel.from_pretrained(folder).eval()

    def predict(x, time):
        return model(torch.cat([x, given["low"]], dim=1), time).sample

    found = results("unclip", UnCLIPScheduler(), predict, given, "loss_noise")
    return found | {"prediction": predict(given["start"], given["loss_times"])}


if __name__ == "__main__":
    kind, folder, source, out = sys.argv[1:]
    arrays = {name: torch.tensor(value) for name, value in np.load(source).items()}
    with torch.no_grad():
        found = {"prior": prior, "decoder": decoder, "upsampler": upsampler}[kind](folder, arrays)
    np.savez(out, **{name: value.numpy() for name, value in found.items()})
