"""Transformers' CLIPModel at the sizes of ViT-B/32 with random weights: the forward pass of images and texts."""

from collections.abc import Callable

import torch
from transformers import CLIPConfig, CLIPModel

BATCH, TEXT, SIZE, END = 16, 77, 224, 49_407


@torch.no_grad()
def forward(images: bool, texts: bool) -> Callable[[], None]:
    """Return a function that embeds 16 images, 16 texts, or both and compares them."""
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig()).eval()  # the defaults are those of ViT-B/32
    pixels = torch.randn(BATCH, 3, SIZE, SIZE)
    ids = torch.randint(1, END - 1, (BATCH, TEXT))
    ids[:, -1] = END

    @torch.no_grad()
    def call() -> None:
        if images and texts:
            model(input_ids=ids, pixel_values=pixels)
        elif images:
            model.get_image_features(pixel_values=pixels)
        else:
            model.get_text_features(input_ids=ids)

    return call


CASES = {
    "both": lambda: forward(images=True, texts=True),
    "images": lambda: forward(images=True, texts=False),
    "texts": lambda: forward(images=False, texts=True),
}
