"""Evaluation of words on signs: drawn from captions of level 6, and read by the scene reader and by OCR programs.

The scene reader knows the letters that scenes are drawn with; an OCR program does not. Each reader also reads clean
signs of the same captions, which is the most that it can find right on generated ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.metrics.composition import DEFAULT_SPLITS, Split, evaluation_captions
from dalle_jax.evaluate.metrics.shares import Share, share_of
from dalle_jax.evaluate.metrics.text_accuracy import TextAccuracy, edit_distance
from dalle_jax.evaluate.readers.rapid_ocr import RapidOcr
from dalle_jax.evaluate.readers.tesseract import Tesseract
from dalle_jax.evaluate.readers.text_reader import SceneTextReader, TextReader
from dalle_jax.evaluate.suites.drawing import Drawing
from dalle_jax.evaluate.suites.panels import JsonObject, Panel, PanelFigure, Plot, PlotLine, ShownImage, ShownImages
from dalle_jax.evaluate.suites.pipeline_parts import ImageSampler
from dalle_jax.scenes import grammar
from dalle_jax.scenes.rendering import render

LEVEL = 6
ReaderName = Literal["scenes", "tesseract", "rapidocr"]
Which = Literal["clean", "first", "chosen"]
READERS: dict[ReaderName, Callable[[], TextReader]] = {
    "scenes": SceneTextReader,
    "tesseract": Tesseract,
    "rapidocr": RapidOcr,
}
WHICH: dict[Which, str] = {"clean": "clean signs", "first": "first candidate", "chosen": "CLIP's choice"}
SPLIT_TITLES: dict[Split, str] = {"seen": "seen letter pairs", "held_out": "held-out letter pairs"}


@dataclass(frozen=True)
class EvaluateText:
    """Evaluation of ``captions`` signs with letter pairs of the training data, and as many with held-out pairs.

    ``readers``: "scenes" is the scene reader, "tesseract" needs the program Tesseract, and "rapidocr" the package of
    that name. A report shows ``shown`` signs of each split. Without a model clean signs of ``side`` pixels are read.
    """

    drawing: Drawing = field(default_factory=Drawing)
    captions: int = 100
    readers: tuple[ReaderName, ...] = ("scenes", "tesseract")
    seed: int = 0
    shown: int = 24
    side: int = 128

    def __post_init__(self) -> None:
        known = get_args(ReaderName)
        if not self.readers or not set(self.readers) <= set(known) or len(set(self.readers)) < len(self.readers):
            raise ValueError(f"readers: expected one or more of {', '.join(known)}, each once, got {self.readers}")
        if not 1 <= self.shown <= self.captions:
            raise ValueError(f"shown: expected 1 to captions ({self.captions}), got {self.shown}")


@dataclass(frozen=True)
class ReadSign:
    """An image of a sign, its expected word, and the word that each reader read, in the order of the readers."""

    image: np.ndarray
    caption: str
    word: str
    read: tuple[str, ...]

    @property
    def edits(self) -> int:
        """The edit distance of the worst reading."""
        return max(edit_distance(self.word, one) for one in self.read)


@dataclass(frozen=True)
class TextFindings:
    """The read signs of each split: clean ones, first candidates and CLIP's choices, in the order of the captions.

    ``readers`` are the names of the readers' programs, by the readers' names in the config.
    """

    readers: dict[ReaderName, str]
    signs: dict[Split, dict[Which, tuple[ReadSign, ...]]]
    shown: int

    def accuracy(self, split: Split, which: Which, reader: int) -> TextAccuracy:
        """Return the accuracy of the signs as a reader reads them."""
        signs = self.signs[split][which]
        return TextAccuracy().update([one.word for one in signs], [one.read[reader] for one in signs])

    def agreement(self, which: Which) -> Share:
        """Return the share of the images of both splits that all readers read alike."""
        return share_of(len(set(one.read)) == 1 for splits in self.signs.values() for one in splits[which])

    def to_json(self) -> JsonObject:
        """Return the figures by reader, split and kind of image, and the readers' agreement by kind of image."""
        out: JsonObject = {}
        for reader, key in enumerate(self.readers):
            splits: JsonObject = {
                split: {which: self.accuracy(split, which, reader).to_json() for which in kinds}
                for split, kinds in self.signs.items()
            }
            out[key] = {"reader": self.readers[key], **splits}
        if len(self.readers) > 1:
            out["agreement"] = {which: self.agreement(which).value for which in self._kinds()}
        return out

    def panel(self) -> Panel:
        """Return the panel of the page."""
        figures = [
            PanelFigure.of_share(
                f"{key}.{split}.{which}.word_accuracy",
                f"{self.readers[key]}: words right, {SPLIT_TITLES[split]}, {WHICH[which]}",
                self.accuracy(split, which, reader).word_accuracy,
                _errors_note(self.accuracy(split, which, reader)),
            )
            for reader, key in enumerate(self.readers)
            for split in self.signs
            for which in self._kinds()
        ]
        if len(self.readers) > 1:
            figures += [
                PanelFigure.of_share(f"agreement.{which}", f"Readers agree, {WHICH[which]}", self.agreement(which))
                for which in self._kinds()
            ]
        return Panel(
            "Words on signs",
            "Signs are drawn from captions of level 6. The scene reader knows the letters that scenes are drawn with, "
            "and an OCR program does not. On clean signs a reader shows the most that it could find right.",
            tuple(figures),
            plots=(self._plot(),),
            images=tuple(
                ShownImages(f"{SPLIT_TITLES[split]}, {WHICH[self._shown_kind]}", self._worst(kinds[self._shown_kind]))
                for split, kinds in self.signs.items()
            ),
        )

    def _kinds(self) -> tuple[Which, ...]:
        return tuple(next(iter(self.signs.values())))

    @property
    def _shown_kind(self) -> Which:
        """The kind of sign that the page shows: first candidates, if there are any."""
        return "first" if "first" in self._kinds() else "clean"

    def _plot(self) -> Plot:
        """Return the share of right words by their length, a line for each reader."""
        signs = [one for kinds in self.signs.values() for one in kinds[self._shown_kind]]
        lengths = sorted({len(one.word) for one in signs})
        lines = []
        for reader, name in enumerate(self.readers.values()):
            shares = [share_of(one.read[reader] == one.word for one in signs if len(one.word) == n) for n in lengths]
            points = [(n, share.value) for n, share in zip(lengths, shares, strict=True)]
            lines.append(PlotLine(name, tuple((float(n), value) for n, value in points if value is not None)))
        return Plot(f"words right, {WHICH[self._shown_kind]}", "letters of the word", tuple(lines), percent=True)

    def _worst(self, signs: Sequence[ReadSign]) -> tuple[ShownImage, ...]:
        ordered = sorted(signs, key=lambda one: one.edits, reverse=True)[: self.shown]
        return tuple(
            ShownImage(
                one.image,
                one.caption,
                "; ".join(
                    f"{name}: {word or 'nothing'}" for name, word in zip(self.readers.values(), one.read, strict=True)
                ),
                all(word == one.word for word in one.read),
            )
            for one in ordered
        )


def evaluate_text(sampler: ImageSampler | None, config: EvaluateText, say: Callable[[str], None]) -> TextFindings:
    """Draw signs and read them; ``say`` takes a line of progress. Raise ``UserError`` if a reader is not installed."""
    side = config.side if sampler is None else sampler.side
    readers = [READERS[name]() for name in config.readers]
    names = {key: reader.name for key, reader in zip(config.readers, readers, strict=True)}
    signs: dict[Split, dict[Which, tuple[ReadSign, ...]]] = {}
    for split in DEFAULT_SPLITS:
        captions = evaluation_captions(LEVEL, split, config.captions, config.seed)
        rng = np.random.default_rng((config.seed, 6, DEFAULT_SPLITS.index(split)))
        images: dict[Which, list[np.ndarray]] = {"clean": [render(grammar.parse(one), side, rng) for one in captions]}
        if sampler is not None:
            drawn = sampler.draw(config.drawing.requests(captions, config.seed))
            images["first"] = [one.candidates[0] for one in drawn]
            if any(one.candidate_scores is not None for one in drawn):
                images["chosen"] = [one.candidates[one.chosen[0]] for one in drawn]
        kinds: dict[Which, tuple[ReadSign, ...]] = {
            which: read_signs(images[which], captions, readers) for which in WHICH if which in images
        }
        signs[split] = kinds
        found = TextFindings(names, {split: kinds}, config.shown)
        for reader, name in enumerate(names.values()):
            shares = [f"{WHICH[which]} {_percent(found.accuracy(split, which, reader))}" for which in kinds]
            say(f"{SPLIT_TITLES[split]}, words right by {name}: {', '.join(shares)}")
    return TextFindings(names, signs, config.shown)


def read_signs(
    images: Sequence[np.ndarray], captions: Sequence[str], readers: Sequence[TextReader]
) -> tuple[ReadSign, ...]:
    """Read the image of each caption with each reader. Raise ``UserError`` for a caption that names no word."""
    words = [grammar.parse(one).word for one in captions]
    read = [reader.read(images) for reader in readers]
    signs = []
    for image, caption, word, *found in zip(images, captions, words, *read, strict=True):
        if word is None:
            raise UserError(f"captions: expected the word of a sign in each, got {caption!r}")
        signs.append(ReadSign(image, caption, word, tuple(found)))
    return tuple(signs)


def _errors_note(accuracy: TextAccuracy) -> str:
    rate = accuracy.character_error_rate
    return "" if rate is None else f"{100 * rate:.1f} % character errors"


def _percent(accuracy: TextAccuracy) -> str:
    value = accuracy.word_accuracy.value
    return "not measured" if value is None else f"{100 * value:.0f} %"
