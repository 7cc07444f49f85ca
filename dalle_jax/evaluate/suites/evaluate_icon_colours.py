"""Evaluation of colours: icons are drawn from captions that name a colour and a ground, and both are read from pixels.

The data's records name both in their metadata. Combinations that ``@HeldOutPairs`` keeps out of training show whether
the model composes a thing with a colour in which it never saw it. The originals are read too: their share is the
accuracy of the reader.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dalle_jax.arrays import UInt8
from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.metrics.icon_colours import GLYPHS, GROUNDS, IconColours, read_icon
from dalle_jax.evaluate.metrics.shares import Share, share_of
from dalle_jax.evaluate.suites.drawing import Drawing
from dalle_jax.evaluate.suites.pipeline_parts import ImageSampler


@dataclass(frozen=True)
class EvaluateIconColours:
    """Evaluation of the colours of icons, for ``captions`` of training and as many of held-out records.

    ``colour`` and ``ground`` are the fields of the metadata that name the two colours. Records without one of the names
    in ``evaluate/metrics/icon_colours.py`` are left out.
    """

    drawing: Drawing
    captions: int = 96
    colour: str = "colour"
    ground: str = "background"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.captions < 1:
            raise ValueError(f"captions: expected at least 1, got {self.captions}")

    def names(self, metadata: Mapping[str, object]) -> IconColours:
        """Return the names of the two colours in a record's metadata, None if it has none that can be read."""
        glyph, ground = (str(metadata.get(field)) for field in (self.colour, self.ground))
        return IconColours(glyph if glyph in GLYPHS else None, ground if ground in GROUNDS else None)

    def is_icon(self, metadata: Mapping[str, object]) -> bool:
        """Return True for a record that names a readable colour and a readable ground."""
        names = self.names(metadata)
        return names.glyph is not None and names.ground is not None


@dataclass(frozen=True, eq=False)
class Icon:
    """An icon of the data: its image, its caption and the names of its colours."""

    image: UInt8[np.ndarray, "H W 3"]
    caption: str
    colours: IconColours


@dataclass(frozen=True)
class ColoursRead:
    """Shares of images with the right ``glyph``, the right ``ground``, and ``both``."""

    glyph: Share
    ground: Share
    both: Share

    def to_json(self) -> dict[str, object]:
        """Return the three shares with the number of images."""
        values = {name: getattr(self, name).value for name in ("glyph", "ground", "both")}
        return {**values, "count": self.both.count}


@dataclass(frozen=True)
class IconColourFindings:
    """The colours that were read, by split ("seen", "held_out") and by images: originals, first candidates, CLIP's
    choices."""

    read: Mapping[str, Mapping[str, ColoursRead]]

    def to_json(self) -> dict[str, object]:
        """Return ``{"seen": {"original": {"glyph": 1.0, ...}, "first": ..., "chosen": ...}, "held_out": ...}``."""
        return {split: {name: one.to_json() for name, one in images.items()} for split, images in self.read.items()}


def evaluate_icon_colours(
    sampler: ImageSampler,
    config: EvaluateIconColours,
    icons: Mapping[str, Sequence[Icon]],
    say: Callable[[str], None],
) -> IconColourFindings:
    """Draw the captions of the icons of each split, and read the colours; ``say`` takes a line of progress.

    The sampler must rank its candidates. Raise ``UserError`` if no split has icons.
    """
    if not any(icons.values()):
        fields = f"{config.colour} and {config.ground}"
        raise UserError(f"data.source: expected records whose metadata name colours in {fields}, got none")
    read: dict[str, dict[str, ColoursRead]] = {}
    for split, own in icons.items():
        if not own:
            say(f"icons {split}: the data has none")
            continue
        drawn = sampler.draw(config.drawing.requests(tuple(one.caption for one in own), config.seed))
        images = {
            "original": [one.image for one in own],
            "first": [one.candidates[0] for one in drawn],
            "chosen": [one.candidates[one.chosen[0]] for one in drawn],
        }
        wanted = [one.colours for one in own]
        read[split] = {name: colours_read(some, wanted) for name, some in images.items()}
        for name, one in read[split].items():
            shares = ", ".join(f"{key} {_percent(getattr(one, key))}" for key in ("glyph", "ground", "both"))
            say(f"icons {split}, {name}: {shares} of {one.both.count}")
    return IconColourFindings(read)


def colours_read(images: Sequence[UInt8[np.ndarray, "H W 3"]], wanted: Sequence[IconColours]) -> ColoursRead:
    """Read images and compare them with the wanted colours."""
    found = [read_icon(image) for image in images]
    glyph = [one.glyph == other.glyph for one, other in zip(found, wanted, strict=True)]
    ground = [one.ground == other.ground for one, other in zip(found, wanted, strict=True)]
    return ColoursRead(share_of(glyph), share_of(ground), share_of(a and b for a, b in zip(glyph, ground, strict=True)))


def _percent(share: Share) -> str:
    return "not measured" if share.value is None else f"{100 * share.value:.1f} %"
