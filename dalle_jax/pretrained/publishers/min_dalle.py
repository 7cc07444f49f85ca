"""min-dalle: ``encoder.pt`` and ``decoder.pt``, DALL·E mini's weights with other names and unstacked layers.

The files hold no config. Sizes come from the tensors; by default a head is 64 wide, as published.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dalle_jax.config.errors import UserError
from dalle_jax.models.dalle_bart import DalleBartConfig
from dalle_jax.pretrained.files.read_weights import read_tensors
from dalle_jax.pretrained.files.tensors import Tensors
from dalle_jax.pretrained.mapping import TRANSPOSE, Rule, Transform, rule
from dalle_jax.pretrained.publisher import Published, find_file, find_vocabulary, read_json, read_licence
from dalle_jax.pretrained.publishers.dalle_mini import EMPTY_CAPTION, PAD_ID, VQGAN_CODES, config_from_json, rules_for
from dalle_jax.pretrained.signatures import MIN_DALLE_SIDE, locate
from dalle_jax.sampling.options import RecommendedSampling
from dalle_jax.text.bart_bpe import BartBpe

HEAD_WIDTH = 64
DEMO = RecommendedSampling(guidance=16.0, top_k=256)
"""``supercondition_factor`` and ``top_k`` of the authors' program."""

NAMES = {
    "LayerNorm_0/bias": "pre_self_attn_layer_norm.bias",
    "LayerNorm_1/scale": "self_attn_layer_norm.weight",
    "LayerNorm_1/bias": "self_attn_layer_norm.bias",
    "LayerNorm_2/bias": "pre_encoder_attn_layer_norm.bias",
    "LayerNorm_3/scale": "encoder_attn_layer_norm.weight",
    "LayerNorm_3/bias": "encoder_attn_layer_norm.bias",
    **{f"FlaxBartAttention_0/{one}_proj/kernel": f"self_attn.{one}_proj.weight" for one in ("q", "k", "v", "out")},
    **{f"FlaxBartAttention_1/{one}_proj/kernel": f"encoder_attn.{one}_proj.weight" for one in ("q", "k", "v", "out")},
    **{f"GLU_0/Dense_{i}/kernel": f"glu.fc{i}.weight" for i in range(3)},
    **{f"GLU_0/LayerNorm_{i}/bias": f"glu.ln{i}.bias" for i in range(2)},
    "embed_tokens/embedding": "embed_tokens.weight",
    "embed_positions/embedding": "embed_positions.weight",
    "layernorm_embedding/scale": "layernorm_embedding.weight",
    "layernorm_embedding/bias": "layernorm_embedding.bias",
    "final_ln/bias": "final_ln.bias",
}
"""By DALL·E mini's name, min-dalle's name of a tensor, both relative to a layer, the encoder or the decoder."""


def _unstacked(each: Transform, depth: int, transposed: bool) -> Transform:
    """Build the transform of separate layers from DALL·E mini's transform ``each`` of stacked layers.

    If ``transposed``, the matrices of the separate layers are [out in].
    """

    def forward(*xs: np.ndarray) -> np.ndarray:
        xs = tuple(x.T for x in xs) if transposed else xs
        return each.forward(*(np.stack(xs[i : i + depth]) for i in range(0, len(xs), depth)))

    def backward(x: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(layer.T if transposed else layer for part in each.backward(x) for layer in part)

    return Transform(forward, backward)


def _renamed(one: Rule, depths: Mapping[str, int]) -> Rule:
    """Convert a rule of DALL·E mini's layout to min-dalle's.

    ``depths`` has the numbers of layers of encoder and decoder.
    """
    if one.target == "codes.head.kernel":
        return rule(one.target, "decoder/lm_head.weight", transform=TRANSPOSE)
    side, rest = one.sources[0].removeprefix("model/").split("/", 1)
    if not rest.startswith("layers/"):
        return rule(one.target, f"{side}/{NAMES[rest]}", transform=one.transform)
    names = [NAMES[source.split("/", 4)[4]] for source in one.sources]
    sources = [f"{side}/layers.{i}.{name}" for name in names for i in range(depths[side])]
    transform = _unstacked(one.transform, depths[side], transposed=one.sources[0].endswith("/kernel"))
    return rule(one.target, *sources, transform=transform)


def min_dalle_rules(config: DalleBartConfig) -> list[Rule]:
    """Build the rules of a scanned network; names in ``encoder.pt`` get the prefix "encoder/"."""
    depths = {"encoder": config.encoder_layers, "decoder": config.decoder_layers}
    return [_renamed(one, depths) for one in rules_for(config)]


def config_from_shapes(
    shapes: Mapping[str, tuple[int, ...]], name: str, *, heads: int | None = None, codebook_size: int | None = None,
    start_code: int | None = None,
) -> DalleBartConfig:  # fmt: skip
    """Infer the config from the tensors' shapes, by the names of ``min_dalle_rules``.

    The default ``start_code`` is the last row of the code table. Raises UserError if a size cannot be inferred.
    """
    known = {
        "codes": "decoder/embed_tokens.weight", "positions": "decoder/embed_positions.weight",
        "text": "encoder/embed_tokens.weight", "text positions": "encoder/embed_positions.weight",
        "encoder hidden": "encoder/layers.0.glu.fc0.weight", "decoder hidden": "decoder/layers.0.glu.fc0.weight",
    }  # fmt: skip
    missing = [theirs for theirs in known.values() if len(shapes.get(theirs, ())) != 2]
    if missing:
        raise UserError(f"{name}: expected min-dalle's encoder.pt and decoder.pt, got none with {', '.join(missing)}")
    size = {key: shapes[theirs] for key, theirs in known.items()}
    (rows, width), (text_vocab, _) = size["codes"], size["text"]
    positions = size["positions"][0]
    side = math.isqrt(positions)
    if heads is None and width % HEAD_WIDTH:
        raise UserError(
            f"{name}: expected a width that {HEAD_WIDTH} divides, or DALL·E mini's config.json in the folder, "
            f"got {width}"
        )
    if side**2 != positions:
        raise UserError(f"{name}: expected a square number of positions in decoder.pt, got {positions}")
    codes = min(rows - 1, VQGAN_CODES) if codebook_size is None else codebook_size
    try:
        return DalleBartConfig(
            text_vocab=text_vocab, text_length=size["text positions"][0], codebook_size=codes, grid=(side, side),
            width=width, encoder_layers=_layers(shapes, "encoder"), encoder_heads=heads or width // HEAD_WIDTH,
            encoder_hidden=size["encoder hidden"][0], decoder_layers=_layers(shapes, "decoder"),
            decoder_heads=heads or width // HEAD_WIDTH, decoder_hidden=size["decoder hidden"][0], scan=True,
            pad_id=PAD_ID, empty_caption=EMPTY_CAPTION, extra_codes=rows - codes,
            start_code=rows - 1 if start_code is None else start_code,
        )  # fmt: skip
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error


def _layers(shapes: Mapping[str, tuple[int, ...]], side: str) -> int:
    found = (re.match(rf"{side}/layers\.(\d{{1,4}})\.", name) for name in shapes)
    return 1 + max(int(match[1]) for match in found if match)


def read_min_dalle(folder: Path) -> Tensors:
    """Read ``encoder.pt`` and ``decoder.pt`` of a folder, with the prefixes "encoder/" and "decoder/"."""
    tensors = Tensors(str(folder), {})
    for side in ("encoder", "decoder"):
        tensors.add(f"{side}/", locate(read_tensors(find_file(folder, (f"{side}.pt",))), MIN_DALLE_SIDE))
    return tensors


def published(source: Path) -> Published:
    """Read ``encoder.pt`` and ``decoder.pt`` in a folder, with DALL·E mini's ``config.json`` if there is one."""
    tensors, path = read_min_dalle(source), source / "config.json"
    files = tuple(source / f"{side}.pt" for side in ("encoder", "decoder"))
    if path.is_file():
        config, files = config_from_json(read_json(path), str(path)), (path, *files)
    else:
        config = config_from_shapes({name: one.shape for name, one in tensors.stored.items()}, str(source))
    return Published(
        config=config,
        tensors=tensors,
        rules=min_dalle_rules(config),
        ignored={},
        files=files,
        licence=read_licence(source),
        vocabulary=BartBpe(variant="min_dalle"),
        vocabulary_file=find_vocabulary(source),
        sampling=DEMO,
    )
