"""OpenAI's CLIP, with a ViT or a ResNet: the published TorchScript archives, or a state dict."""

import dataclasses
from pathlib import Path
from typing import Literal

from dalle_jax.models.clip import ClipConfig, LargestId, TowerConfig
from dalle_jax.models.clip_resnet import HEAD_WIDTH, ModifiedResNet, ResNetConfig
from dalle_jax.pretrained.files.read_weights import read_tensors, source_files
from dalle_jax.pretrained.files.tensors import Tensors
from dalle_jax.pretrained.publisher import Published, count_layers, find_vocabulary, grid_side, tensor_shape
from dalle_jax.pretrained.publishers.clip_presets import preset_name
from dalle_jax.pretrained.publishers.clip_rules import openai_rules
from dalle_jax.pretrained.signatures import OPENAI_CLIP, locate
from dalle_jax.text.clip_bpe import ClipBpe

IGNORED = {
    r".*\.num_batches_tracked": "a count that inference does not use",
    r"input_resolution|context_length|vocab_size": "a size, which follows from the shapes",
    r"attn_mask": "the causal mask, which is computed",
}


def published(source: Path) -> Published:
    """Read the CLIP in a ``.pt`` file; sizes come from the shapes."""
    tensors = locate(read_tensors(source), OPENAI_CLIP)
    config = config_from_shapes(tensors, activation="quick_gelu")
    found = with_openai_names(
        config, tensors, tuple(source_files(source)), source.parent, "MIT (OpenAI's repository CLIP)"
    )
    return dataclasses.replace(found, name=preset_name(config))


def with_openai_names(
    config: ClipConfig, tensors: Tensors, files: tuple[Path, ...], folder: Path, licence: str
) -> Published:
    """Return the CLIP of a config, whose tensors have OpenAI's names; its vocabulary may lie in ``folder``."""
    return Published(
        config=config,
        tensors=tensors,
        rules=openai_rules(config),
        ignored=IGNORED,
        files=files,
        licence=licence,
        vocabulary=ClipBpe(),
        vocabulary_file=find_vocabulary(folder),
    )


def config_from_shapes(
    tensors: Tensors, activation: Literal["gelu", "quick_gelu"], head_width: int = HEAD_WIDTH, text_heads: int = 0
) -> ClipConfig:
    """Infer the config from the shapes of tensors with OpenAI's names.

    Shapes do not determine the number of heads; with ``text_heads`` 0 it is width / 64.
    """
    width, embed_width = tensor_shape(tensors, "text_projection", 2)
    layers = count_layers(tensors, r"transformer\.resblocks\.(\d+)\.attn\.in_proj_weight")
    hidden = tensor_shape(tensors, "transformer.resblocks.0.mlp.c_fc.weight", 2)[0]
    text = tower_config(width, layers, text_heads or max(width // HEAD_WIDTH, 1), hidden)
    base = ClipConfig(
        image_size=0,
        patch=ModifiedResNet.shrinks,
        vision=text,
        vocab_size=tensor_shape(tensors, "token_embedding.weight", 2)[0],
        text_length=tensor_shape(tensors, "positional_embedding", 2)[0],
        text=text,
        embed_width=embed_width,
        activation=activation,
        end_of_text=LargestId(),
    )
    if "visual.proj" in tensors.stored:
        return _with_transformer(base, tensors, head_width)
    positions = tensor_shape(tensors, "visual.attnpool.positional_embedding", 2)[0] - 1
    side = grid_side(tensors, "visual.attnpool.positional_embedding", positions)
    stages = [count_layers(tensors, rf"visual\.layer{stage}\.(\d+)\.conv1\.weight") for stage in (1, 2, 3, 4)]
    vision = ResNetConfig(
        width=tensor_shape(tensors, "visual.layer1.0.conv1.weight", 4)[0],
        layers=(stages[0], stages[1], stages[2], stages[3]),
    )
    return dataclasses.replace(base, image_size=side * ModifiedResNet.shrinks, vision=vision)


def _with_transformer(base: ClipConfig, tensors: Tensors, head_width: int) -> ClipConfig:
    width, _, patch, _ = tensor_shape(tensors, "visual.conv1.weight", 4)
    side = grid_side(
        tensors, "visual.positional_embedding", tensor_shape(tensors, "visual.positional_embedding", 2)[0] - 1
    )
    layers = count_layers(tensors, r"visual\.transformer\.resblocks\.(\d+)\.attn\.in_proj_weight")
    hidden = tensor_shape(tensors, "visual.transformer.resblocks.0.mlp.c_fc.weight", 2)[0]
    vision = tower_config(width, layers, width // head_width, hidden)
    return dataclasses.replace(base, image_size=side * patch, patch=patch, vision=vision)


def tower_config(width: int, layers: int, heads: int, hidden: int) -> TowerConfig:
    """Build a tower's config. A hidden width of four times the width becomes None, the config's default."""
    return TowerConfig(width=width, layers=layers, heads=heads, hidden=None if hidden == 4 * width else hidden)
