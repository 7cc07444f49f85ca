"""LlamaGen's image tokenizer: ``vq_ds16_c2i.pt`` and its relatives, whose codes lie on the unit sphere."""

import dataclasses
from pathlib import Path

from dalle_jax.pretrained.files.read_weights import read_tensors
from dalle_jax.pretrained.publisher import Published
from dalle_jax.pretrained.publishers.vqgan_layouts import LLAMAGEN, config_of, pairs, torch_rules

IGNORED = {r"quantize\.codebook_used": "a statistic of its training"}


def published(source: Path) -> Published:
    """The tokenizer in a ``.pt`` file; every size is read from its shapes. Published ones compare unit vectors."""
    tensors = read_tensors(source).without_wrapper(("ema", "model", "state_dict"))
    config = dataclasses.replace(config_of(tensors, LLAMAGEN), distance="cosine")
    return Published(
        config=config,
        tensors=tensors,
        rules=torch_rules(pairs(config, LLAMAGEN)),
        ignored=IGNORED,
        files=(source,),
        licence="MIT (FoundationVision's repository LlamaGen)",
    )
