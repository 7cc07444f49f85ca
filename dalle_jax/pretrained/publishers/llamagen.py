"""LlamaGen's published transformers (``.pt``), and the sizes in which they are published."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dalle_jax.config.errors import UserError
from dalle_jax.models.llamagen import LlamaGenConfig
from dalle_jax.models.prompt_kinds import ByCaption, ByClass
from dalle_jax.pretrained.files.read_weights import read_tensors
from dalle_jax.pretrained.files.tensors import Stored, Tensors, refused
from dalle_jax.pretrained.mapping import SAME, TURNED, How, Rule, dense, rule
from dalle_jax.pretrained.publisher import Published, licence_beside, read_json


@dataclass(frozen=True)
class Size:
    """A published size."""

    depth: int
    width: int
    heads: int


SIZES = {
    "B": Size(depth=12, width=768, heads=12),
    "L": Size(depth=24, width=1024, heads=16),
    "XL": Size(depth=36, width=1280, heads=20),
    "XXL": Size(depth=48, width=1536, heads=24),
    "3B": Size(depth=24, width=3200, heads=32),
}
"""The published sizes by their names (section 3.1). A file is told from them by its depth and width."""


def tensors_of(path: Path, caption_length: int | None = None) -> Tensors:
    """The tensors of a ``.pt``, whichever of "model", "module" and "state_dict" they are under.

    Models of captions shorter than the stored empty caption use its beginning: ``caption_length`` of it.
    """
    tensors = read_tensors(path).without_wrapper(("model", "module", "state_dict"))
    none = tensors.stored.get("cls_embedding.uncond_embedding")
    if caption_length is None or none is None:
        return tensors
    short = Stored((caption_length, *none.shape[1:]), none.dtype, lambda: none.read()[:caption_length])
    found = Tensors(tensors.name, tensors.stored | {"cls_embedding.uncond_embedding": short}, tensors.values_beside)
    found.left = tensors.left
    return found


IGNORED = {r"freqs_cis": "a table that follows from the sizes"}


def published(source: Path) -> Published:
    """The network in a ``.pt``. What its tensors do not tell comes from ``config.json`` beside it, or from its name.

    ``config.json`` may say ``n_head``, ``block_size`` and, of a model of captions, ``cls_token_num``. Published names
    end in the image's size: ``c2i_B_256.pt``, ``t2i_XL_stage2_512.pt``.
    """
    path = source.parent / "config.json"
    sizes = read_json(path) if path.is_file() else {}
    for key in ("n_head", "block_size", "cls_token_num"):
        if key in sizes and not (isinstance(sizes[key], int) and sizes[key] > 0):
            raise refused(path, f"{key} as a whole number from 1 on", repr(sizes[key])[:80])
    length = sizes.get("cls_token_num") if sizes.get("model_type") == "t2i" else None
    tensors = tensors_of(source, length)
    shapes = {name: one.shape for name, one in tensors.stored.items()}
    config = config_of(shapes, str(source), heads=sizes.get("n_head"), grid=grid_of(source, sizes.get("block_size")))
    return Published(
        config=config,
        tensors=tensors,
        rules=rules_of(config),
        ignored=IGNORED,
        files=(source, path) if sizes else (source,),
        licence=licence_beside(source.parent),
        name=next(
            (name for name, one in SIZES.items() if (one.depth, one.width) == (config.depth, config.width)), None
        ),
    )


def grid_of(source: Path, positions: int | None) -> tuple[int, int]:
    """(h, w) of so many ``positions``, or by the size in the file's name; UserError where neither tells."""
    found = re.search(r"_(256|384|512)$", source.stem)
    if positions is None and found is None:
        raise UserError(
            f"{source}: expected a name that ends in the image's size (_256.pt, _384.pt or _512.pt), or config.json "
            "with block_size beside it, got neither"
        )
    side = math.isqrt(positions) if positions is not None else int(found[1] if found else 0) // DOWNSAMPLE
    if positions is not None and side**2 != positions:
        raise UserError(f"{source.parent / 'config.json'}: expected block_size as a square, got {positions}")
    return side, side


DOWNSAMPLE = 16
"""Pixels of a side that one code of the published tokenizer stands for."""


def config_of(
    shapes: Mapping[str, tuple[int, ...]], name: str, *, grid: tuple[int, int], heads: int | None = None
) -> LlamaGenConfig:  # fmt: skip
    """The network of a state dict of these shapes.

    They tell neither the grid nor the number of heads; the latter follows from a published depth and width. Raises
    UserError where a size cannot be told.
    """
    needed = ("tok_embeddings.weight", "layers.0.feed_forward.w1.weight", "layers.0.attention.wqkv.weight")
    missing = [key for key in needed if len(shapes.get(key, ())) != 2]
    if missing:
        raise UserError(f"{name}: expected a LlamaGen transformer, got a file without {', '.join(missing)}")
    vocabulary, width = shapes["tok_embeddings.weight"]
    depth = 1 + max(int(match[1]) for key in shapes if (match := re.match(r"layers\.(\d{1,4})\.", key)))
    if heads is None:
        sizes = [one for one in SIZES.values() if (one.depth, one.width) == (depth, width)]
        if not sizes:
            known = ", ".join(f"{one.depth} x {one.width}" for one in SIZES.values())
            raise UserError(
                f"{name}: expected a published depth and width ({known}) or config.json with n_head, "
                f"got {depth} x {width}"
            )
        heads = sizes[0].heads
    if shapes["layers.0.attention.wqkv.weight"][0] != 3 * width:
        raise UserError(
            f"{name}: expected as many heads of keys as of queries, wqkv of {3 * width} rows, "
            f"got {shapes['layers.0.attention.wqkv.weight'][0]}"
        )
    hidden = shapes["layers.0.feed_forward.w1.weight"][0]
    try:
        return LlamaGenConfig(
            condition=_condition(shapes, name), codebook_size=vocabulary,
            grid=grid, width=width, depth=depth, heads=heads,
            multiple_of=_multiple_of(width, hidden, name), scan=True,
        )  # fmt: skip
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error


def _condition(shapes: Mapping[str, tuple[int, ...]], name: str) -> ByClass | ByCaption:
    table, none = (shapes.get(f"cls_embedding.{key}") for key in ("embedding_table.weight", "uncond_embedding"))
    if table is not None:
        return ByClass(classes=table[0] - 1)
    if none is None or len(none) != 2:
        raise UserError(
            f"{name}: expected cls_embedding.embedding_table or cls_embedding.uncond_embedding, got neither"
        )
    return ByCaption(length=none[0], width=none[1])


def _multiple_of(width: int, hidden: int, name: str) -> int:
    """The published 256 where it gives ``hidden``, else the largest power of two that does."""
    least = int(2 * 4 * width / 3)
    for multiple in (256, *(2**power for power in range(16, -1, -1))):
        if -(-least // multiple) * multiple == hidden:
            return multiple
    raise UserError(f"{name}: expected a hidden width that is the next multiple from {least} on, got {hidden}")


def _layered(each: How, depth: int) -> How:
    """What each layer's tensors become, on a new first axis where there is more than one layer."""
    if depth == 1:
        return each

    def forward(*xs: np.ndarray) -> np.ndarray:
        count = len(xs) // depth
        return np.stack([each.forward(*xs[i : i + count]) for i in range(0, len(xs), count)])

    return How(forward, lambda x: tuple(one for layer in x for one in each.backward(layer)))


GATED = How(lambda *xs: np.stack([x.T for x in xs], axis=1), lambda x: tuple(x[:, i].T for i in range(2)))
"""``w1`` and ``w3``, each [F D], to [D 2 F]."""


def rules_of(config: LlamaGenConfig) -> list[Rule]:
    """Every parameter of a scanned network and where it lies in the state dict."""
    heads, width, depth = (config.heads, config.width // config.heads), config.width, config.depth
    here = "stack.blocks" if depth > 1 else "stack.blocks.0"

    def layers(target: str, *names: str, how: How) -> Rule:
        sources = [f"layers.{layer}.{name}.weight" for layer in range(depth) for name in names]
        return rule(f"{here}.{target}", *sources, how=_layered(how, depth))

    if isinstance(config.condition, ByClass):
        condition = [rule("condition.table", "cls_embedding.embedding_table.weight")]
    else:
        condition = [
            rule("condition.up.kernel", "cls_embedding.cap_proj.fc1.weight", how=TURNED),
            rule("condition.down.kernel", "cls_embedding.cap_proj.fc2.weight", how=TURNED),
            rule("condition.none", "cls_embedding.uncond_embedding"),
        ]
    return [
        *condition,
        rule("codes.embedding.table", "tok_embeddings.weight"),
        rule("codes.head.kernel", "output.weight", how=TURNED),
        rule("norm.scale", "norm.weight"),
        layers("attention_norm.scale", "attention_norm", how=SAME),
        layers("attention.qkv.kernel", "attention.wqkv", how=dense((width,), (3, *heads))),
        layers("attention.out.kernel", "attention.wo", how=dense(heads, (width,))),
        layers("mlp_norm.scale", "ffn_norm", how=SAME),
        layers("mlp.up.kernel", "feed_forward.w1", "feed_forward.w3", how=GATED),
        layers("mlp.down.kernel", "feed_forward.w2", how=TURNED),
    ]
