"""Karlo, and other unCLIP systems with its layout in diffusers: the folders prior, text_proj and text_encoder.

Each part is a folder of its own with config.json and its weights.
"""

import json
from pathlib import Path

import numpy as np

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.models.clip import ClipTextConfig, FirstEnd, LargestId
from dalle_jax.models.priors.diffusion_prior import DiffusionPrior, DiffusionPriorConfig
from dalle_jax.models.priors.transformer import PriorTransformerConfig
from dalle_jax.models.priors.unclip_text_projection import UnclipTextProjectionConfig
from dalle_jax.pretrained.files.read_weights import read_tensors, source_files
from dalle_jax.pretrained.files.safetensors_files import write_safetensors
from dalle_jax.pretrained.files.tensors import Tensors, file_error
from dalle_jax.pretrained.mapping import TRANSPOSE, Rule, dense, reshaped, rule, stacked, to_published
from dalle_jax.pretrained.publisher import (
    Json,
    Published,
    check_flags,
    count_layers,
    find_file,
    find_vocabulary,
    positive_int,
    read_json,
    read_licence,
    tensor_shape,
)
from dalle_jax.pretrained.publishers.clip_rules import hugging_face_block, layer_norm
from dalle_jax.pretrained.publishers.diffusers_unet import WEIGHTS
from dalle_jax.pretrained.publishers.openai_clip import tower_config
from dalle_jax.pretrained.signatures import HF_TEXT, KARLO_PRIOR, KARLO_TEXT_PROJ, Signature, locate
from dalle_jax.text.clip_bpe import ClipBpe

TEXT_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
META = frozenset({"_class_name", "_diffusers_version", "_name_or_path"})
"""Fields of diffusers that do not change the network."""
PRIOR_FLAGS = {
    "num_attention_heads": ..., "attention_head_dim": ..., "num_layers": ..., "embedding_dim": ...,
    "num_embeddings": ..., "additional_embeddings": 4, "dropout": 0.0, "time_embed_act_fn": "silu",
    "norm_in_type": None, "embedding_proj_norm_type": None, "encoder_hid_proj_type": "linear", "added_emb_type": "prd",
    "time_embed_dim": None, "embedding_proj_dim": None, "clip_embed_dim": None,
}  # fmt: skip
TEXT_IGNORED = {r".*\.position_ids": "the constants 0, 1, 2 and so on"}
CONSTANTS = {"causal_attention_mask": "the constant causal mask"}


def _read(source: Path, class_name: str, signature: Signature) -> tuple[Path, Json, tuple[Path, ...], Tensors]:
    """Read the config and the tensors of one part, whose class must be ``class_name``."""
    path = source / "config.json"
    config = read_json(path)
    if config.get("_class_name") != class_name:
        raise file_error(path, f"_class_name {class_name!r}", repr(config.get("_class_name"))[:80])
    weights = find_file(source, WEIGHTS)
    return path, config, (path, *source_files(weights)), locate(read_tensors(weights), signature)


def published_prior(source: Path) -> Published:
    """Read the diffusion prior in a folder ``prior``."""
    path, config, files, tensors = _read(source, "PriorTransformer", KARLO_PRIOR)
    check_flags(path, config, PRIOR_FLAGS, META)
    heads = positive_int(path, "num_attention_heads", config.get("num_attention_heads", 32))
    _, length, width = tensor_shape(tensors, "positional_embedding", 3)
    embed = tensor_shape(tensors, "proj_in.weight", 2)[1]
    if width % heads or length <= 4:
        raise file_error(path, f"num_attention_heads to divide {width}, more than 4 positions", f"{heads}, {length}")
    model = DiffusionPriorConfig(
        embed_width=embed,
        text_width=tensor_shape(tensors, "encoder_hidden_states_proj.weight", 2)[1],
        text_length=length - 4,
        width=width,
        depth=count_layers(tensors, r"transformer_blocks\.(\d+)\.norm1\.weight"),
        heads=heads,
        unit_vectors=False,
    )
    licence = read_licence(source.parent)
    return Published(model, tensors, prior_rules(model), CONSTANTS, files, licence)


def published_text_proj(source: Path) -> Published:
    """Read the projection in a folder ``text_proj``."""
    path, config, files, tensors = _read(source, "UnCLIPTextProjModel", KARLO_TEXT_PROJ)
    tokens = positive_int(path, "clip_extra_context_tokens", config.get("clip_extra_context_tokens", 4))
    width, text_width = tensor_shape(tensors, "encoder_hidden_states_proj.weight", 2)
    time_width, embed = tensor_shape(tensors, "embedding_proj.weight", 2)
    model = UnclipTextProjectionConfig(embed, text_width, width, time_width, tokens)
    return Published(model, tensors, text_proj_rules(), {}, files, read_licence(source.parent))


def published_text_encoder(source: Path) -> Published:
    """Read the text tower in a folder ``text_encoder``, with the vocabulary of the folder ``tokenizer`` next to it."""
    path = source / "config.json"
    config = read_json(path)
    only = {"layer_norm_eps": 1e-5, "attention_dropout": 0.0}
    check_flags(path, {name: value for name, value in config.items() if name in only}, only)
    weights = find_file(source, TEXT_WEIGHTS)
    tensors = locate(read_tensors(weights), HF_TEXT)
    activation = config.get("hidden_act", "quick_gelu")
    if activation not in ("quick_gelu", "gelu"):
        raise file_error(path, "hidden_act of quick_gelu or gelu", repr(activation)[:80])
    hidden, width = tensor_shape(tensors, "text_model.encoder.layers.0.mlp.fc1.weight", 2)
    heads = positive_int(path, "num_attention_heads", config.get("num_attention_heads", 8))
    if width % heads:
        raise file_error(path, f"num_attention_heads to divide {width}", str(heads))
    end = config.get("eos_token_id", 49_407)
    if not isinstance(end, int):
        raise file_error(path, "eos_token_id to be a whole number", repr(end)[:80])
    layers = count_layers(tensors, r"text_model\.encoder\.layers\.(\d+)\.self_attn\.q_proj\.weight")
    model = ClipTextConfig(
        vocab_size=tensor_shape(tensors, "text_model.embeddings.token_embedding.weight", 2)[0],
        text_length=tensor_shape(tensors, "text_model.embeddings.position_embedding.weight", 2)[0],
        text=tower_config(width, layers, heads, hidden),
        embed_width=tensor_shape(tensors, "text_projection.weight", 2)[0],
        activation="quick_gelu" if activation == "quick_gelu" else "gelu",
        end_of_text=LargestId() if end == 2 else FirstEnd(end),
    )
    tokenizer = source.parent / "tokenizer"
    return Published(
        config=model,
        tensors=tensors,
        rules=text_encoder_rules(model),
        ignored=TEXT_IGNORED,
        files=(path, *source_files(weights)),
        licence=read_licence(source.parent),
        vocabulary=ClipBpe(pad="end", text_fix="nfc"),
        vocabulary_file=find_vocabulary(tokenizer) if tokenizer.is_dir() else None,
    )


def _linear(ours: str, theirs: str) -> list[Rule]:
    return [
        rule(f"{ours}.kernel", f"{theirs}.weight", transform=TRANSPOSE),
        rule(f"{ours}.bias", f"{theirs}.bias"),
    ]


def prior_rules(config: PriorTransformerConfig) -> list[Rule]:
    """Build the rules of a prior whose layers are not scanned."""
    width, embed, length = config.width, config.embed_width, config.text_length + 4
    rules = [
        rule("positions.table", "positional_embedding", transform=reshaped(length, width, stored=(1, length, width))),
        rule("query", "prd_embedding", transform=reshaped(width, stored=(1, 1, width))),
        rule("mean", "clip_mean", transform=reshaped(embed, stored=(1, embed))),
        rule("std", "clip_std", transform=reshaped(embed, stored=(1, embed))),
        *_linear("time_up", "time_embedding.linear_1"),
        *_linear("time_down", "time_embedding.linear_2"),
        *_linear("image_in", "proj_in"),
        *_linear("vector_in", "embedding_proj"),
        *_linear("text_in", "encoder_hidden_states_proj"),
        *layer_norm("norm", "norm_out"),
        *_linear("head", "proj_to_clip_embeddings"),
    ]
    for layer in range(config.depth):
        rules += _prior_block(f"stack.blocks.{layer}", f"transformer_blocks.{layer}", config)
    return rules


def _prior_block(ours: str, theirs: str, config: PriorTransformerConfig) -> list[Rule]:
    width, shape = config.width, (config.heads, config.width // config.heads)
    names = [f"{theirs}.attn1.to_{letter}" for letter in "qkv"]
    kernels = stacked(dense((width,), shape), 3, axis=1)
    biases = stacked(reshaped(*shape, stored=(width,)), 3, axis=0)
    return [
        *layer_norm(f"{ours}.norm_attention", f"{theirs}.norm1"),
        rule(f"{ours}.qkv.kernel", *(f"{name}.weight" for name in names), transform=kernels),
        rule(f"{ours}.qkv.bias", *(f"{name}.bias" for name in names), transform=biases),
        rule(f"{ours}.out.kernel", f"{theirs}.attn1.to_out.0.weight", transform=dense(shape, (width,))),
        rule(f"{ours}.out.bias", f"{theirs}.attn1.to_out.0.bias"),
        *layer_norm(f"{ours}.norm_mlp", f"{theirs}.norm3"),
        *_linear(f"{ours}.up", f"{theirs}.ff.net.0.proj"),
        *_linear(f"{ours}.down", f"{theirs}.ff.net.2"),
    ]


def text_proj_rules() -> list[Rule]:
    """Build the rules of the projection."""
    return [
        rule("no_image", "learned_classifier_free_guidance_embeddings"),
        *_linear("text_to_time", "embedding_proj"),
        *_linear("image_to_time", "clip_image_embeddings_project_to_time_embeddings"),
        *_linear("image_to_tokens", "clip_extra_context_tokens_proj"),
        *_linear("states_in", "encoder_hidden_states_proj"),
        *layer_norm("norm", "text_encoder_hidden_states_norm"),
    ]


def text_encoder_rules(config: ClipTextConfig) -> list[Rule]:
    """Build the rules of the text tower by Hugging Face's names."""
    rules = [
        rule("text.tokens.table", "text_model.embeddings.token_embedding.weight"),
        rule("text.positions.table", "text_model.embeddings.position_embedding.weight"),
        *layer_norm("text.norm_after", "text_model.final_layer_norm"),
        rule("text.project.kernel", "text_projection.weight", transform=TRANSPOSE),
    ]
    for layer in range(config.text.layers):
        rules += hugging_face_block(f"text.stack.blocks.{layer}", f"text_model.encoder.layers.{layer}", config.text)
    return rules


def export(prior: DiffusionPrior, folder: Path) -> None:
    """Write config.json and the weights, which ``PriorTransformer.from_pretrained`` loads.

    Raises UserError for a prior that PriorTransformer cannot express.
    """
    config = prior.config
    if config.scan or config.unit_vectors or config.text_width != config.embed_width:
        raise UserError(
            "export to diffusers: expected scan = False, unit_vectors = False and text_width = embed_width, got "
            f"{config.scan}, {config.unit_vectors} and {config.text_width} with {config.embed_width}"
        )
    values: Json = {
        **{name: value for name, value in PRIOR_FLAGS.items() if value is not ...},
        "_class_name": "PriorTransformer",
        "num_attention_heads": config.heads,
        "attention_head_dim": config.width // config.heads,
        "num_layers": config.depth,
        "embedding_dim": config.embed_width,
        "num_embeddings": config.text_length,
    }
    tensors = {name: np.asarray(one, np.float32) for name, one in to_published(prior, prior_rules(config)).items()}
    storage.write(folder / "config.json", (json.dumps(values, indent=2) + "\n").encode())
    write_safetensors(folder / WEIGHTS[0], tensors, {"format": "pt"})
