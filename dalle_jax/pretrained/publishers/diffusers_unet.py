"""UNets of diffusers: import and export of Karlo's decoder and upsamplers, and import of the consistency decoder."""

import json
from pathlib import Path
from typing import TypedDict

import numpy as np

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.models.decoders.consistency_decoder import TIMESTEPS, ConsistencyDecoderConfig
from dalle_jax.models.unet import UNet, UNetConfig
from dalle_jax.pretrained.files.read_weights import read_tensors, source_files
from dalle_jax.pretrained.files.safetensors_files import write_safetensors
from dalle_jax.pretrained.files.tensors import file_error
from dalle_jax.pretrained.mapping import Rule, to_published
from dalle_jax.pretrained.publisher import Json, Published, find_file, positive_int, read_json, read_licence
from dalle_jax.pretrained.publishers.unet_layouts import diffusers_rules
from dalle_jax.pretrained.signatures import CONSISTENCY, DIFFUSERS_UNET, locate

WEIGHTS = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.bin",
)
BLOCKS = {
    "ResnetDownsampleBlock2D": False, "SimpleCrossAttnDownBlock2D": True,
    "ResnetUpsampleBlock2D": False, "SimpleCrossAttnUpBlock2D": True,
}  # fmt: skip
"""By the name of a block of diffusers, whether the block has attention."""
ONLY: Json = {
    "act_fn": "silu", "norm_eps": 1e-5, "norm_num_groups": 32, "flip_sin_to_cos": True, "freq_shift": 0,
    "center_input_sample": False, "mid_block_scale_factor": 1,
}  # fmt: skip
"""Fields of which only one value is implemented."""
LATENT_MEAN = (0.38862467, 0.02253063, 0.07381133, -0.0171294)
LATENT_STD = (0.9654121, 1.0440036, 0.76147926, 0.77022034)
"""Statistics of the scaled latents of the consistency decoder, which its files do not contain."""
ONLY_WITH_CONTEXT: Json = {"class_embed_type": "identity", "only_cross_attention": False}


def published(source: Path) -> Published:
    """Read the UNet in a folder with config.json and weights."""
    path, flags = source / "config.json", read_json(source / "config.json")
    config = config_from_json(path, flags)
    file = find_file(source, WEIGHTS)
    return Published(
        config=config,
        tensors=locate(read_tensors(file), DIFFUSERS_UNET),
        rules=diffusers_rules(config),
        ignored={},
        files=(path, *source_files(file)),
        licence=read_licence(source),
    )


def published_consistency(source: Path) -> Published:
    """Read the decoder in the folder of diffusers' ``ConsistencyDecoderVAE``."""
    path, whole = source / "config.json", read_json(source / "config.json")
    flags = {name.removeprefix("decoder_"): value for name, value in whole.items() if name.startswith("decoder_")}
    unet, latents = config_from_json(path, flags), _latents(path, whole)
    if unet.learned_times <= TIMESTEPS[0] or unet.extra_channels != len(latents["mean"]):
        expected = f"more than {TIMESTEPS[0]} learned timesteps and {len(latents['mean'])} channels of latents"
        raise file_error(path, expected, f"{unet.learned_times} and {unet.extra_channels}")
    config = ConsistencyDecoderConfig(unet, **latents)
    file = find_file(source, WEIGHTS)
    rules = diffusers_rules(config.unet, "decoder_unet.")
    return Published(
        config=config,
        tensors=locate(read_tensors(file), CONSISTENCY),
        rules=[Rule(f"unet.{one.target}", one.sources, one.transform) for one in rules],
        ignored={
            r"encoder\..*|quant_conv\..*": "the encoder of images, which decoding does not use",
            r"means|stds": "constants of the latents",
        },
        files=(path, *source_files(file)),
        licence=read_licence(source),
    )


class _Latents(TypedDict):
    """The fields of ``ConsistencyDecoderConfig`` that describe its latents."""

    factor: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


def _latents(path: Path, whole: Json) -> _Latents:
    """Read the latents' size and scale; their statistics are constants of the publication."""
    channels, widths, scale = whole.get("latent_channels"), whole.get("block_out_channels"), whole.get("scaling_factor")
    if channels != len(LATENT_MEAN) or not isinstance(widths, list) or not widths or not isinstance(scale, float):
        expected = f"latent_channels {len(LATENT_MEAN)}, block_out_channels and scaling_factor"
        raise file_error(path, expected, f"{channels!r}, {widths!r} and {scale!r}"[:300])
    return {"factor": 2 ** (len(widths) - 1), "scale": scale, "mean": LATENT_MEAN, "std": LATENT_STD}


def config_from_json(path: Path, flags: Json) -> UNetConfig:
    """Convert ``config.json``; raise UserError for a network that is not implemented."""
    down, up, widths = (flags.get(name) for name in ("down_block_types", "up_block_types", "block_out_channels"))
    lists = [one if isinstance(one, list) else [] for one in (down, up, widths)]
    attends = [BLOCKS.get(str(one)) for one in lists[0]]
    context = any(attends)
    only = ONLY | (ONLY_WITH_CONTEXT if context else {})
    wrong = [f"{name} = {flags[name]!r}" for name, value in only.items() if flags.get(name, value) != value]
    mirrored = [BLOCKS.get(str(one)) for one in reversed(lists[1])]
    if not attends or None in attends or attends != mirrored or len(lists[2]) != len(attends):
        wrong.append(f"down_block_types = {down!r}, up_block_types = {up!r}, block_out_channels = {widths!r}")
    if wrong:
        raise file_error(path, "the config of a UNet that is implemented", "; ".join(wrong)[:400])
    sizes = [positive_int(path, "block_out_channels", one) for one in lists[2]]
    if any(one % sizes[0] for one in sizes):
        raise file_error(path, "block_out_channels as multiples of the first", repr(sizes))
    inputs = positive_int(path, "in_channels", flags.get("in_channels"))
    outputs = positive_int(path, "out_channels", flags.get("out_channels"))
    learned = outputs == 6
    times = flags.get("num_train_timesteps") if flags.get("time_embedding_type") == "learned" else None
    channels = outputs // 2 if learned else outputs
    if inputs < channels:
        raise file_error(path, f"in_channels of at least {channels}", str(inputs))
    return UNetConfig(
        width=sizes[0],
        multipliers=tuple(one // sizes[0] for one in sizes),
        blocks=positive_int(path, "layers_per_block", flags.get("layers_per_block")),
        attention_levels=tuple(level for level, one in enumerate(attends) if one),
        head_size=positive_int(path, "attention_head_dim", flags["attention_head_dim"]) if context else 64,
        context_width=positive_int(path, "cross_attention_dim", flags.get("cross_attention_dim")) if context else 0,
        channels=channels,
        extra_channels=inputs - channels,
        learned_variance=learned,
        scale_shift=flags.get("resnet_time_scale_shift") == "scale_shift",
        learned_times=0 if times is None else positive_int(path, "num_train_timesteps", times),
    )


def export(network: UNet, folder: Path) -> None:
    """Write config.json and weights, which ``UNet2DConditionModel`` or, without a context, ``UNet2DModel`` loads."""
    config = network.config
    if config.channels != 3 or config.learned_times or bool(config.context_width) != bool(config.attention_levels):
        raise UserError(
            "export to diffusers: expected 3 channels, learned_times 0 and a context_width with attention_levels, got "
            f"{config.channels}, {config.learned_times}, {config.context_width} and {config.attention_levels}"
        )
    tensors = to_published(network, diffusers_rules(config))
    storage.write(folder / "config.json", (json.dumps(_config_json(config), indent=2) + "\n").encode())
    write_safetensors(
        folder / WEIGHTS[0], {name: np.asarray(x, np.float32) for name, x in tensors.items()}, {"format": "pt"}
    )


def _config_json(config: UNetConfig) -> Json:
    context, levels = bool(config.context_width), range(len(config.multipliers))
    names = list(BLOCKS)
    down = [names[1] if level in config.attention_levels else names[0] for level in levels]
    up = [names[3] if level in config.attention_levels else names[2] for level in reversed(levels)]
    attention: Json = {
        **ONLY_WITH_CONTEXT, "cross_attention_dim": config.context_width, "attention_head_dim": config.head_size,
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    }  # fmt: skip
    return {
        "_class_name": "UNet2DConditionModel" if context else "UNet2DModel",
        **ONLY,
        **(attention if context else {"add_attention": False}),
        "block_out_channels": [config.width * one for one in config.multipliers],
        "down_block_types": down,
        "up_block_types": up,
        "layers_per_block": config.blocks,
        "in_channels": config.channels + config.extra_channels,
        "out_channels": config.outputs,
        "resnet_time_scale_shift": "scale_shift" if config.scale_shift else "default",
        "time_embedding_type": "positional",
    }
