"""The hard negatives of a batch as arrays: on the host, in the encoders, and in the loss.

An example is followed by its m neighbours, and each of these 1 + m by its n wrong captions.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, ExampleBatch, Float, Int, Num, UInt8
from dalle_jax.data.loader import caption_group
from dalle_jax.data.seeded_hash import draw
from dalle_jax.models.clip import ClipConfig
from dalle_jax.tasks.batches import ImageFit
from dalle_jax.tasks.caption_tokens import CaptionTokenizer
from dalle_jax.tasks.negatives.hard_negatives import HardNegatives, NegativeCounts, Neighbour
from dalle_jax.train.task import Batch, Seed

WRONG_TEXT: Final = "wrong_text"
WRONG_PIXELS: Final = "wrong_pixels"
NEIGHBOUR: Final = "neighbour_"


class Embeddings(NamedTuple):
    """The L2-normalised embeddings of the images and captions of a batch.

    With hard negatives, ``neighbour_image`` and ``neighbour_text`` are those of m neighbours of each example,
    ``wrong_text`` those of n wrong captions of each example and of each neighbour, and ``wrong_image`` those of k
    images of each example that no caption describes.
    """

    image: Float[Array, "B E"]
    text: Float[Array, "B E"]
    neighbour_image: Float[Array, "B m E"] | None = None
    neighbour_text: Float[Array, "B m E"] | None = None
    wrong_text: Float[Array, "B 1+m n E"] | None = None
    wrong_image: Float[Array, "B k E"] | None = None


class JoinedEmbeddings(NamedTuple):
    """The embeddings of C = B (1 + m) examples and neighbours, and of n wrong captions and k wrong images of each."""

    image: Float[Array, "C E"]
    text: Float[Array, "C E"]
    wrong_text: Float[Array, "C n E"] | None
    wrong_image: Float[Array, "C k E"] | None


def negative_spec(counts: NegativeCounts, batch_size: int, model: ClipConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shape and dtype of each array of ``negative_rows``."""
    spec, near = {}, (batch_size, counts.images)
    if counts.images:
        side = model.image_size
        spec[f"{NEIGHBOUR}pixels"] = jax.ShapeDtypeStruct((*near, side, side, 3), jnp.uint8)
        spec[f"{NEIGHBOUR}text"] = jax.ShapeDtypeStruct((*near, model.text_length), jnp.int32)
        spec[f"{NEIGHBOUR}caption_group"] = jax.ShapeDtypeStruct(near, jnp.int32)
    if counts.blends:
        side = model.image_size
        spec[WRONG_PIXELS] = jax.ShapeDtypeStruct((batch_size, counts.blends, side, side, 3), jnp.uint8)
    if counts.texts:
        shape = (batch_size, 1 + counts.images, counts.texts, model.text_length)
        spec[WRONG_TEXT] = jax.ShapeDtypeStruct(shape, jnp.int32)
    return spec


def negative_rows(
    negatives: HardNegatives,
    captions: CaptionTokenizer,
    fit: ImageFit,
    examples: ExampleBatch,
    seeds: Sequence[Seed] | None,
) -> dict[str, np.ndarray]:
    """Return the arrays of a batch's hard negatives: ``wrong_text``, ``wrong_pixels``, and those of neighbours.

    Evaluation, with ``seeds`` None, has wrong captions of the examples alone, drawn by their captions.
    """
    texts = examples["caption"]
    each = [("evaluation", text) for text in texts] if seeds is None else seeds
    drawn = [draw(*one, "negatives") for one in each]
    near = negatives.images if seeds is not None else 0
    found: list[list[Neighbour]] = [[] for _ in texts]
    if near:
        found = [negatives.neighbours(text, fit.size, seed) for text, seed in zip(texts, drawn, strict=True)]
    every = [[text, *(one.caption for one in own)] for text, own in zip(texts, found, strict=True)]  # [B 1+m]

    def tokens(rows: list[str], first: int) -> np.ndarray:
        """Return the ids [B*k T]; each row has a seed of its own, of which the first is number ``first``."""
        per = len(rows) // len(texts)
        own = None if seeds is None else [(*seed, first + number) for seed in seeds for number in range(per)]
        return captions.rows(rows, own).reshape(len(texts), per, -1)

    arrays = {}
    if near:
        flat = [one for own in found for one in own]
        own_seeds = [(*seed, number) for seed in seeds or () for number in range(near)]
        pixels = fit.rows([one.image for one in flat], own_seeds)
        arrays[f"{NEIGHBOUR}pixels"] = pixels.reshape(len(texts), near, *pixels.shape[1:])
        arrays[f"{NEIGHBOUR}text"] = tokens([one.caption for one in flat], 1)
        groups = [caption_group(one.captions) for one in flat]
        arrays[f"{NEIGHBOUR}caption_group"] = np.array(groups, np.int32).reshape(len(texts), near)
    if negatives.blends and seeds is not None:
        blended = [negatives.blended(text, fit.size, seed) for text, seed in zip(texts, drawn, strict=True)]
        own_seeds = [(*seed, near + number) for seed in seeds for number in range(negatives.blends)]
        pixels = fit.rows([one for own in blended for one in own], own_seeds)
        arrays[WRONG_PIXELS] = pixels.reshape(len(texts), negatives.blends, *pixels.shape[1:])
    if negatives.texts:
        wrong = [
            other
            for own, seed in zip(every, drawn, strict=True)
            for number, text in enumerate(own)
            for other in negatives.wrong_captions(text, seed + number)
        ]
        ids = tokens(wrong, 1 + near)
        arrays[WRONG_TEXT] = ids.reshape(len(texts), 1 + near, negatives.texts, -1)
    return arrays


def with_neighbours(batch: Batch, name: str) -> Num[Array, "C ..."]:
    """Return an array of a batch with the rows of the neighbours, example by example."""
    own = batch[name]
    if NEIGHBOUR + name not in batch:
        return own
    rows = jnp.concatenate([own[:, None], batch[NEIGHBOUR + name]], axis=1)  # [B 1+m ...]
    return rows.reshape(-1, *own.shape[1:])


def all_pixels(batch: Batch) -> UInt8[Array, "R H W 3"]:
    """Return all images of a batch: for each example its own, its neighbours, and those that no caption describes."""
    own = batch["pixels"]
    names = (NEIGHBOUR + "pixels", WRONG_PIXELS)
    kinds = [own[:, None], *(batch[name] for name in names if name in batch)]
    return jnp.concatenate(kinds, axis=1).reshape(-1, *own.shape[1:])


def with_negatives(batch: Batch) -> Int[Array, "R T"]:
    """Return the token ids of all captions of a batch: for each example those of ``_texts``."""
    kinds = [rows.reshape(rows.shape[0], -1, rows.shape[-1]) for rows in _texts(batch)]
    return jnp.concatenate(kinds, axis=1).reshape(-1, kinds[0].shape[-1])


def _texts(batch: Batch) -> list[Int[Array, "B ... T"]]:
    """Return the captions of the examples, then those of neighbours, then the wrong ones, as far as there are any."""
    names = ("text", f"{NEIGHBOUR}text", WRONG_TEXT)
    return [batch[name] for name in names if name in batch]


def split_negatives(image: Float[Array, "Q E"], text: Float[Array, "R E"], batch: Batch) -> Embeddings:
    """Return the embeddings by kind, given those of ``all_pixels`` and ``with_negatives``."""
    rows = batch["text"].shape[0]
    images = image.reshape(rows, -1, image.shape[-1])  # [B 1+m+k E]
    texts = text.reshape(rows, -1, text.shape[-1])
    near = 1 + (batch[NEIGHBOUR + "text"].shape[1] if NEIGHBOUR + "text" in batch else 0)
    found = Embeddings(images[:, 0], texts[:, 0])
    if near > 1:
        found = found._replace(neighbour_image=images[:, 1:near], neighbour_text=texts[:, 1:near])
    if WRONG_TEXT in batch:
        found = found._replace(wrong_text=texts[:, near:].reshape(*batch[WRONG_TEXT].shape[:3], -1))
    return found._replace(wrong_image=images[:, near:]) if WRONG_PIXELS in batch else found


def joined(embeddings: Embeddings) -> JoinedEmbeddings:
    """Return the embeddings of examples and neighbours in the order of ``with_neighbours``."""
    image, text, wrong, blends = embeddings.image, embeddings.text, embeddings.wrong_text, embeddings.wrong_image
    width = image.shape[-1]
    if embeddings.neighbour_image is not None and embeddings.neighbour_text is not None:
        image = jnp.concatenate([image[:, None], embeddings.neighbour_image], axis=1).reshape(-1, width)
        text = jnp.concatenate([text[:, None], embeddings.neighbour_text], axis=1).reshape(-1, width)
    if blends is not None:  # they are wrong for the neighbours too
        blends = jnp.repeat(blends, image.shape[0] // blends.shape[0], axis=0)
    return JoinedEmbeddings(image, text, None if wrong is None else wrong.reshape(-1, wrong.shape[2], width), blends)
