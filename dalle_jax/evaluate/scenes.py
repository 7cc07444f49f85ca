"""The figures of a pipeline trained on captioned scenes: what it draws, judged from pixels alone."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dalle_jax.arrays import Float, UInt8
from dalle_jax.evaluate.composition import (
    SPLITS,
    Cell,
    Composition,
    JudgedCaption,
    Split,
    evaluation_captions,
    measure_cell,
)
from dalle_jax.evaluate.reconstruction import Reconstruction, measure_reconstruction
from dalle_jax.evaluate.report_data import Candidate, GuidancePoint, ReconstructedPicture, Sample, SampleGroup
from dalle_jax.evaluate.shares import Share, share_of
from dalle_jax.evaluate.zero_shot import class_vectors
from dalle_jax.pipelines.autoregressive import Drawn, Pipeline, Request
from dalle_jax.scenes import grammar
from dalle_jax.scenes.rendering import render
from dalle_jax.scenes.scene import COLOURS, SHAPES, SIZES, Scene, SceneObject

LEVEL_TITLES = (
    (1, "one object: size, colour, shape"),
    (2, "two objects and how they stand"),
    (3, "two, three or four alike"),
    (4, "a stack of three"),
    (5, "an object on a coloured background"),
    (6, "a word on a sign"),
)
SPLIT_TITLES: dict[Split, str] = {"seen": "combinations seen in training", "held_out": "combinations never seen"}


@dataclass(frozen=True)
class Drawing:
    """How evaluation draws; the names are those of ``Request``. ``batch`` is how many pictures one call holds."""

    candidates: int
    guidance: float
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    batch: int = 64

    def requests(self, captions: tuple[str, ...], seed: int) -> list[Request]:
        """One request per caption; captions have seeds of their own, so that their noise differs."""
        return [
            Request(
                prompt=caption,
                candidates=self.candidates,
                keep=1,
                temperature=self.temperature,
                top_k=self.top_k,
                top_p=self.top_p,
                guidance=self.guidance,
                seed=seed + number,
            )
            for number, caption in enumerate(captions)
        ]


@dataclass(frozen=True)
class EvaluateScenes:
    """``captions`` are drawn per level and split with ``drawing``.

    Of the first ``many_captions`` of each more are drawn, up to ``many_candidates``, to show what ranking more of them
    gives, and ``guidance_captions`` with each of ``guidances``, one candidate each. ``reconstructions`` pictures of
    each level go through the tokenizer. ``shown`` captions of each level and split stand in the report: the first of
    the fixed list, not the best.
    """

    levels: tuple[int, ...]
    captions: int
    drawing: Drawing
    seed: int = 0
    many_captions: int = 0
    many_candidates: int = 64
    guidance_captions: int = 0
    guidances: tuple[float, ...] = ()
    reconstructions: int = 200
    shown: int = 8

    def __post_init__(self) -> None:
        if self.many_captions and self.many_candidates <= self.drawing.candidates:
            raise ValueError(
                f"many_candidates: expected more than drawing.candidates ({self.drawing.candidates}), "
                f"got {self.many_candidates}"
            )
        if self.many_captions > self.captions:
            raise ValueError(f"many_captions: expected at most captions ({self.captions}), got {self.many_captions}")


@dataclass(frozen=True)
class SceneFindings:
    """All that was measured and what is shown of it; ``zero_shot`` is CLIP's, on level 1, among all of its scenes."""

    reconstruction: Reconstruction
    reconstructed: tuple[ReconstructedPicture, ...]
    composition: Composition
    samples: tuple[SampleGroup, ...]
    guidance: tuple[GuidancePoint, ...]
    zero_shot: Share
    pictures: int
    zero_shot_ensemble: Share


def evaluate_scenes(pipeline: Pipeline, config: EvaluateScenes, say: Callable[[str], None]) -> SceneFindings:
    """Draws, judges and counts; ``say`` is told what is going on. The pipeline needs a CLIP."""
    reconstruction, shown = _reconstruct(pipeline, config)
    say(f"reconstruction {reconstruction.psnr:.1f} dB")
    cells: list[Cell] = []
    groups: list[SampleGroup] = []
    for level in config.levels:
        for split in SPLITS:
            captions = evaluation_captions(level, split, config.captions, config.seed)
            cell, judged, drawn = _draw_cell(pipeline, level, split, captions, config.drawing, config.seed)
            if config.many_captions:
                cell = _with_many(pipeline, cell, drawn[: config.many_captions], config)
            cells.append(cell)
            groups.append(_group(level, split, judged[: config.shown], drawn[: config.shown], cell.chosen_of))
            say(f"level {level} {split}: {_percent(cell.first)} first, {_percent(cell.chosen)} CLIP's choice")
    pictures = len(cells) * config.captions * config.drawing.candidates
    pictures += len(cells) * config.many_captions * config.many_candidates
    points = _guidance_points(pipeline, config)
    pictures += len(points) * len(cells) * config.guidance_captions
    zero_shot, ensemble = (_zero_shot(pipeline, config, wordings) for wordings in (1, None))
    say(f"CLIP's zero-shot accuracy on level 1: {_percent(zero_shot)}, with all wordings {_percent(ensemble)}")
    composition = Composition(tuple(cells))
    return SceneFindings(reconstruction, shown, composition, tuple(groups), points, zero_shot, pictures, ensemble)


def _draw_cell(
    pipeline: Pipeline, level: int, split: Split, captions: tuple[str, ...], drawing: Drawing, seed: int
) -> tuple[Cell, tuple[JudgedCaption, ...], list[Drawn]]:
    drawn = pipeline.draw(drawing.requests(captions, seed))
    cell, judged = measure_cell(level, split, captions, *_candidates(drawn))
    return cell, judged, drawn


def _candidates(drawn: list[Drawn]) -> tuple[UInt8[np.ndarray, "P M H W 3"], Float[np.ndarray, "P M"]]:
    """All pictures and CLIP's scores of them."""
    scores = [one.candidate_scores for one in drawn if one.candidate_scores is not None]
    return np.stack([one.candidates for one in drawn]), np.stack(scores)


def _with_many(pipeline: Pipeline, cell: Cell, drawn: list[Drawn], config: EvaluateScenes) -> Cell:
    """The cell with CLIP's choice among ``many_candidates``, over fewer captions than the rest of it.

    What was drawn counts among them: only the missing candidates are added.
    """
    captions = tuple(one.prompt for one in drawn)
    first = config.drawing.candidates
    requests = config.drawing.requests(captions, config.seed)
    missing = [replace(one, candidates=config.many_candidates - first, first=first) for one in requests]
    both = zip(_candidates(drawn), _candidates(pipeline.draw(missing)), strict=True)
    pictures, scores = (np.concatenate(pair, axis=1) for pair in both)
    many = measure_cell(cell.level, cell.split, captions, pictures, scores)[0]
    more = {n: share for n, share in many.reranked.items() if n not in cell.reranked}
    return replace(cell, reranked=cell.reranked | more)


def _guidance_points(pipeline: Pipeline, config: EvaluateScenes) -> tuple[GuidancePoint, ...]:
    """One candidate per caption at every scale; the scales of a cell share their calls."""
    cells: dict[float, list[Cell]] = {scale: [] for scale in config.guidances}
    for level, split in itertools.product(config.levels, SPLITS):
        captions = evaluation_captions(level, split, config.guidance_captions, config.seed)
        requests = [
            one
            for scale in config.guidances
            for one in replace(config.drawing, guidance=scale, candidates=1).requests(captions, config.seed)
        ]
        drawn = pipeline.draw(requests)
        for number, scale in enumerate(config.guidances):
            own = drawn[number * len(captions) : (number + 1) * len(captions)]
            cells[scale].append(measure_cell(level, split, captions, *_candidates(own))[0])
    return tuple(GuidancePoint(scale, Composition(tuple(own))) for scale, own in cells.items())


def _group(
    level: int, split: Split, judged: tuple[JudgedCaption, ...], drawn: list[Drawn], chosen_of: int
) -> SampleGroup:
    samples = []
    for said, one in zip(judged, drawn, strict=True):
        scores = one.candidate_scores
        first, chosen = (
            Candidate(
                picture=one.candidates[index],
                right=verdict.right,
                parts=verdict.parts,
                index=index,
                score=None if scores is None else float(scores[index]),
            )
            for index, verdict in ((0, said.first), (said.chosen_index, said.chosen))
        )
        samples.append(Sample(said.caption, first, chosen, chosen_of))
    title = f"Level {level}, {dict(LEVEL_TITLES)[level]}: {SPLIT_TITLES[split]}"
    return SampleGroup(title, tuple(samples), level, split)


def _reconstruct(pipeline: Pipeline, config: EvaluateScenes) -> tuple[Reconstruction, tuple[ReconstructedPicture, ...]]:
    originals, captions, levels = [], [], []
    for level in config.levels:
        rng = np.random.default_rng((config.seed, 1, level))
        for _ in range(config.reconstructions):
            scene = grammar.sample_scene(level, rng, "validation")
            originals.append(render(scene, pipeline.side, rng))
            captions.append(grammar.caption(scene, rng))
            levels.append(level)
    pictures = np.stack(originals)
    copies = pipeline.reconstruct(pictures)
    shown = [
        ReconstructedPicture(pictures[i], copies[i], captions[i])
        for start in range(0, len(pictures), config.reconstructions)
        for i in range(start, min(start + config.shown, start + config.reconstructions))
    ]
    return measure_reconstruction(pictures, copies, captions, levels), tuple(shown)


def _zero_shot(pipeline: Pipeline, config: EvaluateScenes, wordings: int | None) -> Share:
    """Pictures of level 1 against the level's scenes, whatever their split, each said in so many ways (None: all)."""
    rng = np.random.default_rng((config.seed, 2))
    scenes = [grammar.sample_scene(1, rng, "validation") for _ in range(config.reconstructions)]
    pictures = pipeline.reconstruct(np.stack([render(scene, pipeline.side, rng) for scene in scenes]))
    things = itertools.product(COLOURS, SHAPES, SIZES)
    classes = [Scene(1, "single", (SceneObject(colour, shape, size),)) for colour, shape, size in things]
    vectors = class_vectors(pipeline.text_vectors, [grammar.captions(scene)[:wordings] for scene in classes])
    best = (pipeline.image_vectors(pictures) @ vectors.T).argmax(axis=1)  # [B]
    return share_of(classes[int(one)] == scene for one, scene in zip(best, scenes, strict=True))


def _percent(share: Share) -> str:
    return "nothing" if share.value is None else f"{100 * share.value:.0f} %"
