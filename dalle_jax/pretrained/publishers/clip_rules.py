"""Rules for the tensors of CLIP, by OpenAI's names, which open_clip shares, and by Hugging Face's."""

from dalle_jax.models.clip import ClipConfig, TowerConfig
from dalle_jax.models.clip_resnet import EXPANSION, HEAD_WIDTH, ResNetConfig
from dalle_jax.pretrained.mapping import (
    CONV_KERNEL,
    IDENTITY,
    TRANSPOSE,
    Rule,
    Transform,
    dense,
    reshaped,
    rule,
    stacked,
)


def patch_kernel(patch: int, width: int) -> Transform:
    """Build the transform of a patch convolution [D 3 p p] to a kernel [p*p*3 D] over (row, column, colour)."""
    return Transform(
        lambda x: x.transpose(2, 3, 1, 0).reshape(patch * patch * 3, width),
        lambda x: (x.reshape(patch, patch, 3, width).transpose(3, 2, 0, 1),),
    )


def layer_norm(ours: str, theirs: str) -> list[Rule]:
    """Build the rules of a layer norm."""
    return [rule(f"{ours}.scale", f"{theirs}.weight"), rule(f"{ours}.bias", f"{theirs}.bias")]


def _head_shape(tower: TowerConfig) -> tuple[int, int]:
    return tower.heads, tower.width // tower.heads


def _output_projection(ours: str, theirs: str, tower: TowerConfig) -> list[Rule]:
    transform = dense(_head_shape(tower), (tower.width,))
    return [rule(f"{ours}.kernel", f"{theirs}.weight", transform=transform), rule(f"{ours}.bias", f"{theirs}.bias")]


def _linear(ours: str, theirs: str) -> list[Rule]:
    return [rule(f"{ours}.kernel", f"{theirs}.weight", transform=TRANSPOSE), rule(f"{ours}.bias", f"{theirs}.bias")]


def openai_block(ours: str, theirs: str, tower: TowerConfig) -> list[Rule]:
    """Build the rules of a transformer block, whose q, k and v are one matrix."""
    three, width = (3, *_head_shape(tower)), tower.width
    qkv, bias = dense((width,), three), reshaped(*three, stored=(3 * width,))
    return [
        *layer_norm(f"{ours}.norm_attention", f"{theirs}.ln_1"),
        rule(f"{ours}.qkv.kernel", f"{theirs}.attn.in_proj_weight", transform=qkv),
        rule(f"{ours}.qkv.bias", f"{theirs}.attn.in_proj_bias", transform=bias),
        *_output_projection(f"{ours}.out", f"{theirs}.attn.out_proj", tower),
        *layer_norm(f"{ours}.norm_mlp", f"{theirs}.ln_2"),
        *_linear(f"{ours}.up", f"{theirs}.mlp.c_fc"),
        *_linear(f"{ours}.down", f"{theirs}.mlp.c_proj"),
    ]


def hugging_face_block(ours: str, theirs: str, tower: TowerConfig) -> list[Rule]:
    """Build the rules of a transformer block, whose q, k and v are three matrices."""
    shape = _head_shape(tower)
    names = [f"{theirs}.self_attn.{letter}_proj" for letter in "qkv"]
    qkv = stacked(dense((tower.width,), shape), 3, axis=1)
    bias = stacked(reshaped(*shape, stored=(tower.width,)), 3, axis=0)
    return [
        *layer_norm(f"{ours}.norm_attention", f"{theirs}.layer_norm1"),
        rule(f"{ours}.qkv.kernel", *(f"{name}.weight" for name in names), transform=qkv),
        rule(f"{ours}.qkv.bias", *(f"{name}.bias" for name in names), transform=bias),
        *_output_projection(f"{ours}.out", f"{theirs}.self_attn.out_proj", tower),
        *layer_norm(f"{ours}.norm_mlp", f"{theirs}.layer_norm2"),
        *_linear(f"{ours}.up", f"{theirs}.mlp.fc1"),
        *_linear(f"{ours}.down", f"{theirs}.mlp.fc2"),
    ]


def openai_rules(config: ClipConfig) -> list[Rule]:
    """Build the rules of a CLIP by OpenAI's names."""
    vision, text = config.vision, config.text
    if isinstance(vision, TowerConfig):
        rules = [
            rule("vision.embed.kernel", "visual.conv1.weight", transform=patch_kernel(config.patch, vision.width)),
            rule("vision.class_token", "visual.class_embedding"),
            rule("vision.positions.table", "visual.positional_embedding"),
            *layer_norm("vision.norm_before", "visual.ln_pre"),
            *layer_norm("vision.norm_after", "visual.ln_post"),
            rule("vision.project.kernel", "visual.proj"),
        ]
        for layer in range(vision.layers):
            ours, theirs = f"vision.stack.blocks.{layer}", f"visual.transformer.resblocks.{layer}"
            rules += openai_block(ours, theirs, vision)
    else:
        rules = _resnet_rules(vision, config.embed_width)
    rules += [
        rule("text.tokens.table", "token_embedding.weight"),
        rule("text.positions.table", "positional_embedding"),
        *layer_norm("text.norm_after", "ln_final"),
        rule("text.project.kernel", "text_projection"),
        rule("log_scale", "logit_scale"),
    ]
    for layer in range(text.layers):
        rules += openai_block(f"text.stack.blocks.{layer}", f"transformer.resblocks.{layer}", text)
    if config.initial_bias is not None:
        rules.append(rule("bias", "logit_bias"))
    return rules


def _conv_and_norm(ours: str, conv: str, batch_norm: str) -> list[Rule]:
    """Build the rules of a convolution and its batch norm."""
    names = {"scale": "weight", "bias": "bias", "mean": "running_mean", "variance": "running_var"}
    rules = [rule(f"{ours}.norm.{ours_}", f"{batch_norm}.{theirs}") for ours_, theirs in names.items()]
    return [rule(f"{ours}.kernel", f"{conv}.weight", transform=CONV_KERNEL), *rules]


def _resnet_rules(config: ResNetConfig, embed: int) -> list[Rule]:
    rules = []
    for number in range(3):
        rules += _conv_and_norm(f"vision.stem.{number}", f"visual.conv{number + 1}", f"visual.bn{number + 1}")
    for stage, layers in enumerate(config.layers):
        for layer in range(layers):
            ours, theirs = f"vision.stages.{stage}.{layer}", f"visual.layer{stage + 1}.{layer}"
            for number, name in enumerate(("first", "second", "third"), start=1):
                rules += _conv_and_norm(f"{ours}.{name}", f"{theirs}.conv{number}", f"{theirs}.bn{number}")
            if layer == 0:  # only this block changes the channels or the resolution
                rules += _conv_and_norm(f"{ours}.shortcut", f"{theirs}.downsample.0", f"{theirs}.downsample.1")
    channels = EXPANSION * config.width * 8
    shape = (channels // HEAD_WIDTH, HEAD_WIDTH)
    rules.append(rule("vision.pool.positions.table", "visual.attnpool.positional_embedding"))
    for letter in "qkv":
        ours, theirs = f"vision.pool.{letter}", f"visual.attnpool.{letter}_proj"
        rules.append(rule(f"{ours}.kernel", f"{theirs}.weight", transform=dense((channels,), shape)))
        rules.append(rule(f"{ours}.bias", f"{theirs}.bias", transform=reshaped(*shape, stored=(channels,))))
    kernel = dense(shape, (embed,))
    rules.append(rule("vision.pool.project.kernel", "visual.attnpool.c_proj.weight", transform=kernel))
    rules.append(rule("vision.pool.project.bias", "visual.attnpool.c_proj.bias", transform=IDENTITY))
    return rules


def hugging_face_rules(config: ClipConfig) -> list[Rule]:
    """Build the rules of a CLIP with a vision transformer by Hugging Face's names."""
    vision, text = config.vision, config.text
    if not isinstance(vision, TowerConfig):
        raise ValueError(f"expected a CLIP with a vision transformer, as CLIPModel has, got {type(vision).__name__}")
    rules = [
        rule("log_scale", "logit_scale"),
        *hugging_face_vision_rules(vision, config.patch),
        rule("text.tokens.table", "text_model.embeddings.token_embedding.weight"),
        rule("text.positions.table", "text_model.embeddings.position_embedding.weight"),
        *layer_norm("text.norm_after", "text_model.final_layer_norm"),
        rule("text.project.kernel", "text_projection.weight", transform=TRANSPOSE),
    ]
    for layer in range(text.layers):
        rules += hugging_face_block(f"text.stack.blocks.{layer}", f"text_model.encoder.layers.{layer}", text)
    return rules


def hugging_face_vision_rules(vision: TowerConfig, patch: int) -> list[Rule]:
    """Build the rules of a vision transformer and its projection by Hugging Face's names."""
    kernel, embeddings = patch_kernel(patch, vision.width), "vision_model.embeddings"
    rules = [
        rule("vision.embed.kernel", f"{embeddings}.patch_embedding.weight", transform=kernel),
        rule("vision.class_token", f"{embeddings}.class_embedding"),
        rule("vision.positions.table", f"{embeddings}.position_embedding.weight"),
        *layer_norm("vision.norm_before", "vision_model.pre_layrnorm"),
        *layer_norm("vision.norm_after", "vision_model.post_layernorm"),
        rule("vision.project.kernel", "visual_projection.weight", transform=TRANSPOSE),
    ]
    for layer in range(vision.layers):
        rules += hugging_face_block(f"vision.stack.blocks.{layer}", f"vision_model.encoder.layers.{layer}", vision)
    return rules
