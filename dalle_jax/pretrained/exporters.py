"""Table of the layouts that ``export`` writes, each in the module of its publisher."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from flax import nnx

from dalle_jax.config.problems import find_named
from dalle_jax.pretrained.publisher import PUBLISHERS


@runtime_checkable
class Export(Protocol):
    """A function ``export`` in a publisher's module, which writes that publisher's layout."""

    def __call__(self, network: nnx.Module, folder: Path) -> None:
        """Write the network's files into a folder; raise UserError if the layout cannot hold the network."""


@dataclass(frozen=True)
class Exporter:
    """A layout that ``export`` can write.

    ``name`` is its name on the command line, and ``module`` its module in the package ``PUBLISHERS``. ``config`` is the
    name of the config class of the networks that it holds.
    """

    name: str
    module: str
    config: str
    help: str

    def write(self, network: nnx.Module, folder: Path) -> None:
        """Write the network's files into a folder."""
        export: Export = importlib.import_module(f"{PUBLISHERS}.{self.module}").export
        export(network, folder)


EXPORTERS = (
    Exporter("hf-clip", "hugging_face_clip", "ClipConfig", "Hugging Face's CLIPModel, in safetensors"),
    Exporter("taming-vqgan", "taming_vqgan", "VqganConfig", "taming's last.ckpt and model.yaml"),
    Exporter("dalle-mini-vqgan", "dalle_mini_vqgan", "VqganConfig", "DALL·E mini's Flax VQModel"),
    Exporter("dalle-mini", "dalle_mini", "DalleBartConfig", "DALL·E mini's transformer, in Flax's msgpack"),
    Exporter("diffusers-unet", "diffusers_unet", "UNetConfig", "diffusers' UNets, in safetensors"),
    Exporter("karlo-prior", "karlo", "DiffusionPriorConfig", "the PriorTransformer of diffusers, in safetensors"),
)


def find_exporter(name: str) -> Exporter:
    """Return the layout of that name. Raises UserError with similar names if it does not exist."""
    return find_named(name, EXPORTERS, "a layout to export")
