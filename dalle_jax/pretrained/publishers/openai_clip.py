"""OpenAI's CLIP: the TorchScript archives (or a state dict) that it published, ViT and ResNet."""

import dataclasses
from pathlib import Path

from dalle_jax.models.clip import ClipConfig, LargestId, TowerConfig
from dalle_jax.models.clip_resnet import HEAD_WIDTH, ModifiedResNet, ResNetConfig
from dalle_jax.pretrained.files.read_weights import read_tensors, source_files
from dalle_jax.pretrained.files.tensors import Tensors
from dalle_jax.pretrained.publisher import Published, count, shape, square, vocabulary_beside
from dalle_jax.pretrained.publishers.clip_presets import preset_name
from dalle_jax.pretrained.publishers.clip_rules import openai_rules
from dalle_jax.text.clip_bpe import ClipBpe

IGNORED = {
    r".*\.num_batches_tracked": "a count that inference does not use",
    r"input_resolution|context_length|vocab_size": "a size, which the shapes tell",
    r"attn_mask": "the causal mask, which is built",
}


def published(source: Path) -> Published:
    """The CLIP in a ``.pt`` file; every size is read from its shapes."""
    tensors = read_tensors(source).without_wrapper()
    config = config_of(tensors, activation="quick_gelu")
    return Published(
        config=config,
        tensors=tensors,
        rules=openai_rules(config),
        ignored=IGNORED,
        files=tuple(source_files(source)),
        licence="MIT (OpenAI's repository CLIP)",
        name=preset_name(config),
        vocabulary=ClipBpe(),
        vocabulary_file=vocabulary_beside(source.parent),
    )


def config_of(tensors: Tensors, activation: str, head_width: int = HEAD_WIDTH, text_heads: int = 0) -> ClipConfig:
    """The sizes of a CLIP with OpenAI's names; heads cannot be told from shapes. ``text_heads`` 0: width / 64."""
    width, embed_width = shape(tensors, "text_projection", 2)
    layers = count(tensors, r"transformer\.resblocks\.(\d+)\.attn\.in_proj_weight")
    hidden = shape(tensors, "transformer.resblocks.0.mlp.c_fc.weight", 2)[0]
    text = tower(width, layers, text_heads or max(width // HEAD_WIDTH, 1), hidden)
    base = ClipConfig(
        image_size=0,
        patch=ModifiedResNet.shrinks,
        vision=text,
        vocab_size=shape(tensors, "token_embedding.weight", 2)[0],
        text_length=shape(tensors, "positional_embedding", 2)[0],
        text=text,
        embed_width=embed_width,
        activation="quick_gelu" if activation == "quick_gelu" else "gelu",
        end_of_text=LargestId(),
    )
    if "visual.proj" in tensors.stored:
        return _with_transformer(base, tensors, head_width)
    places = shape(tensors, "visual.attnpool.positional_embedding", 2)[0] - 1
    side = square(tensors, "visual.attnpool.positional_embedding", places)
    stages = [count(tensors, rf"visual\.layer{stage}\.(\d+)\.conv1\.weight") for stage in (1, 2, 3, 4)]
    vision = ResNetConfig(
        width=shape(tensors, "visual.layer1.0.conv1.weight", 4)[0], layers=(stages[0], stages[1], stages[2], stages[3])
    )
    return dataclasses.replace(base, image_size=side * ModifiedResNet.shrinks, vision=vision)


def _with_transformer(base: ClipConfig, tensors: Tensors, head_width: int) -> ClipConfig:
    width, _, patch, _ = shape(tensors, "visual.conv1.weight", 4)
    side = square(tensors, "visual.positional_embedding", shape(tensors, "visual.positional_embedding", 2)[0] - 1)
    layers = count(tensors, r"visual\.transformer\.resblocks\.(\d+)\.attn\.in_proj_weight")
    hidden = shape(tensors, "visual.transformer.resblocks.0.mlp.c_fc.weight", 2)[0]
    vision = tower(width, layers, width // head_width, hidden)
    return dataclasses.replace(base, image_size=side * patch, patch=patch, vision=vision)


def tower(width: int, layers: int, heads: int, hidden: int) -> TowerConfig:
    """A tower's config, in which a hidden width of four times the width is not said."""
    return TowerConfig(width=width, layers=layers, heads=heads, hidden=None if hidden == 4 * width else hidden)
