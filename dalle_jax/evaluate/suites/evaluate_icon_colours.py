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
from dalle_jax.evaluate.suites.panels import JsonObject, Panel, PanelFigure, ShownImage, ShownImages
from dalle_jax.evaluate.suites.pipeline_parts import ImageSampler

SPLIT_TITLES = {"seen": "icons of the training data", "held_out": "held-out icons"}
KINDS = {"original": "originals", "first": "first candidate", "chosen": "CLIP's choice"}
PAIR = ("glyph", "ground")
PARTS = {"glyph": "Colour right", "ground": "Ground right", "both": "Both right"}


@dataclass(frozen=True)
class EvaluateIconColours:
    """Evaluation of the colours of icons, for ``captions`` of training and as many of held-out records.

    ``colour`` and ``ground`` are the fields of the metadata that name the two colours. Records without one of the names
    in ``evaluate/metrics/icon_colours.py`` are left out. A report shows ``shown`` icons of each split.
    """

    drawing: Drawing
    captions: int = 96
    colour: str = "colour"
    ground: str = "background"
    seed: int = 0
    shown: int = 24

    def __post_init__(self) -> None:
        if not 1 <= self.shown <= self.captions:
            raise ValueError(f"shown: expected 1 to captions ({self.captions}), got {self.shown}")

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


@dataclass(frozen=True, eq=False)
class ReadIcon:
    """An image, its caption, the colours that the caption names, and those that were read."""

    image: UInt8[np.ndarray, "H W 3"]
    caption: str
    wanted: IconColours
    found: IconColours

    @property
    def right(self) -> int:
        """The number of right colours, 0 to 2."""
        return (self.wanted.glyph == self.found.glyph) + (self.wanted.ground == self.found.ground)


@dataclass(frozen=True)
class IconColourFindings:
    """The icons that were read, by split ("seen", "held_out") and by kind of image, in the order of the captions."""

    icons: Mapping[str, Mapping[str, tuple[ReadIcon, ...]]]
    shown: int

    def share(self, split: str, kind: str, part: str) -> Share:
        """Return the share of images with the right ``part``: "glyph", "ground" or "both"."""
        return share_of(_is_right(one, part) for one in self.icons[split][kind])

    def to_json(self) -> JsonObject:
        """Return ``{"seen": {"original": {"glyph": 1.0, ...}, "first": ..., "chosen": ...}, "held_out": ...}``."""
        return {
            split: {
                kind: {**{part: self.share(split, kind, part).value for part in PARTS}, "count": len(read)}
                for kind, read in kinds.items()
            }
            for split, kinds in self.icons.items()
        }

    def panel(self) -> Panel:
        """Return the panel of the page."""
        figures = [
            PanelFigure.of_share(
                f"{split}.{kind}.{part}",
                f"{PARTS[part]}, {SPLIT_TITLES[split]}, {KINDS[kind]}",
                self.share(split, kind, part),
            )
            for split, kinds in self.icons.items()
            for kind in kinds
            for part in PARTS
        ]
        images = [
            ShownImages(f"{SPLIT_TITLES[split]}, {KINDS['first']}", self._worst(kinds["first"]))
            for split, kinds in self.icons.items()
        ]
        about = (
            "Icons of one colour on a uniform ground. Captions name both colours, and both are read from the pixels. "
            "The share of originals is the accuracy of the reader."
        )
        return Panel("Colours of icons", about, tuple(figures), images=tuple(images))

    def _worst(self, read: Sequence[ReadIcon]) -> tuple[ShownImage, ...]:
        return tuple(
            ShownImage(one.image, one.caption, f"read: {one.found.glyph} on {one.found.ground}", one.right == len(PAIR))
            for one in sorted(read, key=lambda one: one.right)[: self.shown]
        )


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
    found: dict[str, dict[str, tuple[ReadIcon, ...]]] = {}
    for split, own in icons.items():
        if not own:
            say(f"{SPLIT_TITLES[split]}: the data has no icons of this kind")
            continue
        drawn = sampler.draw(config.drawing.requests(tuple(one.caption for one in own), config.seed))
        images = {
            "original": [one.image for one in own],
            "first": [one.candidates[0] for one in drawn],
            "chosen": [one.candidates[one.chosen[0]] for one in drawn],
        }
        found[split] = {kind: read_icons(some, own) for kind, some in images.items()}
        for kind in images:
            findings = IconColourFindings(found, config.shown)
            shares = ", ".join(f"{part} {_percent(findings.share(split, kind, part))}" for part in PARTS)
            say(f"{SPLIT_TITLES[split]}, {KINDS[kind]}: {shares} of {len(own)}")
    return IconColourFindings(found, config.shown)


def read_icons(images: Sequence[UInt8[np.ndarray, "H W 3"]], icons: Sequence[Icon]) -> tuple[ReadIcon, ...]:
    """Read the image of each icon."""
    return tuple(
        ReadIcon(image, icon.caption, icon.colours, read_icon(image)) for image, icon in zip(images, icons, strict=True)
    )


def _is_right(icon: ReadIcon, part: str) -> bool:
    parts = PAIR if part == "both" else (part,)
    return all(getattr(icon.wanted, one) == getattr(icon.found, one) for one in parts)


def _percent(share: Share) -> str:
    return "not measured" if share.value is None else f"{100 * share.value:.1f} %"
