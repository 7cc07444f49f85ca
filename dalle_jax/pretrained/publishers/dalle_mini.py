"""DALL·E mini and mega as published: ``config.json`` and ``flax_model.msgpack``, in and out.

Sizes come from the config, and every other flag of it must be one that models/dalle_bart.py has: those that it has not
are refused by name, all together. Layers lie stacked (``use_scan``), as models/dalle_bart.py keeps them with ``scan``.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.serialization import msgpack_serialize

from dalle_jax.config.errors import UserError
from dalle_jax.config.problems import did_you_mean
from dalle_jax.models.dalle_bart import DalleBart, DalleBartConfig
from dalle_jax.pretrained.files.read_weights import read_tensors
from dalle_jax.pretrained.mapping import SAME, How, Rule, rule, taken_back
from dalle_jax.pretrained.publisher import Published, licence_beside, read_json, vocabulary_beside
from dalle_jax.text.bart_bpe import BartBpe

PAD_ID, EMPTY_CAPTION = 1, (0, 2)
"""BART's tokenizer: ``<pad>``, and ``<s> </s>`` of a caption without words."""

VQGAN_CODES = 16384
"""The codebook of the published VQGAN; mega's tables have more rows, which training never asked for."""

MOST, MOST_LAYERS = 1 << 24, 1000
"""No published size comes near these; a config that says more is wrong, and would fill the memory."""

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
"""Sizes of config.json by ours; ``image_vocab_size`` and ``image_length`` are read beside them."""

REQUIRED: dict[str, Any] = {
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
"""Flags and the one value of each that is implemented."""

NEEDED = ("use_glu",)
"""Flags whose default, where config.json leaves them out, is not the value above."""

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
"""Names of which the first line is read by ``config_of`` and the rest say nothing of the network: how it was trained,
how it draws, and what every config of the library that wrote it has. ``tau_init`` is of cosine attention alone."""


def config_of(published: Mapping[str, Any], name: str, codebook_size: int | None = None) -> DalleBartConfig:
    """The network of a ``config.json`` named ``name``.

    ``codebook_size`` is the image tokenizer's, where that is not the published VQGAN. Raises UserError with a line for
    every flag that is not implemented or not known, and for every size that is missing.
    """
    problems = [
        f"{key}: expected {value!r}, got nothing"
        for key in NEEDED
        for value in (REQUIRED[key],)
        if key not in published
    ]
    for key, value in published.items():
        if key in REQUIRED and value != REQUIRED[key] and not (key == "use_scan" and value is None):
            problems.append(f"{key}: expected {REQUIRED[key]!r}, the only one implemented, got {value!r}")
        elif key not in REQUIRED and key not in SIZES and key not in OTHER:
            problems.append(f"{key}: an unknown flag, got {value!r}{did_you_mean(key, [*REQUIRED, *SIZES])}")
    numbers: dict[str, Any] = {key: published.get(key) for key in (*SIZES, "image_vocab_size", "image_length")}
    for key, value in numbers.items():
        most = MOST_LAYERS if key.endswith("_layers") else MOST
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            problems.append(f"{key}: expected a whole number from 1 to {most}, got {value!r}")
    length = numbers["image_length"]
    if isinstance(length, int) and 1 <= length <= MOST and math.isqrt(length) ** 2 != length:
        problems.append(f"image_length: expected a square, got {length}")
    if problems:
        raise UserError("\n".join(f"{name}: {problem}" for problem in problems))
    vocabulary, side = numbers["image_vocab_size"], math.isqrt(numbers["image_length"])
    codes = min(vocabulary, VQGAN_CODES) if codebook_size is None else codebook_size
    if codes > vocabulary:
        raise UserError(f"{name}: expected image_vocab_size of at least {codes}, the codebook's, got {vocabulary}")
    start = published.get("decoder_start_token_id")
    sizes: dict[str, Any] = {ours: numbers[theirs] for theirs, ours in SIZES.items()}
    try:
        return DalleBartConfig(
            **sizes,
            codebook_size=codes, grid=(side, side), extra_codes=vocabulary + 1 - codes, pad_id=PAD_ID,
            empty_caption=EMPTY_CAPTION, start_code=vocabulary if start is None else start,
            init_std=float(published.get("init_std", 0.02)), dropout=float(published.get("dropout", 0.0)), scan=True,
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: {error}") from error


def published_config(config: DalleBartConfig) -> dict[str, Any]:
    """The ``config.json`` of a network, its flags among them; UserError for what their layout cannot hold."""
    if config.code_width or config.start_code is None or not config.extra_codes:
        raise UserError(
            "model: expected code_width 0, a start_code and extra_codes of 1 or more, as DALL·E mini has them, got "
            f"{config.code_width}, {config.start_code} and {config.extra_codes}"
        )
    if config.grid[0] != config.grid[1]:
        raise UserError(f"model.grid: expected a square, as DALL·E mini has it, got {config.grid}")
    if (config.pad_id, config.empty_caption) != (PAD_ID, EMPTY_CAPTION):
        raise UserError(
            f"model: expected pad_id {PAD_ID} and empty_caption {EMPTY_CAPTION}, as DALL·E mini's text tokenizer has "
            f"them and its layout cannot say otherwise, got {config.pad_id} and {config.empty_caption}"
        )
    sizes = {theirs: getattr(config, ours) for theirs, ours in SIZES.items()}
    vocabulary, start = config.codebook_size + config.extra_codes - 1, config.start_code
    return REQUIRED | sizes | {
        "image_vocab_size": vocabulary, "image_length": math.prod(config.grid), "decoder_start_token_id": start,
        "bos_token_id": vocabulary, "eos_token_id": vocabulary, "pad_token_id": vocabulary,
        "min_length": math.prod(config.grid) + 1, "max_length": math.prod(config.grid) + 1,
        "init_std": config.init_std, "dropout": config.dropout,
    }  # fmt: skip


def _heads(count: int, single: bool) -> How:
    """Heads cut out of the outputs: [... in out] to [... in N H]."""
    return _unstacked(
        How(
            lambda x: x.reshape(*x.shape[:-1], count, -1),
            lambda x: (x.reshape(*x.shape[:-2], -1),),
        ),
        single,
    )


def _heads_before(count: int, single: bool) -> How:
    """Heads cut out of the inputs: [... in out] to [... N H out]."""
    return _unstacked(
        How(
            lambda x: x.reshape(*x.shape[:-2], count, -1, x.shape[-1]),
            lambda x: (x.reshape(*x.shape[:-3], -1, x.shape[-1]),),
        ),
        single,
    )


def _joined(outs: tuple[int, ...], single: bool) -> How:
    """Kernels [... in out] of the same inputs on a new axis: [... in n *outs], whose outputs are cut into ``outs``."""
    axis = -1 - len(outs)
    return _unstacked(
        How(
            lambda *xs: np.stack([x.reshape(*x.shape[:-1], *outs) for x in xs], axis),
            lambda x: tuple(part.reshape(*part.shape[: -len(outs)], -1) for part in np.moveaxis(x, axis, 0)),
        ),
        single,
    )


def _unstacked(how: How, single: bool) -> How:
    """The one layer of a stack of one is taken out; more stay as they lie, on the first axis."""
    if not single:
        return how
    return How(lambda *xs: how.forward(*(x[0] for x in xs)), lambda x: tuple(one[None] for one in how.backward(x)))


def _norm(ours: str, theirs: str, *, scale: bool, single: bool = False) -> list[Rule]:
    how = _unstacked(SAME, single)
    parts = ("scale", "bias") if scale else ("bias",)
    return [rule(f"{ours}.{part}", f"{theirs}/{part}", how=how) for part in parts]


def _block(ours: str, theirs: str, side: str, config: DalleBartConfig) -> list[Rule]:
    """All layers of a side."""
    decoder = side == "decoder"
    heads, hidden = (getattr(config, f"{side}_{what}") for what in ("heads", "hidden"))
    single = getattr(config, f"{side}_layers") == 1
    cut = (heads, config.width // heads)
    own, text, glu = (f"{theirs}/{name}" for name in ("FlaxBartAttention_0", "FlaxBartAttention_1", "GLU_0"))

    def norm(ours_: str, theirs_: str, *, scale: bool) -> list[Rule]:
        return _norm(f"{ours}.{ours_}", f"{theirs}/{theirs_}", scale=scale, single=single)

    def kernels(ours_: str, *names: str, how: How) -> Rule:
        return rule(f"{ours}.{ours_}.kernel", *(f"{name}/kernel" for name in names), how=how)

    cross = [
        *norm("cross_norm", "LayerNorm_2", scale=False),
        kernels("cross.q", f"{text}/q_proj", how=_heads(heads, single)),
        kernels("cross.kv", f"{text}/k_proj", f"{text}/v_proj", how=_joined(cut, single)),
        kernels("cross.out", f"{text}/out_proj", how=_heads_before(heads, single)),
        *norm("cross_norm_after", "LayerNorm_3", scale=True),
    ]
    return [
        *norm("attention_norm", "LayerNorm_0", scale=False),
        kernels("attention.qkv", *(f"{own}/{one}_proj" for one in "qkv"), how=_joined(cut, single)),
        kernels("attention.out", f"{own}/out_proj", how=_heads_before(heads, single)),
        *norm("attention_norm_after", "LayerNorm_1", scale=True),
        *(cross if decoder else []),
        *norm("glu.norm_in", "GLU_0/LayerNorm_0", scale=False),
        kernels("glu.up", f"{glu}/Dense_0", f"{glu}/Dense_1", how=_joined((hidden,), single)),
        *norm("glu.norm_hidden", "GLU_0/LayerNorm_1", scale=False),
        kernels("glu.down", f"{glu}/Dense_2", how=_unstacked(SAME, single)),
    ]


def _side(side: str, ours: str, config: DalleBartConfig) -> list[Rule]:
    """Positions, norms and layers of the encoder or the decoder; ``ours`` begins our names."""
    here = f"{ours}stack.blocks.0" if getattr(config, f"{side}_layers") == 1 else f"{ours}stack.blocks"
    return [
        rule(f"{ours}positions.table", f"model/{side}/embed_positions/embedding"),
        *_norm(f"{ours}embedding_norm", f"model/{side}/layernorm_embedding", scale=True),
        *_norm(f"{ours}norm", f"model/{side}/final_ln", scale=False),
        *_block(here, f"model/{side}/layers/FlaxBart{side.capitalize()}Layers", side, config),
    ]


def rules_of(config: DalleBartConfig) -> list[Rule]:
    """Every parameter of a scanned network and where it lies in ``flax_model.msgpack``."""
    return [
        rule("encoder.tokens.table", "model/encoder/embed_tokens/embedding"),
        *_side("encoder", "encoder.", config),
        rule("codes.embedding.table", "model/decoder/embed_tokens/embedding"),
        *_side("decoder", "", config),
        rule("codes.head.kernel", "lm_head/kernel"),
    ]


def vocabulary_of(flags: Mapping[str, Any]) -> BartBpe:
    """How the network of a ``config.json`` reads captions."""
    return BartBpe(cleaning="dalle_mini" if flags.get("normalize_text") is True else "none")


def published(source: Path) -> Published:
    """The network in a folder with ``config.json`` and ``flax_model.msgpack``."""
    path, weights = source / "config.json", source / "flax_model.msgpack"
    flags = read_json(path)
    config = config_of(flags, str(path))
    return Published(
        config=config,
        tensors=read_tensors(weights),
        rules=rules_of(config),
        ignored={},
        files=(path, weights),
        licence=licence_beside(source),
        vocabulary=vocabulary_of(flags),
        vocabulary_file=vocabulary_beside(source),
    )


def export(network: DalleBart, folder: Path) -> None:
    """Writes ``config.json`` and ``flax_model.msgpack`` in DALL·E mini's layout; layers must be scanned."""
    config = network.config
    if not config.scan:
        raise UserError("model.scan: expected True, whose stacked layers are DALL·E mini's layout, got False")
    flags = published_config(config)
    tree: dict[str, Any] = {}
    for name, array in taken_back(network, rules_of(config)).items():
        *parts, last = name.split("/")
        place = tree
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = np.ascontiguousarray(array)
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in (
        ("config.json", json.dumps(flags, indent=2, sort_keys=True).encode()),
        ("flax_model.msgpack", msgpack_serialize(tree)),
    ):
        aside = folder / f"{file}.partial"
        aside.write_bytes(content)
        aside.replace(folder / file)
