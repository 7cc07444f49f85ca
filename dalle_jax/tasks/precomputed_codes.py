"""A task and data of codes that were written ahead: that they fit each other, and whose codes they are."""

from dataclasses import replace
from typing import Any

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.data.precomputed.manifest import Manifest
from dalle_jax.pipelines.encode import fingerprint
from dalle_jax.pipelines.load.models import load_image_tokenizer
from dalle_jax.tasks.generate_codes import GenerateCodes, check_codes
from dalle_jax.tasks.generate_from_conditions import GenerateFromConditions


def matched(task: Any, manifest: Manifest | None) -> Any:
    """The task as it trains on data of that manifest: it knows the image tokenizer that the codes are of.

    That is the one which the task names, or else the one that the manifest does. Raises UserError where it is not there
    or is another one, for another codebook or grid, and for a task that needs images.
    """
    if manifest is None:
        return task
    encoding = manifest.encoding
    if not isinstance(task, GenerateCodes | GenerateFromConditions) or getattr(task, "image_size", None) is not None:
        wanted = "leave task.image_size out" if isinstance(task, GenerateCodes) else "train it from images"
        raise UserError(f"task: {type(task).__name__} needs images here and the data holds codes; {wanted}")
    check_codes(task.model, encoding.codebook_size, encoding.grid, "the manifest of the codes says")
    folder = task.image_tokenizer or manifest.image_tokenizer
    if not (storage.place(folder) / "model.gin").is_file():
        raise UserError(
            f"the codes are of the image tokenizer that was in {manifest.image_tokenizer}, and {folder} holds none; "
            "set task.image_tokenizer to the folder where it is now"
        )
    if (found := fingerprint(load_image_tokenizer(storage.place(folder)))) != encoding.tokenizer:
        raise UserError(
            f"task.image_tokenizer: expected {encoding.tokenizer}, of which the codes are, got {found} in {folder}"
        )
    return replace(task, image_tokenizer=folder)
