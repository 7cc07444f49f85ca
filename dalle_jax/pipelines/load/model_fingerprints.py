"""Fingerprints of the models of a pipeline, from the files of their folders."""

import hashlib

from dalle_jax.config.errors import UserError
from dalle_jax.pipelines.load.glide_pipeline import GLIDE, GLIDE_PARTS
from dalle_jax.pipelines.load.karlo_pipeline import KARLO, KARLO_PARTS
from dalle_jax.pipelines.load.models import read_model_file, stage_folders
from dalle_jax.pipelines.load.text import fingerprint_of_folder
from dalle_jax.storage import Place, place
from dalle_jax.train.checkpoints import checksums
from dalle_jax.train.checkpoints.checkpoints import FOLDER
from dalle_jax.train.checkpoints.recovery import whole_steps


def model_fingerprints(
    folder: Place,
    image_tokenizer: Place | None = None,
    clip: Place | None = None,
    consistency_decoder: Place | None = None,
    guide_clip: Place | None = None,
) -> dict[str, str]:
    """Return the fingerprint of each model that ``load_pipeline`` loads for these folders, by name.

    Forecasting heads are left out: no image depends on them.
    """
    imported = {KARLO: KARLO_PARTS, GLIDE: GLIDE_PARTS}
    parts = next((parts for file, parts in imported.items() if (folder / file).is_file()), None)
    if parts is not None:
        found = {part: folder / part for part in parts}
    else:
        needs = stage_folders(folder, image_tokenizer, clip, consistency_decoder).needs
        found = {name: place(one) for name, one in needs.items() if name != "forecast"}
    if clip is not None and found.get("clip") != clip:
        found["ranker"] = clip
    if guide_clip is not None:
        found["guide_clip"] = guide_clip
    return {name: fingerprint_of_model(one) for name, one in sorted(found.items())}


def fingerprint_of_model(folder: Place) -> str:
    """Hash a model's config, its text tokenizer and the checksums of its newest checkpoint. No weights are read."""
    try:
        text = fingerprint_of_folder(folder)
    except UserError:  # a model without a text tokenizer
        text = ""
    steps = whole_steps(folder / FOLDER)
    sums = (folder / FOLDER / str(steps[-1]) / checksums.FILE).read_bytes() if steps else b""
    content = repr((read_model_file(folder).model, text, sums))
    return hashlib.sha256(content.encode()).hexdigest()[:32]
