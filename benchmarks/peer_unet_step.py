"""Diffusers' UNet2DConditionModel with the blocks of Karlo's decoder: a training step, and sampling by DDIM."""

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

SIZE, BATCH, STEPS, TOKENS, WIDTH, CONTEXT = 32, 8, 8, 12, 64, 64
UP, DOWN = ("SimpleCrossAttnUpBlock2D",) * 2, ("SimpleCrossAttnDownBlock2D",) * 2


def network():
    """Return the network and its inputs: images, times, context and vector."""
    torch.manual_seed(0)
    model = UNet2DConditionModel(
        sample_size=SIZE, block_out_channels=(WIDTH, 2 * WIDTH, 3 * WIDTH), layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", *DOWN), up_block_types=(*UP, "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", in_channels=3, out_channels=3, cross_attention_dim=CONTEXT,
        attention_head_dim=32, class_embed_type="identity", resnet_time_scale_shift="scale_shift",
    )  # fmt: skip
    inputs = (
        torch.randn(BATCH, 3, SIZE, SIZE), torch.randint(0, 1000, (BATCH,)), torch.randn(BATCH, TOKENS, CONTEXT),
        torch.randn(BATCH, 4 * WIDTH),
    )  # fmt: skip
    return model, inputs


def training_step():
    """Return a function that makes one update, always from the same noised images."""
    model, (x, times, context, vector) = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    target = torch.zeros_like(x)

    def call() -> None:
        loss = torch.nn.functional.mse_loss(model(x, times, context, class_labels=vector).sample, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return call


def sampling():
    """Return a function that samples a batch of images."""
    model, (start, _, context, vector) = network()
    model.eval()
    scheduler = DDIMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False)

    @torch.no_grad()
    def call() -> None:
        scheduler.set_timesteps(STEPS)
        x = start
        for time in scheduler.timesteps:
            x = scheduler.step(model(x, time, context, class_labels=vector).sample, time, x).prev_sample

    return call


CASES = {"training_step": training_step, "sampling": sampling}
