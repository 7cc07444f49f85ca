"""Table of the layouts that ``export`` writes, each in the module of its publisher."""

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from flax import nnx

from dalle_jax import storage
from dalle_jax.config.problems import find_named
from dalle_jax.pretrained.publisher import MODEL_CARD, PUBLISHERS, Json, read_json


@runtime_checkable
class Export(Protocol):
    """A function ``export`` in a publisher's module, which writes that publisher's layout."""

    def __call__(self, network: nnx.Module, folder: Path) -> None:
        """Write the network's files into a folder; raise UserError if the layout cannot hold the network."""


class ReadText(NamedTuple):
    """A model's text tokenizer and its files by name."""

    vocabulary: object
    files: Mapping[str, bytes]


@runtime_checkable
class TextFlags(Protocol):
    """A function of a publisher's module that returns the flags of config.json that describe a text tokenizer."""

    def __call__(self, vocabulary: object) -> Json:
        """Return the flags; none for a vocabulary that needs none."""


@dataclass(frozen=True)
class Exporter:
    """A layout that ``export`` can write.

    ``name`` is its name on the command line, and ``module`` its module in the package ``PUBLISHERS``. ``config`` is the
    name of the config class of the networks that it holds. ``text_flags`` is a ``TextFlags`` of the module, if
    config.json has flags of the text tokenizer.
    """

    name: str
    module: str
    config: str
    help: str
    text_flags: str | None = None

    def write(self, network: nnx.Module, folder: Path) -> None:
        """Write the network's files into a folder."""
        export: Export = importlib.import_module(f"{PUBLISHERS}.{self.module}").export
        export(network, folder)

    def write_companions(self, folder: Path, licence: str | None, text: ReadText | None) -> list[str]:
        """Write the model card with the licence, and the text tokenizer's files; return the names of both.

        Files that ``write`` has written are kept.
        """
        files = {} if text is None else dict(text.files)
        if licence is not None:
            files[MODEL_CARD] = f"---\nlicense: {' '.join(licence.split())}\n---\n".encode()
        for name, content in files.items():
            storage.write(folder / name, content)
        if text is not None and self.text_flags is not None:
            flags: TextFlags = getattr(importlib.import_module(f"{PUBLISHERS}.{self.module}"), self.text_flags)
            path = folder / "config.json"
            config = read_json(path) | flags(text.vocabulary)
            storage.write(path, json.dumps(config, indent=2, sort_keys=True).encode())
        return sorted(files)


EXPORTERS = (
    Exporter("hf-clip", "hugging_face_clip", "ClipConfig", "Hugging Face's CLIPModel, in safetensors"),
    Exporter("taming-vqgan", "taming_vqgan", "VqganConfig", "taming's last.ckpt and model.yaml"),
    Exporter("dalle-mini-vqgan", "dalle_mini_vqgan", "VqganConfig", "DALL·E mini's Flax VQModel"),
    Exporter(
        "dalle-mini", "dalle_mini", "DalleBartConfig", "DALL·E mini's transformer, in Flax's msgpack", "text_flags"
    ),
    Exporter("diffusers-unet", "diffusers_unet", "UNetConfig", "diffusers' UNets, in safetensors"),
    Exporter("karlo-prior", "karlo", "DiffusionPriorConfig", "the PriorTransformer of diffusers, in safetensors"),
)


def find_exporter(name: str) -> Exporter:
    """Return the layout of that name. Raises UserError with similar names if it does not exist."""
    return find_named(name, EXPORTERS, "a layout to export")
