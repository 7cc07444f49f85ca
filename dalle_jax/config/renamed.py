"""Old names of config fields and variants, for error messages that give the present name.

A name is looked up only if the class does not have it, so a field of the same name in another class is not affected.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Renamed:
    """The present name of a field, or None if the field was removed; ``note`` describes further necessary changes."""

    now: str | None
    note: str = ""


RENAMED: Mapping[str, Renamed] = {
    "@Pictures": Renamed("Images"),
    **{f"{name}.pictures": Renamed("images") for name in ("Data", "OwnData", "InspectRun", "EncodeRun")},
    **{f"{name}.pictures": Renamed("images") for name in ("Folder", "WebDataset")},
    "Trainer.pictures_every": Renamed("images_every"),
    "Trainer.trained": Renamed("trainable"),
    "Trainer.decayed": Renamed("weight_decay_mask"),
    "Limits.least_side": Renamed("min_side"),
    "Images.survey": Renamed("validate"),
    "Images.survey_folder": Renamed("index_folder"),
    **{f"Filters.least_{name}": Renamed(f"min_{name}") for name in ("side", "similarity", "aesthetic", "characters")},
    **{f"Filters.most_{name}": Renamed(f"max_{name}") for name in ("aspect", "punsafe", "pwatermark", "characters")},
    **{
        f"{name}.most_bytes": Renamed("max_bytes")
        for name in ("ArrayRecord", "Folder", "Parquet", "Tfds", "WebDataset")
    },
    "ClipBpe.mends": Renamed("text_fix"),
    "BartBpe.reading": Renamed("variant"),
    "BartBpe.cleans": Renamed("cleaning", "the value 'nothing' is now 'none'"),
    **{
        f"DemoRun.{name}": Renamed(f"stages.{name}")
        for name in ("text", "tokenizer", "clip", "transformer", "evaluation")
    },
    "ArrayRecord.copies": Renamed("cache"),
    "Codes.copies": Renamed("cache"),
    "DalleConfig.hidden_multiple": Renamed(None, "the hidden width is 4 times the width"),
    **{f"{name}.channels": Renamed(None, "images have 3 channels") for name in ("VqvaeConfig", "DiscriminatorConfig")},
    "EvaluateRun.evaluation": Renamed("evaluations.NAME", "a run of `evaluate` may have several evaluations"),
    "Mixture.weights": Renamed("parts.NAME.weight", "give each part a weight of its own"),
    **{f"Mixture.{name}": Renamed("parts.NAME.source") for name in ("first", "second", "third", "fourth")},
    "ModelFile.image_tokenizer": Renamed("needs.image_tokenizer", "remove the line if the value is None"),
    "PipelineFile.clip": Renamed("needs.clip", "remove the line if the value is None"),
    "PipelineFile.image_tokenizer": Renamed("needs.image_tokenizer"),
    "PipelineFile.transformer": Renamed("needs.transformer"),
}
"""Old name to present name.

- ``"Class.field"`` is a field (or the start of a path) of a config dataclass, by the class's present name. ``now`` is a
  path in the same class; a word in capitals, such as NAME, is for the config's author to choose. The rest of the path
  is kept.
- ``"@Class"`` is a variant, and ``now`` is the present name of the class.
"""


def renamed_field(cls: type, path: tuple[str, ...]) -> tuple[str, Renamed] | None:
    """Return the longest old name of a field that ``path`` begins with, and its ``Renamed``. None if there is none."""
    for length in range(len(path), 0, -1):
        old = ".".join(path[:length])
        if found := RENAMED.get(f"{cls.__name__}.{old}"):
            return old, found
    return None


def renamed_variant(name: str) -> str:
    """Return ``; Old is now @New`` for the old name of a variant, or an empty string."""
    found = RENAMED.get(f"@{name}")
    if found is None:
        return ""
    note = f"; {found.note}" if found.note else ""
    return f"; @{name} is now @{found.now}{note}" if found.now else f"; @{name} no longer exists{note}"
