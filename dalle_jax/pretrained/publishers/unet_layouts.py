"""Names and layouts of the UNet's tensors, in diffusers and in GLIDE."""

import numpy as np

from dalle_jax.models.unet import UNetConfig
from dalle_jax.pretrained.mapping import CONV_KERNEL, TRANSPOSE, Rule, Transform, dense, reshaped, rule, stacked

RESIDUAL = {
    "diffusers": {
        "norm1": "norm1", "conv1": "conv1", "time": "time_emb_proj", "norm2": "norm2", "conv2": "conv2",
        "skip": "conv_shortcut",
    },
    "glide": {
        "norm1": "in_layers.0", "conv1": "in_layers.2", "time": "emb_layers.1", "norm2": "out_layers.0",
        "conv2": "out_layers.3", "skip": "skip_connection",
    },
}  # fmt: skip
"""By layout, the names of a residual block's parts."""
ENDS = {
    "diffusers": {
        "time_in": "time_embedding.linear_1", "time_out": "time_embedding.linear_2", "input": "conv_in",
        "norm": "conv_norm_out", "output": "conv_out",
    },
    "glide": {
        "time_in": "time_embed.0", "time_out": "time_embed.2", "input": "input_blocks.0.0", "norm": "out.0",
        "output": "out.2",
    },
}  # fmt: skip
"""By layout, the names of the layers before and after the UNet's steps (``_steps``)."""


def diffusers_rules(config: UNetConfig, prefix: str = "") -> list[Rule]:
    """Build the rules for a UNet of diffusers, whose names begin with ``prefix``."""
    rules = _ends(config, "diffusers", prefix)
    if config.learned_times:
        rules.append(rule("times.table", f"{prefix}time_proj.weight"))
    for ours, kind, level, index, inputs, features, attends in _steps(config):
        parts = {"down": f"down_blocks.{level}", "up": f"up_blocks.{len(config.multipliers) - 1 - level}"}
        here = prefix + parts.get(kind.removesuffix("_resize"), "mid_block")
        resizer = {"down_resize": "downsamplers.0", "up_resize": "upsamplers.0"}.get(kind, f"resnets.{index}")
        rules += _residual(f"{ours}.block", f"{here}.{resizer}", "diffusers", inputs != features)
        if attends:
            rules += _diffusers_attention(f"{ours}.attention", f"{here}.attentions.{index}", features, config)
    return rules


def glide_rules(config: UNetConfig) -> list[Rule]:
    """Build the rules for the UNet in a file of GLIDE."""
    rules = _ends(config, "glide", "")
    inputs_at = outputs_at = 0
    for ours, kind, _, index, inputs, features, attends in _steps(config):
        if kind == "middle":
            here, attention = f"middle_block.{2 * index}", "middle_block.1"
        elif kind.startswith("down"):
            inputs_at += 1
            here, attention = f"input_blocks.{inputs_at}.0", f"input_blocks.{inputs_at}.1"
        elif kind == "up":
            here, attention = f"output_blocks.{outputs_at}.0", f"output_blocks.{outputs_at}.1"
            outputs_at, after = outputs_at + 1, 2 if attends else 1
        else:
            here = f"output_blocks.{outputs_at - 1}.{after}"
        rules += _residual(f"{ours}.block", here, "glide", inputs != features)
        if attends:
            rules += _glide_attention(f"{ours}.attention", attention, features, config)
    return rules


def _steps(config: UNetConfig) -> list[tuple[str, str, int, int, int, int, bool]]:
    """List the UNet's steps, which are residual blocks and changes of resolution, in the order in which they run.

    A step is (our name, kind, level, index in the level, input width, output width, whether it has attention).
    """
    widths = [config.width * one for one in config.multipliers]
    steps: list[tuple[str, str, int, int, int, int, bool]] = []
    skips, x, at = [config.width], config.width, 0
    for level, width in enumerate(widths):
        attends = level in config.attention_levels
        for index in range(config.blocks):
            steps.append((f"down.{at}", "down", level, index, x, width, attends))
            skips.append(x := width)
            at += 1
        if level < len(widths) - 1:
            steps.append((f"down.{at}", "down_resize", level, 0, width, width, False))
            skips.append(width)
            at += 1
    for index in range(2):
        steps.append((f"middle.{index}", "middle", 0, index, x, x, bool(config.attention_levels) and index == 0))
    at = 0
    for level, width in reversed(list(enumerate(widths))):
        attends = level in config.attention_levels
        for index in range(config.blocks + 1):
            steps.append((f"up.{at}", "up", level, index, x + skips.pop(), width, attends))
            x, at = width, at + 1
        if level:
            steps.append((f"up.{at}", "up_resize", level, 0, width, width, False))
            at += 1
    return steps


def _layer(ours: str, theirs: str, transform: Transform) -> list[Rule]:
    return [rule(f"{ours}.kernel", f"{theirs}.weight", transform=transform), rule(f"{ours}.bias", f"{theirs}.bias")]


def _norm(ours: str, theirs: str) -> list[Rule]:
    return [rule(f"{ours}.scale", f"{theirs}.weight"), rule(f"{ours}.bias", f"{theirs}.bias")]


def _ends(config: UNetConfig, layout: str, prefix: str) -> list[Rule]:
    names = {ours: prefix + theirs for ours, theirs in ENDS[layout].items()}
    return [
        *(one for name in ("time_in", "time_out") for one in _layer(name, names[name], TRANSPOSE)),
        *(one for name in ("input", "output") for one in _layer(name, names[name], CONV_KERNEL)),
        *_norm("norm", names["norm"]),
    ]


def _residual(ours: str, theirs: str, layout: str, skip: bool) -> list[Rule]:
    names = {part: f"{theirs}.{name}" for part, name in RESIDUAL[layout].items()}
    convolutions = ("conv1", "conv2", "skip") if skip else ("conv1", "conv2")
    return [
        *(one for name in ("norm1", "norm2") for one in _norm(f"{ours}.{name}", names[name])),
        *(one for name in convolutions for one in _layer(f"{ours}.{name}", names[name], CONV_KERNEL)),
        *_layer(f"{ours}.time", names["time"], TRANSPOSE),
    ]


def _diffusers_attention(ours: str, theirs: str, channels: int, config: UNetConfig) -> list[Rule]:
    heads = (channels // config.head_size, config.head_size)

    def stack(target: str, names: tuple[str, ...], inputs: int) -> list[Rule]:
        kernel = stacked(dense((inputs,), heads), len(names), 1)
        bias = stacked(reshaped(*heads, stored=(channels,)), len(names), 0)
        return [
            rule(f"{ours}.{target}.kernel", *(f"{theirs}.{name}.weight" for name in names), transform=kernel),
            rule(f"{ours}.{target}.bias", *(f"{theirs}.{name}.bias" for name in names), transform=bias),
        ]

    context = stack("context", ("add_k_proj", "add_v_proj"), config.context_width) if config.context_width else []
    return [
        *_norm(f"{ours}.norm", f"{theirs}.group_norm"),
        *stack("qkv", ("to_q", "to_k", "to_v"), channels),
        *context,
        *_layer(f"{ours}.out", f"{theirs}.to_out.0", dense(heads, (channels,))),
    ]


def by_heads(parts: int, heads: tuple[int, int], *, trailing: bool) -> Transform:
    """Build the transform of an attention matrix [N*parts*H in] to a kernel [in parts N H].

    The published rows have the parts (query, key, value) of the first head, then those of the next head.

    ``trailing`` says that the stored matrix has a last axis of length 1.
    """
    count, size = heads

    def forward(x: np.ndarray) -> np.ndarray:
        x = x[..., 0] if trailing else x
        return x.reshape(count, parts, size, -1).transpose(3, 1, 0, 2)

    def backward(x: np.ndarray) -> tuple[np.ndarray, ...]:
        x = x.transpose(2, 1, 3, 0).reshape(count * parts * size, -1)
        return (x[..., None] if trailing else x,)

    return Transform(forward, backward)


def bias_by_heads(parts: int, heads: tuple[int, int]) -> Transform:
    """Build the transform of an attention bias [N*parts*H] to [parts N H].

    The published bias has the parts (query, key, value) of the first head, then those of the next head.
    """
    count, size = heads
    return Transform(
        lambda x: x.reshape(count, parts, size).transpose(1, 0, 2), lambda x: (x.transpose(1, 0, 2).reshape(-1),)
    )


def _glide_attention(ours: str, theirs: str, channels: int, config: UNetConfig) -> list[Rule]:
    heads = (channels // config.head_size, config.head_size)

    def grouped(target: str, name: str, parts: int) -> list[Rule]:
        kernel = by_heads(parts, heads, trailing=True)
        return [
            rule(f"{ours}.{target}.kernel", f"{theirs}.{name}.weight", transform=kernel),
            rule(f"{ours}.{target}.bias", f"{theirs}.{name}.bias", transform=bias_by_heads(parts, heads)),
        ]

    out = Transform(lambda x: x[..., 0].T.reshape(*heads, -1), lambda x: (x.reshape(channels, -1).T[..., None],))
    return [
        *_norm(f"{ours}.norm", f"{theirs}.norm"),
        *grouped("qkv", "qkv", 3),
        *(grouped("context", "encoder_kv", 2) if config.context_width else []),
        *_layer(f"{ours}.out", f"{theirs}.proj_out", out),
    ]
