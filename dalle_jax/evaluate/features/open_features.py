"""Feature extractors by their specification, such as ``efficientnet-lite0`` or ``inception:FILE``."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.config.problems import did_you_mean
from dalle_jax.evaluate.features.clip_features import clip_features
from dalle_jax.evaluate.features.compiled_features import BATCH
from dalle_jax.evaluate.features.feature_extractor import FeatureExtractor
from dalle_jax.evaluate.features.vision_features import dinov2, efficientnet_lite0, inception
from dalle_jax.parallel.layout import Layout
from dalle_jax.storage import Place

Takes: TypeAlias = Literal["none", "optional", "required"]
"""The part of a specification after the colon: a file or folder."""
Opener: TypeAlias = Callable[[Place | None, Layout | None, int], FeatureExtractor]
"""Function that loads an extractor from a source, on a layout, for a number of images at once."""


@dataclass(frozen=True)
class FeatureKind:
    """A kind of extractor: its name in a specification, the name of what follows the colon, and its function."""

    name: str
    takes: Takes
    source: str
    open: Opener

    @property
    def form(self) -> str:
        """The specification as a user types it."""
        return {"none": self.name, "optional": self.name, "required": f"{self.name}:{self.source}"}[self.takes]


def _local(source: Place | None) -> Path:
    if not isinstance(source, Path):
        raise UserError(f"features: expected a local file of published weights, got {source}")
    return source


def _clip(source: Place | None, layout: Layout | None, batch: int) -> FeatureExtractor:
    assert source is not None
    return clip_features(source, layout, batch)


def _inception(block: int) -> Opener:
    return lambda source, layout, batch: inception(_local(source), layout, batch, block)


def _dinov2(like_tensorflow1: bool) -> Opener:
    return lambda source, layout, batch: dinov2(_local(source), layout, batch, like_tensorflow1)


INCEPTIONS = ("inception-64", "inception-192", "inception-768", "inception")
"""InceptionV3's feature vectors by their width; the last is that of FID."""
OWN_CLIP = "own-clip"
KINDS = (
    FeatureKind(
        "efficientnet-lite0",
        "optional",
        "FILE",
        lambda source, layout, batch: efficientnet_lite0(None if source is None else _local(source), layout, batch),
    ),
    *(FeatureKind(name, "required", "FILE", _inception(block)) for block, name in enumerate(INCEPTIONS)),
    FeatureKind("dinov2", "required", "FILE", _dinov2(like_tensorflow1=False)),
    FeatureKind("dinov2-tensorflow1", "required", "FILE", _dinov2(like_tensorflow1=True)),
    FeatureKind("clip", "required", "DIR", _clip),
    FeatureKind(OWN_CLIP, "none", "", _clip),
)


def open_features(
    specification: str, own_clip: Place | None = None, layout: Layout | None = None, batch: int = BATCH
) -> FeatureExtractor:
    """Load the extractor of a specification. ``own-clip`` is the CLIP in the folder ``own_clip``.

    Networks are placed by ``layout``, which is one device by default. Raises UserError for an unknown name, and for a
    file or folder that is missing or not of the kind.
    """
    kind, source = parse_features(specification)
    if kind.name == OWN_CLIP:
        if own_clip is None:
            raise UserError("features: expected a model with a CLIP for own-clip, got one without; give clip:DIR")
        return kind.open(own_clip, layout, batch)
    if source is None:
        return kind.open(None, layout, batch)
    place = storage.place(source)
    if not place.exists():
        raise UserError(f"features {kind.name}:{source}: expected a file or folder, got a path that does not exist")
    return kind.open(place, layout, batch)


def parse_features(specification: str) -> tuple[FeatureKind, str | None]:
    """Split a specification into its kind and its file or folder. Raises UserError if they do not fit."""
    name, colon, source = specification.partition(":")
    by_name = {one.name: one for one in KINDS}
    if name not in by_name:
        forms = ", ".join(one.form for one in KINDS)
        raise UserError(f"features: expected one of {forms}; got {specification!r}{did_you_mean(name, by_name)}")
    kind = by_name[name]
    if (colon and (not source or kind.takes == "none")) or (not colon and kind.takes == "required"):
        raise UserError(f"features: expected {kind.form}, got {specification!r}")
    return kind, source or None
