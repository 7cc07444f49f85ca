"""Karlo as a whole, in the layout of diffusers' UnCLIPPipeline: image sizes, and the schedulers that it must have."""

from pathlib import Path
from typing import NamedTuple

from dalle_jax.models.priors.diffusion_prior import LARGEST_VALUE, TIMESTEPS
from dalle_jax.pretrained.files.tensors import file_error
from dalle_jax.pretrained.publisher import Json, check_flags, positive_int, read_json

PIPELINE = "UnCLIPPipeline"
INDEX = "model_index.json"
DEFAULTS: Json = {
    "num_train_timesteps": 1000, "variance_type": "fixed_small_log", "clip_sample": True, "clip_sample_range": 1.0,
    "prediction_type": "epsilon", "beta_schedule": "squaredcos_cap_v2",
}  # fmt: skip
"""The fields of diffusers' UnCLIPScheduler with their defaults."""
SCHEDULERS: dict[str, Json] = {
    "prior_scheduler": {"prediction_type": "sample", "clip_sample_range": LARGEST_VALUE},
    "decoder_scheduler": {"variance_type": "learned_range"},
    "super_res_scheduler": {},
}
"""The only implemented values of each stage's scheduler that differ from the defaults."""
META = frozenset({"_class_name", "_diffusers_version", "_use_default_values"})


class KarloSizes(NamedTuple):
    """The sides of the decoder's image and of the result, in pixels."""

    decoder_side: int
    side: int


def published_sizes(source: Path) -> KarloSizes:
    """Read the image sizes. Raise UserError for a different pipeline, or for a scheduler that is not implemented."""
    index = read_json(source / INDEX)
    if index.get("_class_name") != PIPELINE:
        raise file_error(source / INDEX, f"_class_name {PIPELINE!r}", repr(index.get("_class_name"))[:80])
    for name, values in SCHEDULERS.items():
        path = source / name / "scheduler_config.json"
        expected = DEFAULTS | {"num_train_timesteps": TIMESTEPS} | values
        check_flags(path, DEFAULTS | read_json(path), expected, META)
    decoder, first, last = (_side(source / part) for part in ("decoder", "super_res_first", "super_res_last"))
    if first != last or first <= decoder:
        got = f"{first} and {last}, for a decoder of {decoder}"
        raise file_error(source, "upsamplers of one sample_size above the decoder's", got)
    return KarloSizes(decoder, first)


def _side(folder: Path) -> int:
    path = folder / "config.json"
    return positive_int(path, "sample_size", read_json(path).get("sample_size"))
