"""The table of layouts that other programs load: ``export`` reads nothing else."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dalle_jax.config.errors import UserError
from dalle_jax.config.problems import did_you_mean


@dataclass(frozen=True)
class Exporter:
    """One layout: its name on the command line, its module with ``export(network, folder)``, the config it is for."""

    name: str
    module: str
    config: str
    help: str

    def write(self, network: Any, folder: Path) -> None:
        """Writes the network's files into a folder."""
        importlib.import_module(self.module).export(network, folder)


EXPORTERS = (
    Exporter(
        "hf-clip",
        "dalle_jax.pretrained.publishers.hugging_face_clip",
        "ClipConfig",
        "Hugging Face's CLIPModel, in safetensors",
    ),
    Exporter(
        "taming-vqgan",
        "dalle_jax.pretrained.publishers.taming_vqgan",
        "VqganConfig",
        "taming's last.ckpt and model.yaml",
    ),
    Exporter(
        "dalle-mini-vqgan",
        "dalle_jax.pretrained.publishers.dalle_mini_vqgan",
        "VqganConfig",
        "DALL·E mini's Flax VQModel",
    ),
    Exporter(
        "dalle-mini",
        "dalle_jax.pretrained.publishers.dalle_mini",
        "DalleBartConfig",
        "DALL·E mini's, in Flax's msgpack",
    ),
)


def exporter(name: str) -> Exporter:
    """The layout of that name; UserError with the nearest where there is none."""
    found = next((one for one in EXPORTERS if one.name == name), None)
    if found is None:
        names = [one.name for one in EXPORTERS]
        raise UserError(f"{name!r} is none of the layouts {', '.join(names)}{did_you_mean(name, names)}")
    return found
