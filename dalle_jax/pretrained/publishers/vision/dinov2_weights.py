"""DINOv2's ViT-S, ViT-B and ViT-L of patch 14, with and without registers: DINOv2's layout and Hugging Face's."""

from pathlib import Path

from dalle_jax.models.vision.dinov2 import Dinov2Config
from dalle_jax.pretrained.files.read_weights import read_tensors, source_files
from dalle_jax.pretrained.files.tensors import file_error
from dalle_jax.pretrained.mapping import TRANSPOSE, Rule, dense, reshaped, rule, stacked
from dalle_jax.pretrained.publisher import Published, count_layers, find_file, grid_side, tensor_shape
from dalle_jax.pretrained.publishers.clip_rules import layer_norm, patch_kernel
from dalle_jax.pretrained.signatures import DINOV2, HF_DINOV2, locate

HEAD_WIDTH = 64
FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
IGNORED = {
    r"(embeddings\.)?mask_token": "the token of masked patches, which only training uses",
    r"classifier\..*": "a classifier on top of the network",
}


def published(source: Path) -> Published:
    """Read DINOv2 from a state dict, or from Hugging Face's folder or file. Heads have 64 channels.

    The giant model is refused, since its MLP is a different one.
    """
    file = find_file(source, FILES) if source.is_dir() else source
    tensors = locate(read_tensors(file), DINOV2, HF_DINOV2)
    is_hugging_face = "pos_embed" not in tensors
    if is_hugging_face:
        positions, patches = "embeddings.position_embeddings", "embeddings.patch_embeddings.projection.weight"
        registers, layer, gated = "embeddings.register_tokens", r"encoder\.layer\.(\d+)\.", ".mlp.weights_in.weight"
    else:
        positions, patches = "pos_embed", "patch_embed.proj.weight"
        registers, layer, gated = "register_tokens", r"blocks\.(\d+)\.", ".mlp.w12.weight"
    if any(name.endswith(gated) for name in tensors):
        raise file_error(source, "DINOv2's ViT-S, ViT-B or ViT-L", "a giant model, whose gated MLP is not implemented")
    width, _, patch, _ = tensor_shape(tensors, patches, 4)
    count = tensor_shape(tensors, registers, 3)[1] if registers in tensors else 0
    if width % HEAD_WIDTH:
        raise file_error(source, f"a width that is a multiple of {HEAD_WIDTH}, the width of a head", str(width))
    config = Dinov2Config(
        width=width,
        layers=count_layers(tensors, layer),
        heads=width // HEAD_WIDTH,
        grid=grid_side(tensors, positions, tensor_shape(tensors, positions, 3)[1] - 1),
        patch=patch,
        registers=count,
        image_size=16 * patch,
        position_resize="antialiased" if count else "plain" if is_hugging_face else "offset",
    )
    return Published(
        config=config,
        tensors=tensors,
        rules=hugging_face_rules(config) if is_hugging_face else network_rules(config),
        ignored=IGNORED,
        files=tuple(source_files(file)),
        licence="Apache-2.0",
        name="dinov2",
    )


def network_rules(config: Dinov2Config) -> list[Rule]:
    """List the rules by DINOv2's names, whose q, k and v are one matrix."""
    rules = _table_rules(config, "", "pos_embed", "patch_embed.proj") + layer_norm("norm", "norm")
    three = (3, *_head_shape(config))
    for index in range(config.layers):
        ours = theirs = f"blocks.{index}"
        rules += [
            rule(f"{ours}.qkv.kernel", f"{theirs}.attn.qkv.weight", transform=dense((config.width,), three)),
            rule(f"{ours}.qkv.bias", f"{theirs}.attn.qkv.bias", transform=reshaped(*three, stored=(3 * config.width,))),
            *_output_rules(config, f"{ours}.out", f"{theirs}.attn.proj"),
            rule(f"{ours}.scale_attention", f"{theirs}.ls1.gamma"),
            rule(f"{ours}.scale_mlp", f"{theirs}.ls2.gamma"),
            *_mlp_rules(ours, theirs),
        ]
    return rules


def hugging_face_rules(config: Dinov2Config) -> list[Rule]:
    """List the rules by Hugging Face's names, whose q, k and v are three matrices."""
    shape = _head_shape(config)
    tables = _table_rules(
        config, "embeddings.", "embeddings.position_embeddings", "embeddings.patch_embeddings.projection"
    )
    rules = tables + layer_norm("norm", "layernorm")
    for index in range(config.layers):
        ours, theirs = f"blocks.{index}", f"encoder.layer.{index}"
        names = [f"{theirs}.attention.attention.{name}" for name in ("query", "key", "value")]
        kernel = stacked(dense((config.width,), shape), 3, axis=1)
        bias = stacked(reshaped(*shape, stored=(config.width,)), 3, axis=0)
        rules += [
            rule(f"{ours}.qkv.kernel", *(f"{name}.weight" for name in names), transform=kernel),
            rule(f"{ours}.qkv.bias", *(f"{name}.bias" for name in names), transform=bias),
            *_output_rules(config, f"{ours}.out", f"{theirs}.attention.output.dense"),
            rule(f"{ours}.scale_attention", f"{theirs}.layer_scale1.lambda1"),
            rule(f"{ours}.scale_mlp", f"{theirs}.layer_scale2.lambda1"),
            *_mlp_rules(ours, theirs),
        ]
    return rules


def _head_shape(config: Dinov2Config) -> tuple[int, int]:
    return config.heads, config.width // config.heads


def _table_rules(config: Dinov2Config, prefix: str, positions: str, patches: str) -> list[Rule]:
    """List the rules of tokens, positions and the embedding of patches. Tables have a leading axis of 1 in the file."""

    def table(ours: str, theirs: str, rows: int) -> Rule:
        shape = rows, config.width
        return rule(ours, theirs, transform=reshaped(*shape, stored=(1, *shape)))

    rules = [
        table("class_token", f"{prefix}cls_token", 1),
        table("positions", positions, config.grid**2 + 1),
        rule("embed.kernel", f"{patches}.weight", transform=patch_kernel(config.patch, config.width)),
        rule("embed.bias", f"{patches}.bias"),
    ]
    if config.registers:
        rules.append(table("registers", f"{prefix}register_tokens", config.registers))
    return rules


def _output_rules(config: Dinov2Config, ours: str, theirs: str) -> list[Rule]:
    transform = dense(_head_shape(config), (config.width,))
    return [rule(f"{ours}.kernel", f"{theirs}.weight", transform=transform), rule(f"{ours}.bias", f"{theirs}.bias")]


def _mlp_rules(ours: str, theirs: str) -> list[Rule]:
    """List the rules of both norms and of the MLP, which have the same names in both layouts."""
    rules = layer_norm(f"{ours}.norm_attention", f"{theirs}.norm1") + layer_norm(f"{ours}.norm_mlp", f"{theirs}.norm2")
    for mine, yours in (("up", "fc1"), ("down", "fc2")):
        rules.append(rule(f"{ours}.{mine}.kernel", f"{theirs}.mlp.{yours}.weight", transform=TRANSPOSE))
        rules.append(rule(f"{ours}.{mine}.bias", f"{theirs}.mlp.{yours}.bias"))
    return rules
