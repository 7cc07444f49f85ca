"""Small random networks of GLIDE in the published files, with a text tokenizer."""

import json
from pathlib import Path

from small_karlo import random_parameters

from dalle_jax.models.clip import TowerConfig
from dalle_jax.models.glide import GlideConfig
from dalle_jax.models.unet import UNetConfig
from dalle_jax.pretrained.mapping import to_published
from dalle_jax.pretrained.publishers import glide
from tests.pretrained.publishers.test_image_tokenizer_files import save

FILES = {"base.pt": 0, "upsample.pt": 3, "base_inpaint.pt": 4, "upsample_inpaint.pt": 7}
"""The published files, and the additional input channels of their networks."""
PIECES = {piece: number for number, piece in enumerate(("r", "e", "d", "a", "<|endoftext|>"))}


def published_glide(folder: Path, files: tuple[str, ...]) -> Path:
    """Write a folder of published files; return it."""
    folder.mkdir()
    for name in files:
        extra = FILES[name]
        unet = UNetConfig(32, (1,), 1, (0,), head_size=16, context_width=4, extra_channels=extra)
        config = GlideConfig(unet, vocab_size=len(PIECES), text_length=3, text=TowerConfig(4, 1, 2))
        save(folder / name, to_published(random_parameters(config, extra), glide.rules_for(config)))
    (folder / "config.json").write_text(json.dumps({"num_head_channels": 16, "xf_heads": 2}))
    (folder / "encoder.json").write_text(json.dumps(PIECES))
    (folder / "vocab.bpe").write_text("#version: 0.2\nzz zz\n")
    return folder
