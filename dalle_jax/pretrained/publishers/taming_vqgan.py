"""VQGAN of taming-transformers: Lightning checkpoints, and the way back to one."""

from pathlib import Path

from dalle_jax import storage
from dalle_jax.models.vqgan import Vqgan, VqganConfig
from dalle_jax.pretrained.files.read_weights import read_tensors
from dalle_jax.pretrained.files.tensors import Tensors, refused
from dalle_jax.pretrained.files.write_torch import write_state_dict
from dalle_jax.pretrained.mapping import taken_back
from dalle_jax.pretrained.publisher import Published, first_file
from dalle_jax.pretrained.publishers.vqgan_layouts import TAMING, config_of, pairs, torch_rules

IGNORED = {
    r"loss\..*": "the discriminator and LPIPS, which only training uses",
    r"model_ema\..*": "averages under other names; the checkpoint's own weights are taken",
}
NOT_HERE = {
    "quantize.proj.weight": "the Gumbel variant (GumbelVQ), which has no nearest code",
    "quantize.embed.weight": "the Gumbel variant (GumbelVQ), which has no nearest code",
    "quantize.used": "a remapped codebook (remap), whose codes are other numbers",
}
NOMINAL_RESOLUTION = 256


def published(source: Path) -> Published:
    """The VQGAN in a ``.ckpt``, or in a folder with ``last.ckpt``; every size is read from its shapes."""
    file = source if source.is_file() else first_file(source, ("last.ckpt", "model.ckpt"))
    tensors = state_of(read_tensors(file))
    refuse_others(tensors)
    config = config_of(tensors, TAMING)
    return Published(
        config=config,
        tensors=tensors,
        rules=torch_rules(pairs(config, TAMING)),
        ignored=IGNORED,
        files=(file,),
        licence="MIT (CompVis's repository taming-transformers); of the images that it was trained on, see there",
    )


def state_of(tensors: Tensors) -> Tensors:
    """What lies under ``state_dict`` in a Lightning checkpoint, without the optimizer's; all, where there is none."""
    inside = tensors.inside("state_dict")
    return inside if inside.stored else tensors


def refuse_others(tensors: Tensors) -> None:
    """Raises UserError for relatives of the VQGAN that are read by nothing here."""
    found = next((why for name, why in NOT_HERE.items() if name in tensors.stored), None)
    if found is not None:
        raise refused(tensors.name, "a VQGAN with a codebook of its own (quantize.embedding)", found)


def export(network: Vqgan, folder: Path) -> None:
    """Writes ``last.ckpt`` and ``model.yaml``, which taming-transformers loads.

    The yaml's ``resolution`` only says at which sizes there is attention; the network takes every size.
    """
    config = network.config
    if config.distance != "euclidean":
        raise refused("taming-vqgan", "a VQGAN with distance='euclidean'", f"distance={config.distance!r}")
    tensors = taken_back(network, torch_rules(pairs(config, TAMING)))
    storage.write(folder / "model.yaml", model_yaml(config).encode())
    write_state_dict(folder / "last.ckpt", tensors)


def attention_resolutions(config: VqganConfig) -> list[int]:
    """The sizes at which there is attention, of images of 256 px."""
    return [NOMINAL_RESOLUTION >> level for level in config.attention_levels]


def model_yaml(config: VqganConfig) -> str:
    """The config by taming's names; its pixels are in -1..1, whatever this network was trained with."""
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
