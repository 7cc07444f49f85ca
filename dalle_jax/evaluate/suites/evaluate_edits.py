"""Evaluation of variations, interpolations and text edits on scenes of level 1; the scene reader judges the results."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float, Key, UInt8
from dalle_jax.evaluate.metrics.shares import share_of
from dalle_jax.evaluate.suites.findings import EditedImages, EditFindings, EditMeasure
from dalle_jax.pipelines.edits.embedding_editor import EmbeddingEditor
from dalle_jax.pipelines.edits.embedding_edits import between
from dalle_jax.pipelines.edits.interpolate import frame_shares, frames_between
from dalle_jax.pipelines.edits.text_edit import text_differences
from dalle_jax.pipelines.edits.vary import turned_to_texts
from dalle_jax.pipelines.unclip import Unclip
from dalle_jax.sampling.autoregressive import image_keys
from dalle_jax.scenes import grammar
from dalle_jax.scenes.perceive import DetectedObject, perceive
from dalle_jax.scenes.rendering import LATTICE, render
from dalle_jax.scenes.scene import COLOURS, Scene, SceneObject

MOVED = 0.75 / LATTICE
"""The distance of two centres, in sides of the image, from which a place has changed: 3/4 of the least move."""


@dataclass(frozen=True)
class EvaluateEdits:
    """Evaluation of edits: ``cases`` scenes of each kind, of combinations that occur in training.

    - ``guidance``: the scale of the decoder's classifier-free guidance.
    - ``vary_strength``, ``vary_eta``, ``edit_strength``: options of ``vary`` and ``edit``.
    - ``frames``: the frames of an interpolation.
    - ``shown``: the cases of each kind in a report.
    """

    cases: int = 80
    guidance: float = 2.0
    vary_strength: float = 0.75
    vary_eta: float = 1.0
    edit_strength: float = 0.5
    frames: int = 8
    seed: int = 0
    shown: int = 6


@dataclass(frozen=True)
class EditCases:
    """Rendered scenes with captions, their CLIP vectors, their inverted noises, and a key each."""

    scenes: tuple[Scene, ...]
    captions: list[str]
    images: UInt8[np.ndarray, "B H W 3"]
    vectors: Float[np.ndarray, "B E"]
    noises: Float[np.ndarray, " B *noise"]
    keys: Key[Array, " B"]


def evaluate_edits(
    unclip: EmbeddingEditor, config: EvaluateEdits, say: Callable[[str], None]
) -> tuple[EditFindings, ...]:
    """Vary, interpolate and edit, and judge; ``say`` takes a line of progress."""
    rng = np.random.default_rng((config.seed, 5))
    cases = _cases(unclip, [grammar.sample_scene(1, rng, "validation") for _ in range(config.cases)], rng, config)
    ends = [_second_end(scene, rng) for scene in cases.scenes]
    found = (
        _measure_variations(unclip, cases, config),
        _measure_interpolations(unclip, cases, _cases(unclip, ends, rng, config), config),
        _measure_text_edits(unclip, cases, rng, config),
    )
    for one in found:
        shares = ", ".join(f"{measure.key} {_shown(measure)}" for measure in one.measures)
        say(f"{one.name}: {shares}")
    return found


def _cases(
    unclip: EmbeddingEditor, scenes: Sequence[Scene], rng: np.random.Generator, config: EvaluateEdits
) -> EditCases:
    images = np.stack([render(scene, unclip.side, rng) for scene in scenes])
    vectors = unclip.image_vectors(images)
    noises = unclip.invert(images, vectors, config.guidance)
    seeds = jnp.asarray(config.seed + np.arange(len(scenes)), jnp.uint32)
    captions = [grammar.caption(scene, rng) for scene in scenes]
    return EditCases(tuple(scenes), captions, images, vectors, noises, image_keys(seeds, 1)[:, 0])


def _second_end(first: Scene, rng: np.random.Generator) -> Scene:
    """Draw a scene of another colour and another shape."""
    thing = first.objects[0]
    while True:
        scene = grammar.sample_scene(1, rng, "validation")
        other = scene.objects[0]
        if other.colour != thing.colour and other.shape != thing.shape:
            return scene


def only_object(image: UInt8[np.ndarray, "H W 3"]) -> DetectedObject | None:
    """Return the object of an image that has exactly one, else None."""
    objects = perceive(image).objects
    return objects[0] if len(objects) == 1 else None


def _is(seen: DetectedObject | None, colour: str, shape: str) -> bool:
    return seen is not None and (seen.colour, seen.shape) == (colour, shape)


def _colour(seen: DetectedObject | None) -> str | None:
    return None if seen is None else seen.colour


def _shape(seen: DetectedObject | None) -> str | None:
    return None if seen is None else seen.shape


def has_moved(before: DetectedObject | None, after: DetectedObject | None) -> bool:
    """Return whether both have an object, and its place or its size differs."""
    if before is None or after is None:
        return False
    return before.size != after.size or bool(np.hypot(before.x - after.x, before.y - after.y) >= MOVED)


def _measure_variations(unclip: EmbeddingEditor, cases: EditCases, config: EvaluateEdits) -> EditFindings:
    things = [scene.objects[0] for scene in cases.scenes]
    before = [only_object(image) for image in cases.images]
    given = (cases.keys, config.guidance, cases.noises)
    turned = turned_to_texts(unclip, cases.vectors, cases.captions, config.vary_strength, cases.keys)
    measures, shown = [], []
    for prefix, vectors, title in (
        ("", turned, f"with a text, strength {config.vary_strength:g}"),
        ("without_text.", cases.vectors, "without a text"),
    ):
        images = unclip.decode(vectors, *given, config.vary_eta)
        after = [only_object(image) for image in images]
        same = [_is(seen, thing.colour, thing.shape) for seen, thing in zip(after, things, strict=True)]
        moved = [ok and has_moved(*pair) for ok, *pair in zip(same, before, after, strict=True)]
        shown.append((images, same))
        note = f"{title}, eta {config.vary_eta:g}"
        measures += [
            EditMeasure(f"{prefix}same_attributes", "Same colour and shape", share_of(same), note),
            EditMeasure(f"{prefix}place_or_size_changed", "And another place or size", share_of(moved), note),
        ]
    kept = _returned(unclip, cases, config)
    rows = tuple(
        EditedImages(cases.captions[i], (cases.images[i], shown[0][0][i], shown[1][0][i]), shown[0][1][i])
        for i in range(min(config.shown, len(things)))
    )
    about = (
        "From left to right: the image, a variation with its caption as the text, and one without a text. A variation "
        "with a text turns the image's vector toward one that the prior draws for the text. The verdict is that of the "
        f"first. A place has changed from {MOVED:.3f} of the image's side on."
    )
    return EditFindings("vary", "Variations", about, len(things), (*measures, kept), rows)


def _returned(unclip: EmbeddingEditor, cases: EditCases, config: EvaluateEdits) -> EditMeasure:
    """Measure how well an image comes back by its own vector and noise: its codes, or its pixels without codes."""
    given, note = (cases.vectors, cases.keys, config.guidance, cases.noises), "own vector, eta 0"
    if isinstance(unclip, Unclip):
        same = unclip.decode_codes(*given) == unclip.codec.encode(cases.images)  # [B h w]
        return EditMeasure(
            "codes_returned", "Codes that come back", share_of(same.ravel().tolist()), f"all codes, {note}"
        )
    error = np.abs(unclip.decode(*given).astype(np.float32) - cases.images).mean()
    return EditMeasure("error_returned", "Mean error of the image that comes back, of 255", float(error), note)


def _measure_interpolations(
    unclip: EmbeddingEditor, first: EditCases, last: EditCases, config: EvaluateEdits
) -> EditFindings:
    vectors, noises = (np.stack(pair) for pair in ((first.vectors, last.vectors), (first.noises, last.noises)))
    shares = frame_shares(config.frames)
    frames = frames_between(unclip, vectors, noises, shares, first.keys, config.guidance)  # [B F H W 3]
    seen = [[only_object(image) for image in path] for path in frames]
    ends = [(one.objects[0], other.objects[0]) for one, other in zip(first.scenes, last.scenes, strict=True)]
    paths = list(zip(seen, ends, strict=True))
    colours = [switches([_colour(one) for one in path], (a.colour, b.colour)) for path, (a, b) in paths]
    shapes = [switches([_shape(one) for one in path], (a.shape, b.shape)) for path, (a, b) in paths]
    both = [(a.once and b.once, a.only_ends and b.only_ends) for a, b in zip(colours, shapes, strict=True)]
    measures = (
        EditMeasure("monotone", "Colour and shape switch once", share_of(one for one, _ in both)),
        EditMeasure("colour_monotone", "Colour switches once", share_of(one.once for one in colours)),
        EditMeasure("shape_monotone", "Shape switches once", share_of(one.once for one in shapes)),
        EditMeasure("no_third_value", "And no third colour or shape between", share_of(a and b for a, b in both)),
    )
    rows = tuple(
        EditedImages(f"{first.captions[i]} → {last.captions[i]}", tuple(frames[i]), both[i][0])
        for i in range(min(config.shown, len(ends)))
    )
    about = (
        f"{config.frames} frames on the sphere between the vectors, and the inverted noises, of two images of another "
        "colour and shape. An attribute switches once if the path begins with its first value, ends with its second, "
        "and no frame of the first comes after one of the second."
    )
    return EditFindings("interpolate", "Interpolations", about, len(ends), measures, rows)


@dataclass(frozen=True)
class Switch:
    """An attribute along a path: it changes ``once``, from its first value to its second, and takes ``only_ends``."""

    once: bool
    only_ends: bool


def switches(values: Sequence[str | None], ends: tuple[str, str]) -> Switch:
    """Judge the values that were read in the frames of a path; None is an image without exactly one object."""
    at_first, at_last = ([i for i, value in enumerate(values) if value == end] for end in ends)
    once = values[0] == ends[0] and values[-1] == ends[1] and max(at_first) < min(at_last)
    return Switch(once, len(at_first) + len(at_last) == len(values))


def _measure_text_edits(
    unclip: EmbeddingEditor, cases: EditCases, rng: np.random.Generator, config: EvaluateEdits
) -> EditFindings:
    things = [scene.objects[0] for scene in cases.scenes]
    colours = [str(rng.choice([one for one in COLOURS if one != thing.colour])) for thing in things]
    wanted = [Scene(1, "single", (SceneObject(c, t.shape, t.size),)) for c, t in zip(colours, things, strict=True)]
    first, second = ([grammar.captions(one)[0] for one in scenes] for scenes in (cases.scenes, wanted))
    difference = text_differences(unclip, first, second)
    vectors = between(cases.vectors, difference, np.full(len(things), config.edit_strength, np.float32))
    images = unclip.decode(vectors, cases.keys, config.guidance, cases.noises)
    before, after = ([only_object(image) for image in some] for some in (cases.images, images))
    changed = [seen is not None and seen.colour == colour for seen, colour in zip(after, colours, strict=True)]
    kept = [seen is not None and seen.shape == thing.shape for seen, thing in zip(after, things, strict=True)]
    both = [a and b for a, b in zip(changed, kept, strict=True)]
    still = [ok and not has_moved(*pair) for ok, *pair in zip(both, before, after, strict=True)]
    note = f"strength {config.edit_strength:g}"
    measures = (
        EditMeasure("colour_changed_shape_kept", "Colour changed, shape kept", share_of(both), note),
        EditMeasure("colour_changed", "Colour changed as asked for", share_of(changed), note),
        EditMeasure("shape_kept", "Shape kept", share_of(kept), note),
        EditMeasure("place_and_size_kept", "All of it, and place and size kept", share_of(still), note),
    )
    rows = tuple(
        EditedImages(f"{first[i]} → {second[i]}", (cases.images[i], images[i]), both[i])
        for i in range(min(config.shown, len(things)))
    )
    about = (
        "The image's vector turns toward the difference of two texts, which name another colour, and is decoded from "
        "the image's own noise. Nothing tells the decoder which part of the image to change."
    )
    return EditFindings("edit", "Text edits", about, len(things), measures, rows)


def _shown(measure: EditMeasure) -> str:
    if isinstance(measure.value, float):
        return f"{measure.value:.2f}"
    return "not measured" if measure.value.value is None else f"{100 * measure.value.value:.0f} %"
