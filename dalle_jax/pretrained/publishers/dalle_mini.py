"""Import and export of DALL·E mini and mega: ``config.json`` and ``flax_model.msgpack``.

Sizes come from the config. models/dalle_bart.py must implement every other flag; one error names all flags that it does
not implement. Layers are stacked (``use_scan``), as models/dalle_bart.py stores them with ``scan``.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.serialization import msgpack_serialize
from flax.traverse_util import unflatten_dict

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.config.problems import did_you_mean
from dalle_jax.models.dalle_bart import DalleBart, DalleBartConfig
from dalle_jax.pretrained.files.read_weights import read_tensors
from dalle_jax.pretrained.files.tensors import is_size
from dalle_jax.pretrained.mapping import IDENTITY, Rule, Transform, rule, to_published
from dalle_jax.pretrained.publisher import Json, Published, find_vocabulary, read_json, read_licence
from dalle_jax.pretrained.signatures import DALLE_MINI, locate
from dalle_jax.sampling.options import RecommendedSampling
from dalle_jax.text.bart_bpe import BartBpe

DEMO = RecommendedSampling(guidance=10.0)
"""``cond_scale`` of the authors' inference notebook, which sets neither top-k nor top-p."""

PAD_ID, EMPTY_CAPTION = 1, (0, 2)
"""BART's ``<pad>``, and the ids ``<s> </s>`` of a caption without words."""

VQGAN_CODES = 16384
"""Codebook size of the published VQGAN. The tables of DALL·E mega have more rows, which its training never used."""

MAX_SIZE, MAX_LAYERS = 1 << 24, 1000
"""Limits far above every published size. A config with larger sizes is wrong, and its network would exhaust memory."""

SIZES = {
    "d_model": "width",
    "encoder_vocab_size": "text_vocab",
    "max_text_length": "text_length",
    "encoder_layers": "encoder_layers",
    "encoder_attention_heads": "encoder_heads",
    "encoder_ffn_dim": "encoder_hidden",
    "decoder_layers": "decoder_layers",
    "decoder_attention_heads": "decoder_heads",
    "decoder_ffn_dim": "decoder_hidden",
}
"""Fields of ``DalleBartConfig`` by the keys of config.json; ``image_vocab_size`` and ``image_length`` are converted."""

REQUIRED: dict[str, object] = {
    "activation_function": "gelu",
    "activation_dropout": 0.0,
    "attention_dropout": 0.0,
    "add_cross_attention": False,
    "force_ln_scale": False,
    "is_encoder_decoder": True,
    "ln_positions": "normformer",
    "ln_type": "layernorm",
    "model_type": "dallebart",
    "scale_embedding": False,
    "sinkhorn_iters": 1,
    "tie_encoder_decoder": False,
    "tie_word_embeddings": False,
    "use_absolute_position_embeddings": True,
    "use_alibi": False,
    "use_bias": False,
    "use_cosine_attention": False,
    "use_deepnet_scaling": False,
    "use_final_ln_decoder": True,
    "use_final_ln_encoder": True,
    "use_glu": True,
    "use_head_scale": False,
    "use_scan": True,
    "use_subln_init": False,
    "use_swin_position_embeddings": False,
}
"""The only implemented value of each flag."""

NEEDED = ("use_glu",)
"""Flags that config.json must contain, because their default is not the implemented value."""

_OTHER = """
decoder_start_token_id dropout image_length image_vocab_size init_std
tau_init gradient_checkpointing normalize_text tf_legacy_loss use_bfloat16 use_cache
_name_or_path architectures bad_words_ids begin_suppress_tokens bos_token_id chunk_size_feed_forward
cross_attention_hidden_size diversity_penalty do_sample dtype early_stopping encoder_no_repeat_ngram_size
eos_token_id exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id id2label
is_decoder label2id length_penalty max_length min_length no_repeat_ngram_size num_beam_groups num_beams
num_hidden_layers num_return_sequences output_attentions output_hidden_states output_scores pad_token_id prefix
problem_type pruned_heads remove_invalid_values repetition_penalty return_dict return_dict_in_generate
sep_token_id suppress_tokens task_specific_params temperature tokenizer_class top_k top_p torch_dtype torchscript
transformers_version typical_p
"""
OTHER = frozenset(_OTHER.split())
"""Other keys of config.json. ``config_from_json`` reads the keys in the first line of ``_OTHER``.

The other keys do not change the network. They are settings of training and sampling, or keys that the library writes
into every config. ``tau_init`` belongs to cosine attention.
"""


def config_from_json(published: Mapping[str, object], name: str, codebook_size: int | None = None) -> DalleBartConfig:
    """Convert the content of a ``config.json`` with the path ``name``.

    ``codebook_size`` is the image tokenizer's; the default is the published VQGAN's. Raises UserError with a line for
    every flag that is unknown or not implemented, and for every size that is missing.
    """
    problems = [f"{key}: expected {REQUIRED[key]!r}, got nothing" for key in NEEDED if key not in published]
    for key, value in published.items():
        if key in REQUIRED and value != REQUIRED[key] and not (key == "use_scan" and value is None):
            problems.append(f"{key}: expected {REQUIRED[key]!r}, the only one implemented, got {value!r}")
        elif key not in REQUIRED and key not in SIZES and key not in OTHER:
            problems.append(f"{key}: expected a known flag, got {value!r}{did_you_mean(key, [*REQUIRED, *SIZES])}")
    sizes: dict[str, int] = {}
    for key in (*SIZES, "image_vocab_size", "image_length"):
        value, most = published.get(key), MAX_LAYERS if key.endswith("_layers") else MAX_SIZE
        if is_size(value) and 1 <= value <= most:
            sizes[key] = value
        else:
            problems.append(f"{key}: expected a whole number from 1 to {most}, got {value!r}")
    side = math.isqrt(sizes.get("image_length", 1))
    if side**2 != sizes.get("image_length", 1):
        problems.append(f"image_length: expected a square, got {sizes['image_length']}")
    if problems:
        raise UserError("\n".join(f"{name}: {problem}" for problem in problems))
    rows = sizes["image_vocab_size"]
    codes = min(rows, VQGAN_CODES) if codebook_size is None else codebook_size
    if codes > rows:
        raise UserError(f"{name}: expected image_vocab_size of at least {codes}, the codebook's, got {rows}")
    fields: dict[str, Any] = {ours: sizes[theirs] for theirs, ours in SIZES.items()}
    try:
        return DalleBartConfig(
            **fields,
            codebook_size=codes, grid=(side, side), extra_codes=rows + 1 - codes, pad_id=PAD_ID,
            empty_caption=EMPTY_CAPTION, start_code=_start_code(published, rows),
            init_std=_number(published, "init_std", 0.02), dropout=_number(published, "dropout", 0.0), scan=True,
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: {error}") from error


def _start_code(published: Mapping[str, object], rows: int) -> int:
    """Return the decoder's start token; by default it is the last row of the table."""
    start = published.get("decoder_start_token_id")
    if start is None:
        return rows
    if not isinstance(start, int):
        raise ValueError(f"decoder_start_token_id: expected a whole number, got {start!r}")
    return start


def _number(published: Mapping[str, object], key: str, default: float) -> float:
    value = published.get(key, default)
    if not isinstance(value, int | float):
        raise ValueError(f"{key}: expected a number, got {value!r}")
    return float(value)


def config_to_json(config: DalleBartConfig) -> Json:
    """Convert a config to the content of ``config.json``; raise UserError for one that the layout cannot express."""
    if config.code_width or config.start_code is None or not config.extra_codes:
        raise UserError(
            "model: expected code_width 0, a start_code and extra_codes of 1 or more, as DALL·E mini has them, got "
            f"{config.code_width}, {config.start_code} and {config.extra_codes}"
        )
    if config.grid[0] != config.grid[1]:
        raise UserError(f"model.grid: expected a square, as DALL·E mini has it, got {config.grid}")
    if (config.pad_id, config.empty_caption) != (PAD_ID, EMPTY_CAPTION):
        raise UserError(
            f"model: expected pad_id {PAD_ID} and empty_caption {EMPTY_CAPTION}, the ids of DALL·E mini's "
            f"text tokenizer, which config.json cannot change, got {config.pad_id} and {config.empty_caption}"
        )
    sizes = {theirs: getattr(config, ours) for theirs, ours in SIZES.items()}
    rows, start = config.codebook_size + config.extra_codes - 1, config.start_code
    return REQUIRED | sizes | {
        "image_vocab_size": rows, "image_length": math.prod(config.grid), "decoder_start_token_id": start,
        "bos_token_id": rows, "eos_token_id": rows, "pad_token_id": rows,
        "min_length": math.prod(config.grid) + 1, "max_length": math.prod(config.grid) + 1,
        "init_std": config.init_std, "dropout": config.dropout,
    }  # fmt: skip


def _split_output_heads(count: int, single: bool) -> Transform:
    """Build the transform that splits the outputs of a kernel into heads: [... in out] to [... in N H]."""
    return _without_layer_axis(
        Transform(
            lambda x: x.reshape(*x.shape[:-1], count, -1),
            lambda x: (x.reshape(*x.shape[:-2], -1),),
        ),
        single,
    )


def _split_input_heads(count: int, single: bool) -> Transform:
    """Build the transform that splits the inputs of a kernel into heads: [... in out] to [... N H out]."""
    return _without_layer_axis(
        Transform(
            lambda x: x.reshape(*x.shape[:-2], count, -1, x.shape[-1]),
            lambda x: (x.reshape(*x.shape[:-3], -1, x.shape[-1]),),
        ),
        single,
    )


def _stack_kernels(outs: tuple[int, ...], single: bool) -> Transform:
    """Build the transform that stacks n kernels [... in out] of the same inputs to [... in n *outs]."""
    axis = -1 - len(outs)
    return _without_layer_axis(
        Transform(
            lambda *xs: np.stack([x.reshape(*x.shape[:-1], *outs) for x in xs], axis),
            lambda x: tuple(part.reshape(*part.shape[: -len(outs)], -1) for part in np.moveaxis(x, axis, 0)),
        ),
        single,
    )


def _without_layer_axis(each: Transform, single: bool) -> Transform:
    """Return ``each``, or for a stack with a single layer a transform that first removes the layer axis.

    Larger stacks keep the layer axis as their first axis.
    """
    if not single:
        return each
    return Transform(
        lambda *xs: each.forward(*(x[0] for x in xs)), lambda x: tuple(one[None] for one in each.backward(x))
    )


def _norm(ours: str, theirs: str, *, scale: bool, single: bool = False) -> list[Rule]:
    transform = _without_layer_axis(IDENTITY, single)
    parts = ("scale", "bias") if scale else ("bias",)
    return [rule(f"{ours}.{part}", f"{theirs}/{part}", transform=transform) for part in parts]


def _block(ours: str, theirs: str, side: str, config: DalleBartConfig) -> list[Rule]:
    """Build the rules of the stacked layers of the encoder or the decoder."""
    decoder = side == "decoder"
    heads, hidden = (getattr(config, f"{side}_{size}") for size in ("heads", "hidden"))
    single = getattr(config, f"{side}_layers") == 1
    head_shape = (heads, config.width // heads)
    own, text, glu = (f"{theirs}/{name}" for name in ("FlaxBartAttention_0", "FlaxBartAttention_1", "GLU_0"))

    def norm(ours_: str, theirs_: str, *, scale: bool) -> list[Rule]:
        return _norm(f"{ours}.{ours_}", f"{theirs}/{theirs_}", scale=scale, single=single)

    def kernels(ours_: str, *names: str, transform: Transform) -> Rule:
        return rule(f"{ours}.{ours_}.kernel", *(f"{name}/kernel" for name in names), transform=transform)

    cross = [
        *norm("cross_norm", "LayerNorm_2", scale=False),
        kernels("cross.q", f"{text}/q_proj", transform=_split_output_heads(heads, single)),
        kernels("cross.kv", f"{text}/k_proj", f"{text}/v_proj", transform=_stack_kernels(head_shape, single)),
        kernels("cross.out", f"{text}/out_proj", transform=_split_input_heads(heads, single)),
        *norm("cross_norm_after", "LayerNorm_3", scale=True),
    ]
    return [
        *norm("attention_norm", "LayerNorm_0", scale=False),
        kernels("attention.qkv", *(f"{own}/{one}_proj" for one in "qkv"), transform=_stack_kernels(head_shape, single)),
        kernels("attention.out", f"{own}/out_proj", transform=_split_input_heads(heads, single)),
        *norm("attention_norm_after", "LayerNorm_1", scale=True),
        *(cross if decoder else []),
        *norm("glu.norm_in", "GLU_0/LayerNorm_0", scale=False),
        kernels("glu.up", f"{glu}/Dense_0", f"{glu}/Dense_1", transform=_stack_kernels((hidden,), single)),
        *norm("glu.norm_hidden", "GLU_0/LayerNorm_1", scale=False),
        kernels("glu.down", f"{glu}/Dense_2", transform=_without_layer_axis(IDENTITY, single)),
    ]


def _side(side: str, prefix: str, config: DalleBartConfig) -> list[Rule]:
    """Build the rules of the encoder or the decoder, whose variables begin with ``prefix``."""
    here = f"{prefix}stack.blocks.0" if getattr(config, f"{side}_layers") == 1 else f"{prefix}stack.blocks"
    return [
        rule(f"{prefix}positions.table", f"model/{side}/embed_positions/embedding"),
        *_norm(f"{prefix}embedding_norm", f"model/{side}/layernorm_embedding", scale=True),
        *_norm(f"{prefix}norm", f"model/{side}/final_ln", scale=False),
        *_block(here, f"model/{side}/layers/FlaxBart{side.capitalize()}Layers", side, config),
    ]


def rules_for(config: DalleBartConfig) -> list[Rule]:
    """Build the rules of a scanned network for ``flax_model.msgpack``."""
    return [
        rule("encoder.tokens.table", "model/encoder/embed_tokens/embedding"),
        *_side("encoder", "encoder.", config),
        rule("codes.embedding.table", "model/decoder/embed_tokens/embedding"),
        *_side("decoder", "", config),
        rule("codes.head.kernel", "lm_head/kernel"),
    ]


def vocabulary_for(flags: Mapping[str, object]) -> BartBpe:
    """Return the text tokenizer of a network, given the flags of its ``config.json``."""
    return BartBpe(cleaning="dalle_mini" if flags.get("normalize_text") is True else "none")


def text_flags(vocabulary: object) -> Json:
    """Return the flag of config.json by which ``vocabulary_for`` knows that captions are cleaned."""
    return {"normalize_text": isinstance(vocabulary, BartBpe) and vocabulary.cleaning == "dalle_mini"}


def published(source: Path) -> Published:
    """Read the network in a folder with ``config.json`` and ``flax_model.msgpack``."""
    path, weights = source / "config.json", source / "flax_model.msgpack"
    flags = read_json(path)
    config = config_from_json(flags, str(path))
    return Published(
        config=config,
        tensors=locate(read_tensors(weights), DALLE_MINI),
        rules=rules_for(config),
        ignored={},
        files=(path, weights),
        licence=read_licence(source),
        vocabulary=vocabulary_for(flags),
        vocabulary_file=find_vocabulary(source),
        sampling=DEMO,
    )


def export(network: DalleBart, folder: Path) -> None:
    """Write ``config.json`` and ``flax_model.msgpack`` in DALL·E mini's layout.

    The network's layers must be scanned.
    """
    config = network.config
    if not config.scan:
        raise UserError("model.scan: expected True, because DALL·E mini's layout has stacked layers, got False")
    flags = config_to_json(config)
    tensors = unflatten_dict(to_published(network, rules_for(config)), sep="/")
    storage.write(folder / "config.json", json.dumps(flags, indent=2, sort_keys=True).encode())
    storage.write(folder / "flax_model.msgpack", msgpack_serialize(tensors))
