"""VQGANs in torch's format: import and export of taming's Lightning checkpoints, import of LlamaGen's image tokenizer.

The two publishers name the levels differently. LlamaGen's codes also lie on the unit sphere (``distance="cosine"``).
"""

import dataclasses
from pathlib import Path

from dalle_jax import storage
from dalle_jax.models.vqgan import Vqgan, VqganConfig
from dalle_jax.pretrained.files.read_weights import read_tensors
from dalle_jax.pretrained.files.tensors import file_error
from dalle_jax.pretrained.files.write_torch import write_state_dict
from dalle_jax.pretrained.mapping import to_published
from dalle_jax.pretrained.publisher import Published, find_file
from dalle_jax.pretrained.publishers.vqgan_layouts import LLAMAGEN, TAMING, config_from_shapes, name_pairs, torch_rules
from dalle_jax.pretrained.signatures import GUMBEL_VQGAN, LLAMAGEN_VQ, TAMING_VQGAN, locate

IGNORED = {
    r"loss\..*": "the discriminator and LPIPS, which only training uses",
    r"model_ema\..*": "EMA weights under other names; the checkpoint's own weights are used",
}
REMAPPED = "quantize.used"
"""Tensor of a remapped codebook (``remap``), which numbers its codes differently and is not implemented."""
LLAMAGEN_IGNORED = {r"quantize\.codebook_used": "a statistic of its training"}
NOMINAL_RESOLUTION = 256


def published(source: Path) -> Published:
    """Read taming's VQModel or GumbelVQ from a ``.ckpt``, or a folder with ``last.ckpt``; shapes give the sizes.

    The checkpoint may be that of a transformer (``Net2NetTransformer``), which contains a VQGAN as its first stage.
    """
    file = source if source.is_file() else find_file(source, ("last.ckpt", "model.ckpt"))
    tensors = locate(read_tensors(file), TAMING_VQGAN, GUMBEL_VQGAN)
    if REMAPPED in tensors.stored:
        raise file_error(tensors.name, "a VQGAN with codes in the order of its codebook", "a remapped codebook (remap)")
    config = config_from_shapes(tensors, TAMING)
    return Published(
        config=config,
        tensors=tensors,
        rules=torch_rules(name_pairs(config, TAMING)),
        ignored=IGNORED,
        files=(file,),
        licence="MIT (CompVis's repository taming-transformers); see there for the licences of the training images",
    )


def published_llamagen(source: Path) -> Published:
    """Read LlamaGen's tokenizer from a ``.pt`` (``vq_ds16_c2i.pt``); sizes come from the shapes."""
    tensors = locate(read_tensors(source), LLAMAGEN_VQ)
    config = dataclasses.replace(config_from_shapes(tensors, LLAMAGEN), distance="cosine")
    return Published(
        config=config,
        tensors=tensors,
        rules=torch_rules(name_pairs(config, LLAMAGEN)),
        ignored=LLAMAGEN_IGNORED,
        files=(source,),
        licence="MIT (FoundationVision's repository LlamaGen)",
    )


def export(network: Vqgan, folder: Path) -> None:
    """Write ``last.ckpt`` and ``model.yaml``, which taming-transformers loads.

    The ``resolution`` in the yaml only determines which levels have attention. The network takes images of every size.
    """
    config = network.config
    check_exportable("taming-vqgan", config)
    tensors = to_published(network, torch_rules(name_pairs(config, TAMING)))
    storage.write(folder / "model.yaml", model_yaml(config).encode())
    write_state_dict(folder / "last.ckpt", tensors)


def check_exportable(kind: str, config: VqganConfig) -> None:
    """Raise UserError for a VQGAN with a quantizer that the layout ``kind`` lacks."""
    if (config.distance, config.quantizer) != ("euclidean", "nearest"):
        got = f"distance={config.distance!r} and quantizer={config.quantizer!r}"
        raise file_error(kind, "a VQGAN with distance='euclidean' and quantizer='nearest'", got)


def attention_resolutions(config: VqganConfig) -> list[int]:
    """Return the feature sizes at which there is attention, for images of 256 px."""
    return [NOMINAL_RESOLUTION >> level for level in config.attention_levels]


def model_yaml(config: VqganConfig) -> str:
    """Return the config as yaml with taming's names. taming-transformers always uses pixels in -1..1."""
    return f"""# pixel_range: {config.pixel_range}
model:
  target: taming.models.vqgan.VQModel
  params:
    embed_dim: {config.code_width}
    n_embed: {config.codebook_size}
    ddconfig:
      double_z: false
      z_channels: {config.latent_width}
      resolution: {NOMINAL_RESOLUTION}
      in_channels: {config.channels}
      out_ch: {config.channels}
      ch: {config.width}
      ch_mult: {list(config.multipliers)}
      num_res_blocks: {config.blocks}
      attn_resolutions: {attention_resolutions(config)}
      dropout: 0.0
    lossconfig:
      target: taming.modules.losses.vqperceptual.DummyLoss
"""
