"""Models of CLIP by name: the configs that OpenAI published, and the sizes of open_clip's (model_configs/NAME.json).

OpenAI's are in arXiv 2103.00020, tables 19 and 20.
"""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from dalle_jax.config.errors import UserError
from dalle_jax.config.problems import did_you_mean
from dalle_jax.models.clip import ClipConfig, LargestId, TowerConfig
from dalle_jax.models.clip_resnet import HEAD_WIDTH, ResNetConfig

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


QUICK = "-quickgelu"
"""End of the name of a model with OpenAI's activation."""


class OpenClipText(NamedTuple):
    """Sizes of a text tower. Its heads are 64 wide."""

    text_width: int
    embed_width: int
    text_layers: int = 12


@dataclass(frozen=True)
class OpenClipPreset:
    """Sizes of a model. ``patch`` is None and ``layers`` has four numbers for a ResNet."""

    image_size: int
    patch: int | None
    width: int
    layers: int | tuple[int, int, int, int]
    text: OpenClipText
    head_width: int = HEAD_WIDTH
    activation: Literal["gelu", "quick_gelu"] = "gelu"

    def differences(self, config: ClipConfig) -> list[str]:
        """Compare the sizes with those of a config that came from the shapes of a file's tensors."""
        vision = config.vision
        is_transformer = isinstance(vision, TowerConfig)
        found = {
            "image_size": config.image_size,
            "patch": config.patch if is_transformer else None,
            "width": vision.width,
            "layers": vision.layers,
            "embed_width": config.embed_width,
            "text_width": config.text.width,
            "text_layers": config.text.layers,
        }
        own = {**vars(self), **self.text._asdict()}
        return [f"{name} {value} instead of {own[name]}" for name, value in found.items() if value != own[name]]


_B, _L, _H = OpenClipText(512, 512), OpenClipText(768, 768), OpenClipText(1024, 1024, 24)
_PLUS, _S, _S, _S_ALT = (
    OpenClipText(640, 640),
    OpenClipText(384, 384),
    OpenClipText(384, 384),
    OpenClipText(256, 256, 10),
)
_BIG = OpenClipText(1280, 1280, 32)

OPEN_CLIP_PRESETS = {
    "RN50": OpenClipPreset(224, None, 64, (3, 4, 6, 3), OpenClipText(512, 1024)),
    "RN101": OpenClipPreset(224, None, 64, (3, 4, 23, 3), _B),
    "RN50x4": OpenClipPreset(288, None, 80, (4, 6, 10, 6), _PLUS),
    "RN50x16": OpenClipPreset(384, None, 96, (6, 8, 18, 8), _L),
    "RN50x64": OpenClipPreset(448, None, 128, (3, 15, 36, 10), OpenClipText(1024, 1024)),
    "ViT-S-16": OpenClipPreset(224, 16, 384, 12, _S),
    "ViT-S-16-alt": OpenClipPreset(224, 16, 384, 12, _S_ALT),
    "ViT-S-32": OpenClipPreset(224, 32, 384, 12, _S),
    "ViT-S-32-alt": OpenClipPreset(224, 32, 384, 12, _S_ALT),
    "ViT-M-16": OpenClipPreset(224, 16, 512, 12, _B),
    "ViT-M-32": OpenClipPreset(224, 32, 512, 12, _B),
    "ViT-M-32-alt": OpenClipPreset(224, 32, 512, 12, _S),
    "ViT-B-16": OpenClipPreset(224, 16, 768, 12, _B),
    "ViT-B-16-plus": OpenClipPreset(224, 16, 896, 12, _PLUS),
    "ViT-B-16-plus-240": OpenClipPreset(240, 16, 896, 12, _PLUS),
    "ViT-B-32": OpenClipPreset(224, 32, 768, 12, _B),
    "ViT-B-32-256": OpenClipPreset(256, 32, 768, 12, _B),
    "ViT-B-32-plus-256": OpenClipPreset(256, 32, 896, 12, _PLUS),
    "ViT-L-14": OpenClipPreset(224, 14, 1024, 24, _L),
    "ViT-L-14-280": OpenClipPreset(280, 14, 1024, 24, _L),
    "ViT-L-14-336": OpenClipPreset(336, 14, 1024, 24, _L),
    "ViT-L-16": OpenClipPreset(224, 16, 1024, 24, _L),
    "ViT-L-16-320": OpenClipPreset(320, 16, 1024, 24, _L),
    "ViT-H-14": OpenClipPreset(224, 14, 1280, 32, _H, head_width=80),
    "ViT-H-14-378": OpenClipPreset(378, 14, 1280, 32, _H, head_width=80),
    "ViT-H-16": OpenClipPreset(224, 16, 1280, 32, _H, head_width=80),
    "ViT-g-14": OpenClipPreset(224, 14, 1408, 40, _H, head_width=88),
    "ViT-bigG-14": OpenClipPreset(224, 14, 1664, 48, _BIG, head_width=104),
    "ViT-e-14": OpenClipPreset(224, 14, 1792, 56, OpenClipText(1280, 1280, 36), head_width=112),
}
"""Presets by name. Each exists with the end ``-quickgelu`` too, for weights that were trained with that activation."""


def find_open_clip(name: str) -> OpenClipPreset:
    """Return the preset of that name. Raises UserError with similar names if it does not exist."""
    found = OPEN_CLIP_PRESETS.get(name.removesuffix(QUICK))
    if found is None:
        every = [*OPEN_CLIP_PRESETS, *(one + QUICK for one in OPEN_CLIP_PRESETS)]
        raise UserError(f"--preset: expected a model of open_clip, got {name!r}{did_you_mean(name, every)}")
    return replace(found, activation="quick_gelu") if name.endswith(QUICK) else found
