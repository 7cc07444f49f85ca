"""Configs of the CLIP models that OpenAI published (arXiv 2103.00020, tables 19 and 20)."""

from dalle_jax.models.clip import ClipConfig, LargestId, TowerConfig
from dalle_jax.models.clip_resnet import ResNetConfig

VOCABULARY, CONTEXT = 49_408, 77


def _vit(image_size: int, patch: int, width: int, layers: int, embed: int, text_width: int) -> ClipConfig:
    vision = TowerConfig(width=width, layers=layers, heads=width // 64)
    return _clip(image_size, patch, vision, embed, text_width)


def _resnet(image_size: int, width: int, layers: tuple[int, int, int, int], embed: int, text_width: int) -> ClipConfig:
    return _clip(image_size, 32, ResNetConfig(width=width, layers=layers), embed, text_width)


def _clip(image_size: int, patch: int, vision: TowerConfig | ResNetConfig, embed: int, text_width: int) -> ClipConfig:
    return ClipConfig(
        image_size=image_size,
        patch=patch,
        vision=vision,
        vocab_size=VOCABULARY,
        text_length=CONTEXT,
        text=TowerConfig(width=text_width, layers=12, heads=text_width // 64),
        embed_width=embed,
        activation="quick_gelu",
        end_of_text=LargestId(),
    )


PRESETS = {
    "RN50": _resnet(224, 64, (3, 4, 6, 3), 1024, 512),
    "RN101": _resnet(224, 64, (3, 4, 23, 3), 512, 512),
    "RN50x4": _resnet(288, 80, (4, 6, 10, 6), 640, 640),
    "RN50x16": _resnet(384, 96, (6, 8, 18, 8), 768, 768),
    "RN50x64": _resnet(448, 128, (3, 15, 36, 10), 1024, 1024),
    "ViT-B/32": _vit(224, 32, 768, 12, 512, 512),
    "ViT-B/16": _vit(224, 16, 768, 12, 512, 512),
    "ViT-L/14": _vit(224, 14, 1024, 24, 768, 768),
    "ViT-L/14@336px": _vit(336, 14, 1024, 24, 768, 768),
}


def preset_name(config: ClipConfig) -> str | None:
    """Return OpenAI's name of a config, or None if OpenAI published no such model."""
    return next((name for name, preset in PRESETS.items() if preset == config), None)
