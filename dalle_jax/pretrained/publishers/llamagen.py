"""LlamaGen's transformers (``.pt``), and their published sizes."""

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
from dalle_jax.pretrained.files.tensors import StoredTensor, Tensors
from dalle_jax.pretrained.mapping import IDENTITY, TRANSPOSE, Rule, Transform, dense, rule
from dalle_jax.pretrained.publisher import Published, positive_int, read_json, read_licence
from dalle_jax.pretrained.signatures import LLAMAGEN, locate
from dalle_jax.sampling.options import RecommendedSampling


@dataclass(frozen=True)
class PublishedSize:
    """Depth, width and number of heads of a published model."""

    depth: int
    width: int
    heads: int


SIZES = {
    "B": PublishedSize(depth=12, width=768, heads=12),
    "L": PublishedSize(depth=24, width=1024, heads=16),
    "XL": PublishedSize(depth=36, width=1280, heads=20),
    "XXL": PublishedSize(depth=48, width=1536, heads=24),
    "3B": PublishedSize(depth=24, width=3200, heads=32),
}
"""Published sizes by name (section 3.1 of the paper). The depth and width in a file tell which model it is."""


def tensors_of(path: Path, caption_length: int | None = None) -> Tensors:
    """Read the tensors of a ``.pt``, under any prefix such as "model", "module" or "state_dict".

    The stored empty caption is cut to its first ``caption_length`` rows for a model with shorter captions.
    """
    tensors = locate(read_tensors(path), LLAMAGEN)
    empty = tensors.stored.get("cls_embedding.uncond_embedding")
    if caption_length is None or empty is None:
        return tensors
    short = StoredTensor((caption_length, *empty.shape[1:]), empty.dtype, lambda: empty.read()[:caption_length])
    found = Tensors(tensors.name, tensors.stored | {"cls_embedding.uncond_embedding": short}, tensors.scalars)
    found.skipped, found.prefix = tensors.skipped, tensors.prefix
    return found


OF_CLASSES, OF_CAPTIONS = RecommendedSampling(4.0, 2000), RecommendedSampling(7.5, 1000)
"""Defaults of the authors' programs sample_c2i.py and sample_t2i.py."""
IGNORED = {r"freqs_cis": "a table that is computed from the sizes"}


def published(source: Path) -> Published:
    """Read the network in a ``.pt``; sizes that its tensors lack come from ``config.json`` or the file's name.

    ``config.json`` in the same folder may contain ``n_head``, ``block_size`` and, for captions, ``cls_token_num``.
    Published names end in the image size: ``c2i_B_256.pt``, ``t2i_XL_stage2_512.pt``.
    """
    path = source.parent / "config.json"
    flags = read_json(path) if path.is_file() else {}
    keys = ("n_head", "block_size", "cls_token_num")
    sizes = {key: positive_int(path, key, flags[key]) for key in keys if key in flags}
    length = sizes.get("cls_token_num") if flags.get("model_type") == "t2i" else None
    tensors = tensors_of(source, length)
    shapes = {name: one.shape for name, one in tensors.stored.items()}
    config = config_from_shapes(
        shapes, str(source), heads=sizes.get("n_head"), grid=grid_of(source, sizes.get("block_size"))
    )
    return Published(
        config=config,
        tensors=tensors,
        rules=rules_for(config),
        ignored=IGNORED,
        files=(source, path) if flags else (source,),
        licence=read_licence(source.parent),
        name=next(
            (name for name, one in SIZES.items() if (one.depth, one.width) == (config.depth, config.width)), None
        ),
        sampling=OF_CLASSES if isinstance(config.condition, ByClass) else OF_CAPTIONS,
    )


def grid_of(source: Path, positions: int | None) -> tuple[int, int]:
    """Infer the grid (h, w) from ``positions``, or from the image size in the file's name.

    Raises UserError if there is neither.
    """
    found = re.search(r"_(256|384|512)$", source.stem)
    if positions is None and found is None:
        raise UserError(
            f"{source}: expected a name that ends in the image size (_256.pt, _384.pt or _512.pt), or config.json "
            "with block_size in the same folder, got neither"
        )
    side = math.isqrt(positions) if positions is not None else int(found[1] if found else 0) // DOWNSAMPLE
    if positions is not None and side**2 != positions:
        raise UserError(f"{source.parent / 'config.json'}: expected block_size as a square, got {positions}")
    return side, side


DOWNSAMPLE = 16
"""Side of the square of pixels that one code of the published tokenizer covers."""


def config_from_shapes(
    shapes: Mapping[str, tuple[int, ...]], name: str, *, grid: tuple[int, int], heads: int | None = None
) -> LlamaGenConfig:  # fmt: skip
    """Infer the config from the shapes of a state dict.

    Shapes do not determine the grid and the number of heads. The default ``heads`` is that of the published model of
    the same depth and width. Raises UserError if a size cannot be inferred.
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
            f"{name}: expected as many key heads as query heads, wqkv of {3 * width} rows, "
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
    table, empty = (shapes.get(f"cls_embedding.{key}") for key in ("embedding_table.weight", "uncond_embedding"))
    if table is not None:
        return ByClass(classes=table[0] - 1)
    if empty is None or len(empty) != 2:
        raise UserError(
            f"{name}: expected cls_embedding.embedding_table or cls_embedding.uncond_embedding, got neither"
        )
    return ByCaption(length=empty[0], width=empty[1])


def _multiple_of(width: int, hidden: int, name: str) -> int:
    """Return the config's ``multiple_of``, to a multiple of which 8/3 ``width`` is rounded up to get ``hidden``.

    It is 256, as published, if this gives ``hidden``, else the largest power of two that does.
    """
    least = int(2 * 4 * width / 3)
    for multiple in (256, *(2**power for power in range(16, -1, -1))):
        if -(-least // multiple) * multiple == hidden:
            return multiple
    raise UserError(
        f"{name}: expected a hidden width that is {least} rounded up to a multiple of a power of two, got {hidden}"
    )


def _stacked_layers(each: Transform, depth: int) -> Transform:
    """Build the transform that applies ``each`` to every layer's tensors and stacks the results on a new first axis.

    With a ``depth`` of 1 it is ``each`` itself, without a new axis.
    """
    if depth == 1:
        return each

    def forward(*xs: np.ndarray) -> np.ndarray:
        count = len(xs) // depth
        return np.stack([each.forward(*xs[i : i + count]) for i in range(0, len(xs), count)])

    return Transform(forward, lambda x: tuple(one for layer in x for one in each.backward(layer)))


GATE_AND_UP = Transform(lambda *xs: np.stack([x.T for x in xs], axis=1), lambda x: tuple(x[:, i].T for i in range(2)))
"""A transform that stacks ``w1`` and ``w3``, each [F D], to [D 2 F]."""


def rules_for(config: LlamaGenConfig) -> list[Rule]:
    """Build the rules of a scanned network."""
    heads, width, depth = (config.heads, config.width // config.heads), config.width, config.depth
    here = "stack.blocks" if depth > 1 else "stack.blocks.0"

    def layers(target: str, *names: str, transform: Transform) -> Rule:
        sources = [f"layers.{layer}.{name}.weight" for layer in range(depth) for name in names]
        return rule(f"{here}.{target}", *sources, transform=_stacked_layers(transform, depth))

    if isinstance(config.condition, ByClass):
        condition = [rule("condition.table", "cls_embedding.embedding_table.weight")]
    else:
        condition = [
            rule("condition.up.kernel", "cls_embedding.cap_proj.fc1.weight", transform=TRANSPOSE),
            rule("condition.down.kernel", "cls_embedding.cap_proj.fc2.weight", transform=TRANSPOSE),
            rule("condition.none", "cls_embedding.uncond_embedding"),
        ]
    return [
        *condition,
        rule("codes.embedding.table", "tok_embeddings.weight"),
        rule("codes.head.kernel", "output.weight", transform=TRANSPOSE),
        rule("norm.scale", "norm.weight"),
        layers("attention_norm.scale", "attention_norm", transform=IDENTITY),
        layers("attention.qkv.kernel", "attention.wqkv", transform=dense((width,), (3, *heads))),
        layers("attention.out.kernel", "attention.wo", transform=dense(heads, (width,))),
        layers("mlp_norm.scale", "ffn_norm", transform=IDENTITY),
        layers("mlp.up.kernel", "feed_forward.w1", "feed_forward.w3", transform=GATE_AND_UP),
        layers("mlp.down.kernel", "feed_forward.w2", transform=TRANSPOSE),
    ]
