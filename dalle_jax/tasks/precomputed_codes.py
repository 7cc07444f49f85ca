"""Checks that a task fits precomputed codes or embeddings, and loading of the network that computed them."""

from typing import NamedTuple

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.data.precomputed.manifest import AnyManifest, Manifest
from dalle_jax.models.dalle import DalleConfig
from dalle_jax.models.dalle_bart import DalleBartConfig
from dalle_jax.models.image_tokenizer import ImageTokenizer
from dalle_jax.models.llamagen import LlamaGenConfig
from dalle_jax.pipelines.encode import fingerprint
from dalle_jax.pipelines.load.models import load_image_tokenizer


class CodesTokenizer(NamedTuple):
    """The image tokenizer that computed the codes of a data set, and its folder."""

    folder: str
    network: ImageTokenizer


def load_codes_tokenizer(
    model: DalleConfig | DalleBartConfig | LlamaGenConfig, folder: str | None, manifest: AnyManifest
) -> CodesTokenizer:
    """Load the image tokenizer in ``folder``, or in the folder that the manifest names if ``folder`` is None.

    Raise ``UserError`` if the codes do not fit the model, or if the folder holds no image tokenizer or a different one.
    """
    if not isinstance(manifest, Manifest):
        raise UserError("data: expected precomputed codes, got embeddings of a CLIP; encode with an image_tokenizer")
    encoding = manifest.encoding
    check_codes(model, encoding.codebook_size, encoding.grid, "the manifest of the codes says")
    folder = folder or manifest.image_tokenizer
    place = storage.place(folder)
    if not (place / "model.gin").is_file():
        raise UserError(
            f"task.image_tokenizer: expected the image tokenizer that computed the codes, found none in {folder}; "
            f"set it to the new folder of the image tokenizer that was in {manifest.image_tokenizer}"
        )
    network = load_image_tokenizer(place)
    if (found := fingerprint(network)) != encoding.tokenizer:
        raise UserError(
            f"task.image_tokenizer: expected {encoding.tokenizer}, which computed the codes, got {found} in {folder}"
        )
    return CodesTokenizer(folder, network)


def refuse_precomputed(task: object, manifest: AnyManifest | None, advice: str) -> None:
    """Raise ``UserError`` if a task that needs images is opened for data of precomputed codes or embeddings."""
    if manifest is not None:
        kind = manifest.encoding.KIND
        raise UserError(f"task: expected data of images for {type(task).__name__}, got precomputed {kind}; {advice}")


def check_codes(
    model: DalleConfig | DalleBartConfig | LlamaGenConfig, codebook_size: int, grid: tuple[int, int], given: str
) -> None:
    """Raise ``UserError`` if the codebook size or grid of a transformer differs from the ``given`` codes."""
    if codebook_size != model.codebook_size or tuple(grid) != tuple(model.grid):
        raise UserError(
            f"task.model: expected codebook_size {codebook_size} and grid {tuple(grid)}, as {given}, "
            f"got {model.codebook_size} and {tuple(model.grid)}"
        )
