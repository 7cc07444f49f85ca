"""Evaluation of a pipeline trained on captioned scenes; the scene reader judges generated images by their pixels."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dalle_jax.arrays import Float, UInt8
from dalle_jax.evaluate.metrics.atoms import AtomTable, atom_table
from dalle_jax.evaluate.metrics.composition import (
    DEFAULT_SPLITS,
    Cell,
    Composition,
    JudgedCaption,
    Split,
    evaluation_captions,
    measure_cell,
)
from dalle_jax.evaluate.metrics.reconstruction import Reconstruction, measure_reconstruction
from dalle_jax.evaluate.metrics.shares import Share, share_of
from dalle_jax.evaluate.metrics.zero_shot import class_vectors
from dalle_jax.evaluate.suites.drawing import Drawing
from dalle_jax.evaluate.suites.findings import Candidate, GuidancePoint, ReconstructedImage, Sample, SampleGroup
from dalle_jax.evaluate.suites.panels import Panel
from dalle_jax.evaluate.suites.pipeline_parts import ImageSampler, Reconstructor, TextImageEncoder
from dalle_jax.evaluate.suites.scene_panel import scene_panel
from dalle_jax.pipelines.request import Generation
from dalle_jax.scenes import grammar
from dalle_jax.scenes.rendering import render
from dalle_jax.scenes.scene import COLOURS, SHAPES, SIZES, Scene, SceneObject
from dalle_jax.scenes.second_reader import LEVELS as SECOND_READER_LEVELS
from dalle_jax.scenes.second_reader import judge_again

LEVEL_TITLES = (
    (1, "one object: size, colour, shape"),
    (2, "two objects and how they stand"),
    (3, "two, three or four alike"),
    (4, "a stack of three"),
    (5, "an object on a coloured background"),
    (6, "a word on a sign"),
)
SPLIT_TITLES: dict[Split, str] = {
    "seen": "combinations seen in training",
    "held_out": "combinations never seen",
    "prompted": "combinations never seen that prompts may name",
    "unnamed": "combinations that neither images nor prompts have",
}


@dataclass(frozen=True)
class EvaluateScenes:
    """Evaluation on scene captions: generates images for ``captions`` of each level and split, and judges them.

    A second reader judges first candidates and choices too, except words on signs (``scenes.second_reader``).

    The first ``many_captions`` of each get ``many_candidates`` candidates, to measure reranking among more images. The
    first ``guidance_captions`` get one candidate at each scale of ``guidances``. The image tokenizer, if there is one,
    reconstructs ``reconstructions`` rendered scenes of each level; CLIP names as many of level 1. A report shows the
    first ``shown`` captions of each level and split, among ``splits``.
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
    splits: tuple[Split, ...] = DEFAULT_SPLITS

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
    """Measurements on captioned scenes, and the images that a report shows.

    ``reconstruction`` is None without an image tokenizer, for a decoder of pixels. ``zero_shot`` is CLIP's accuracy on
    scenes of level 1 among all scenes of the level, one caption per scene; ``zero_shot_ensemble`` the same with every
    caption of each scene. ``atoms_first`` is of the first candidates, ``atoms_chosen`` of CLIP's choices.
    """

    reconstruction: Reconstruction | None
    reconstructed: tuple[ReconstructedImage, ...]
    composition: Composition
    atoms_first: AtomTable
    atoms_chosen: AtomTable
    samples: tuple[SampleGroup, ...]
    guidance: tuple[GuidancePoint, ...]
    zero_shot: Share
    zero_shot_ensemble: Share

    def to_json(self) -> dict[str, object]:
        """Return all metrics as ``evaluation.json`` holds them."""
        return {
            **({} if self.reconstruction is None else {"reconstruction": self.reconstruction.to_json()}),
            "composition": self.composition.to_json(),
            "atoms": {"first": self.atoms_first.to_json(), "chosen": self.atoms_chosen.to_json()},
            "guidance": {f"{point.scale:g}": point.composition.to_json() for point in self.guidance},
            "clip": {"zero_shot": self.zero_shot.value, "zero_shot_ensemble": self.zero_shot_ensemble.value},
        }

    def panel(self) -> Panel:
        """Return the panel of the page."""
        atoms = (self.atoms_first, self.atoms_chosen)
        return scene_panel(self.composition, self.reconstruction, *atoms, self.samples)


def evaluate_scenes(
    sampler: ImageSampler,
    codec: Reconstructor | None,
    clip: TextImageEncoder,
    config: EvaluateScenes,
    say: Callable[[str], None],
) -> SceneFindings:
    """Generate, judge and count; ``say`` takes a line of progress. The sampler must rank its candidates."""
    reconstruction, shown = (None, ()) if codec is None else _reconstruct(codec, sampler.side, config)
    if reconstruction is not None:
        say(f"reconstruction {reconstruction.psnr:.1f} dB")
    cells: list[Cell] = []
    groups: list[SampleGroup] = []
    every: list[JudgedCaption] = []
    for level in config.levels:
        for split in config.splits:
            captions = evaluation_captions(level, split, config.captions, config.seed)
            cell, judged, drawn = _draw_cell(sampler, level, split, captions, config.drawing, config.seed)
            if config.many_captions:
                cell = _with_many(sampler, cell, drawn[: config.many_captions], config)
            cells.append(cell)
            every += judged
            groups.append(_group(level, split, judged[: config.shown], drawn[: config.shown], cell.chosen_of))
            say(f"level {level} {split}: first candidate {_percent(cell.first)}, CLIP's choice {_percent(cell.chosen)}")
    points = _guidance_points(sampler, config)
    zero_shot, ensemble = (_zero_shot(codec, clip, sampler.side, config, captions) for captions in (1, None))
    say(f"CLIP's zero-shot accuracy on level 1: {_percent(zero_shot)}, with prompt ensemble {_percent(ensemble)}")
    composition = Composition(tuple(cells))
    return SceneFindings(
        reconstruction=reconstruction,
        reconstructed=shown,
        composition=composition,
        atoms_first=atom_table(one.first for one in every),
        atoms_chosen=atom_table(one.chosen for one in every),
        samples=tuple(groups),
        guidance=points,
        zero_shot=zero_shot,
        zero_shot_ensemble=ensemble,
    )


def _draw_cell(
    sampler: ImageSampler, level: int, split: Split, captions: tuple[str, ...], drawing: Drawing, seed: int
) -> tuple[Cell, tuple[JudgedCaption, ...], list[Generation]]:
    drawn = sampler.draw(drawing.requests(captions, seed))
    again = judge_again if level in SECOND_READER_LEVELS else None
    cell, judged = measure_cell(level, split, captions, *_candidates(drawn), judged_again_by=again)
    return cell, judged, drawn


def _candidates(drawn: list[Generation]) -> tuple[UInt8[np.ndarray, "P M H W 3"], Float[np.ndarray, "P M"]]:
    """Return all candidates and their CLIP scores."""
    scores = [one.candidate_scores for one in drawn if one.candidate_scores is not None]
    return np.stack([one.candidates for one in drawn]), np.stack(scores)


def _with_many(sampler: ImageSampler, cell: Cell, drawn: list[Generation], config: EvaluateScenes) -> Cell:
    """Return the cell with CLIP's choice among ``many_candidates`` added, over fewer captions than its other shares.

    The candidates in ``drawn`` are kept; only the missing ones are generated.
    """
    captions = tuple(one.prompt for one in drawn)
    first = config.drawing.candidates
    requests = config.drawing.requests(captions, config.seed)
    more = config.many_candidates - first
    missing = [replace(one, options=replace(one.options, candidates=more, first=first)) for one in requests]
    both = zip(_candidates(drawn), _candidates(sampler.draw(missing)), strict=True)
    images, scores = (np.concatenate(pair, axis=1) for pair in both)
    many = measure_cell(cell.level, cell.split, captions, images, scores)[0]
    added = {n: share for n, share in many.reranked.items() if n not in cell.reranked}
    return replace(cell, reranked=cell.reranked | added)


def _guidance_points(sampler: ImageSampler, config: EvaluateScenes) -> tuple[GuidancePoint, ...]:
    """Generate one candidate per caption at every scale, with one call for all scales of a cell."""
    if not config.guidance_captions:
        return ()
    cells: dict[float, list[Cell]] = {scale: [] for scale in config.guidances}
    for level, split in itertools.product(config.levels, config.splits):
        captions = evaluation_captions(level, split, config.guidance_captions, config.seed)
        requests = [
            one
            for scale in config.guidances
            for one in replace(config.drawing, guidance=scale, guidance_end=None, candidates=1).requests(
                captions, config.seed
            )
        ]
        drawn = sampler.draw(requests)
        for number, scale in enumerate(config.guidances):
            own = drawn[number * len(captions) : (number + 1) * len(captions)]
            cells[scale].append(measure_cell(level, split, captions, *_candidates(own))[0])
    return tuple(GuidancePoint(scale, Composition(tuple(own))) for scale, own in cells.items())


def _group(
    level: int, split: Split, judged: tuple[JudgedCaption, ...], drawn: list[Generation], chosen_of: int
) -> SampleGroup:
    samples = []
    for judgement, one in zip(judged, drawn, strict=True):
        scores = one.candidate_scores
        first, chosen = (
            Candidate(
                image=one.candidates[index],
                right=verdict.right,
                parts=verdict.parts,
                index=index,
                score=None if scores is None else float(scores[index]),
            )
            for index, verdict in ((0, judgement.first), (judgement.chosen_index, judgement.chosen))
        )
        samples.append(Sample(judgement.caption, first, chosen, chosen_of))
    title = f"Level {level}, {dict(LEVEL_TITLES)[level]}: {SPLIT_TITLES[split]}"
    return SampleGroup(title, tuple(samples), level, split)


def _reconstruct(
    codec: Reconstructor, side: int, config: EvaluateScenes
) -> tuple[Reconstruction, tuple[ReconstructedImage, ...]]:
    originals, captions, levels = [], [], []
    for level in config.levels:
        rng = np.random.default_rng((config.seed, 1, level))
        for _ in range(config.reconstructions):
            scene = grammar.sample_scene(level, rng, "validation")
            originals.append(render(scene, side, rng))
            captions.append(grammar.caption(scene, rng))
            levels.append(level)
    images = np.stack(originals)
    copies = codec.reconstruct(images)
    shown = [
        ReconstructedImage(images[i], copies[i], captions[i])
        for start in range(0, len(images), config.reconstructions)
        for i in range(start, min(start + config.shown, start + config.reconstructions))
    ]
    return measure_reconstruction(images, copies, captions, levels), tuple(shown)


def _zero_shot(
    codec: Reconstructor | None, clip: TextImageEncoder, side: int, config: EvaluateScenes, captions: int | None
) -> Share:
    """Return CLIP's zero-shot accuracy on images of level 1, whose classes are all scenes of the level.

    With an image tokenizer the images are reconstructions. A class vector averages the embeddings of ``captions``
    captions of its scene, or of all if it is None.
    """
    rng = np.random.default_rng((config.seed, 2))
    scenes = [grammar.sample_scene(1, rng, "validation") for _ in range(config.reconstructions)]
    rendered = np.stack([render(scene, side, rng) for scene in scenes])
    images = rendered if codec is None else codec.reconstruct(rendered)
    things = itertools.product(COLOURS, SHAPES, SIZES)
    classes = [Scene(1, "single", (SceneObject(colour, shape, size),)) for colour, shape, size in things]
    vectors = class_vectors(clip.text_vectors, [grammar.captions(scene)[:captions] for scene in classes])
    best = (clip.image_vectors(images) @ vectors.T).argmax(axis=1)  # [B]
    return share_of(classes[int(one)] == scene for one, scene in zip(best, scenes, strict=True))


def _percent(share: Share) -> str:
    return "not measured" if share.value is None else f"{100 * share.value:.0f} %"
