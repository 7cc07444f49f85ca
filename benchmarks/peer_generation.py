"""Sampling with DALLE-pytorch's DALLE.generate_images: 4 images of 256 tokens for one text, a tiny pixel decoder."""

import peer_stubs  # noqa: F401  before dalle_pytorch
import torch
from peer_transformer_step import network

IMAGES, TEXT = 4, 64


def keep_cache(model) -> None:
    """Pass the cache to ``forward`` at guidance scale 1, where ``generate_images`` drops it."""

    def forward_with_cond_scale(*args, cond_scale=1, cache=None, **kwargs):
        return model(*args, cache=cache, **kwargs)

    model.forward_with_cond_scale = forward_with_cond_scale


def generate(cached: bool, scale: float):
    model = network(("full",)).eval()
    if cached and scale == 1:
        keep_cache(model)
    text = torch.randint(1, 8192, (1, TEXT)).repeat(IMAGES, 1)

    def call() -> None:
        with torch.no_grad():
            model.generate_images(text.clone(), cond_scale=scale, use_cache=cached)

    return call


CASES = {
    "cached": lambda: generate(cached=True, scale=1.0),
    "as_shipped": lambda: generate(cached=False, scale=1.0),
    "guided": lambda: generate(cached=True, scale=3.0),
}
