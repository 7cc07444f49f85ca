"""Location of a model's tensors in a file: the names that identify each kind, looked for under any one prefix.

Training programs save the same weights under many names: ``module.`` (DataParallel), ``_orig_mod.`` (torch.compile),
``model.`` (Lightning), ``state_dict``, ``model_state_dict``, and combinations of these.
"""

import collections
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from dalle_jax.pretrained.files.tensors import Tensors, file_error

MAX_GROUPS_SHOWN = 12
MAX_PREFIXES = 1000
"""Largest number of prefixes that are tried, so that a hostile file cannot take long."""
OWN_WEIGHTS = ("state_dict", "model_state_dict", "model", "module", "params")
"""Names that are preferred if the weights are in a file several times, the most preferred first."""


@dataclass(frozen=True)
class Signature:
    """Names of tensors that every model of a kind has.

    ``preferred`` are parts of prefixes, the most preferred first. They decide if several prefixes fit.
    """

    kind: str
    needed: tuple[str, ...]
    preferred: tuple[str, ...] = OWN_WEIGHTS


_VQGAN = ("encoder.conv_in.weight", "decoder.conv_out.weight", "quant_conv.weight", "post_quant_conv.weight")
_INSIDE = ("first_stage_model", *OWN_WEIGHTS)
_TAMING = ("encoder.down.0.block.0.conv1.weight", "decoder.up.0.block.0.conv1.weight")
_HF_TEXT = ("text_model.embeddings.token_embedding.weight", "text_projection.weight")
_HF_VISION = ("vision_model.embeddings.patch_embedding.weight", "visual_projection.weight")

OPENAI_CLIP = Signature(
    "openai-clip", ("text_projection", "positional_embedding", "token_embedding.weight", "visual.conv1.weight")
)
HF_CLIP = Signature("hf-clip", _HF_TEXT + _HF_VISION)
HF_IMAGE = Signature("karlo-image-encoder", _HF_VISION)
HF_TEXT = Signature("karlo-text-encoder", _HF_TEXT)
DVAE_SIDE = Signature("openai-dvae", ("blocks.input.w", "blocks.output.conv.w"))
TAMING_VQGAN = Signature("taming-vqgan", ("quantize.embedding.weight", *_VQGAN, *_TAMING), _INSIDE)
GUMBEL_VQGAN = Signature("taming-vqgan", ("quantize.embed.weight", "quantize.proj.weight", *_VQGAN, *_TAMING), _INSIDE)
LLAMAGEN_VQ = Signature(
    "llamagen-vq",
    ("quantize.embedding.weight", *_VQGAN, "encoder.conv_blocks.0.res.0.conv1.weight"),
    ("ema", *OWN_WEIGHTS),
)
LPIPS = Signature("lpips", ("lin0.model.1.weight", "lin4.model.1.weight", "net.slice1.0.weight"))
LPIPS_FEATURES = Signature("lpips", ("lin0.model.1.weight", "lin4.model.1.weight", "features.0.weight"))
LPIPS_OWN = Signature("lpips", ("lin0.model.1.weight", "lin4.model.1.weight"))
VGG16 = Signature("lpips", ("features.0.weight", "features.2.weight"))
ALEXNET = Signature("lpips", ("features.0.weight", "features.10.weight"))
FLAX_VQGAN = Signature("dalle-mini-vqgan", ("quantize/embedding/embedding", "encoder/conv_in/kernel"))
DALLE_MINI = Signature("dalle-mini", ("model/encoder/embed_tokens/embedding", "model/decoder/embed_tokens/embedding"))
MIN_DALLE_SIDE = Signature("min-dalle", ("embed_tokens.weight", "embed_positions.weight", "layers.0.glu.fc0.weight"))
LLAMAGEN = Signature("llamagen", ("tok_embeddings.weight", "output.weight", "layers.0.attention.wqkv.weight"))
DIFFUSERS_UNET = Signature("diffusers-unet", ("conv_in.weight", "conv_out.weight", "time_embedding.linear_1.weight"))
CONSISTENCY = Signature("consistency-decoder", ("decoder_unet.conv_in.weight", "decoder_unet.conv_out.weight"))
GLIDE = Signature("glide", ("input_blocks.0.0.weight", "token_embedding.weight", "transformer_proj.weight"))
KARLO_PRIOR = Signature("karlo-prior", ("positional_embedding", "prd_embedding", "proj_in.weight"))
KARLO_TEXT_PROJ = Signature("karlo-text-proj", ("learned_classifier_free_guidance_embeddings", "embedding_proj.weight"))
EFFICIENTNET_LITE = Signature("efficientnet-lite0", ("_conv_stem.weight", "_conv_head.weight", "_fc.weight"))
INCEPTION_V3 = Signature("inception-v3", ("Conv2d_1a_3x3.conv.weight", "Mixed_7c.branch_pool.conv.weight", "fc.weight"))
DINOV2 = Signature("dinov2", ("pos_embed", "patch_embed.proj.weight", "blocks.0.ls1.gamma"))
HF_DINOV2 = Signature(
    "dinov2", ("embeddings.position_embeddings", "encoder.layer.0.layer_scale1.lambda1", "layernorm.weight")
)

SIGNATURES = (
    OPENAI_CLIP, HF_CLIP, HF_IMAGE, HF_TEXT, DVAE_SIDE, TAMING_VQGAN, GUMBEL_VQGAN, LLAMAGEN_VQ, LPIPS, LPIPS_FEATURES,
    FLAX_VQGAN, DALLE_MINI, MIN_DALLE_SIDE, LLAMAGEN, DIFFUSERS_UNET, CONSISTENCY, GLIDE, KARLO_PRIOR, KARLO_TEXT_PROJ,
    EFFICIENTNET_LITE, INCEPTION_V3, DINOV2, HF_DINOV2,
)  # fmt: skip
"""Signatures by which an unknown file is recognised."""


def locate(tensors: Tensors, *signatures: Signature) -> Tensors:
    """Select the tensors under the prefix where all names of one of the ``signatures`` are, and strip the prefix.

    The other tensors of the file are listed as skipped. Raises UserError that says what the file has, if no prefix
    fits or several do.
    """
    for signature in signatures:
        if prefixes := _prefixes(tensors.stored, signature.needed):
            prefix = _preferred(tensors.name, prefixes, signature)
            found = tensors.under(prefix)
            place = f"next to the weights under {prefix.rstrip('./')!r}"
            others = (name for name in tensors.stored if not name.startswith(prefix))
            found.skipped = tensors.skipped | dict.fromkeys(others, place)
            found.prefix = prefix
            return found
    raise _not_found(tensors, signatures[0])


def _prefixes(names: Collection[str], needed: Sequence[str]) -> list[str]:
    """Return every prefix under which all ``needed`` names are: "", or one that ends in "." or "/"."""
    first = needed[0]
    ends = (name.removesuffix(first) for name in names if name.endswith(first))
    tried = [prefix for prefix in ends if not prefix or prefix[-1] in "./"][:MAX_PREFIXES]
    return [prefix for prefix in tried if all(prefix + name in names for name in needed)]


def _preferred(file: str, prefixes: Sequence[str], signature: Signature) -> str:
    """Choose one of several prefixes. Raises UserError if ``signature.preferred`` does not decide."""

    def rank(prefix: str) -> int:
        parts = re.split(r"[./]", prefix)
        if not prefix:
            return -1
        return min((place for place, name in enumerate(signature.preferred) if name in parts), default=1000)

    ordered = sorted(prefixes, key=rank)
    if len(ordered) > 1 and rank(ordered[0]) == rank(ordered[1]):
        places = ", ".join(repr(one) for one in ordered[:MAX_GROUPS_SHOWN])
        raise file_error(file, f"the weights of one {signature.kind}", f"them under {places}; save one of these alone")
    return ordered[0]


def _not_found(tensors: Tensors, signature: Signature) -> Exception:
    """Build the error for a file without the needed tensors: what it has, and the kind that it looks like."""
    names = tensors.stored
    fitting = dict.fromkeys(one.kind for one in SIGNATURES if _prefixes(names, one.needed))
    fitting.pop(signature.kind, None)
    looks = f"; it looks like the kind {' or '.join(fitting)}" if fitting else ""
    partly, missing = _best_part(names, signature.needed)
    lacks = f"; under {partly!r} it lacks {', '.join(missing)}" if missing and not fitting else ""
    return file_error(
        tensors.name,
        f"the tensors of the kind {signature.kind} under one prefix ({', '.join(signature.needed)})",
        f"{len(names)} tensors: {_summary(names)}{lacks}{looks}",
    )


def _summary(names: Collection[str]) -> str:
    """Return the names as groups with the same first parts, and the number of tensors in each: "encoder.* (31)"."""
    parts = [re.split(r"(?<=[./])", name) for name in names]
    shared = 0  # parts that all names have in common, such as "state_dict."
    while all(len(one) > shared + 1 and one[shared] == parts[0][shared] for one in parts):
        shared += 1
    groups = collections.Counter("".join(one[: shared + 1]) + ("*" if len(one) > shared + 1 else "") for one in parts)
    shown = [f"{name} ({count})" if count > 1 else name for name, count in groups.most_common(MAX_GROUPS_SHOWN)]
    return ", ".join(shown) + (f" and {len(groups) - len(shown)} more groups" if len(groups) > len(shown) else "")


def _best_part(names: Collection[str], needed: Sequence[str]) -> tuple[str, list[str]]:
    """Return the prefix under which most of the ``needed`` names are, and those that it lacks; none if it has none."""
    best, lacking = "", list(needed)
    for one in needed:
        ends = (name.removesuffix(one) for name in names if name.endswith(one))
        for prefix in [prefix for prefix in ends if not prefix or prefix[-1] in "./"][:MAX_PREFIXES]:
            missing = [name for name in needed if prefix + name not in names]
            if len(missing) < len(lacking):
                best, lacking = prefix, missing
    return best, lacking if len(lacking) < len(needed) else []
