"""Feature extractor of a CLIP: an imported one, or the user's own."""

from dataclasses import replace

from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.features.compiled_features import BATCH, CompiledFeatures, Extraction, Preparation
from dalle_jax.images.clip_pixels_device import clip_pixels_device
from dalle_jax.images.pixels import to_float
from dalle_jax.models.clip import Clip, ClipConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.load.bounded_build import build_shapes
from dalle_jax.pipelines.load.model_fingerprints import fingerprint_of_model
from dalle_jax.pipelines.load.models import read_model_file
from dalle_jax.storage import Place
from dalle_jax.train.checkpoints.checkpoints import count_arrays, load_params


def clip_features(folder: Place, layout: Layout | None = None, batch: int = BATCH) -> CompiledFeatures[Clip]:
    """Load a CLIP whose features are its unit image vectors, computed in float32 whatever it was trained in.

    Images are resized as in the CLIP's training: by Pillow's bicubic filter, to the middle square.
    """
    clip = _load_float32(folder)
    size, crop = clip.config.image_size, clip.config.crop
    rounding = "" if crop == "openai" else f"-{crop}"
    found = Extraction(
        network=clip,
        label="clip",
        fingerprint=fingerprint_of_model(folder),
        width=clip.config.embed_width,
        preparation=Preparation(f"bicubic-{size}{rounding}", lambda images: clip_pixels_device(images, size, crop)),
        extract=lambda net, pixels: net.encode_image(to_float(pixels)),
    )
    return CompiledFeatures(found, layout, batch)


def _load_float32(folder: Place) -> Clip:
    file = read_model_file(folder)
    if not isinstance(file.model, ClipConfig):
        raise UserError(f"{folder}: expected a Clip, got a {type(file.model).__name__.removesuffix('Config')}")
    config = replace(file.model, dtype="float32")
    clip: Clip = build_shapes(config, count_arrays(folder), str(folder))
    load_params(folder, clip, prefix=file.prefix)
    return clip
