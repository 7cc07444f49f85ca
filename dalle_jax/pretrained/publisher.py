"""What every publisher's file gives, and the table of them: ``import KIND`` and ``export`` read nothing else."""

import importlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from dalle_jax.config.errors import UserError
from dalle_jax.config.problems import did_you_mean
from dalle_jax.models.model_configs import AnyModelConfig
from dalle_jax.pretrained.files.tensors import Tensors, refused
from dalle_jax.pretrained.mapping import Ignored, Rule
from dalle_jax.text.bart_bpe import BartBpe
from dalle_jax.text.clip_bpe import FILE, ClipBpe
from dalle_jax.text.vocabulary_files import MERGES, TOKENIZER, VOCABULARY

LARGEST_CONFIG = 1 << 24
UNKNOWN_LICENCE = "not stated beside the weights; ask whoever published them"


@dataclass(frozen=True)
class Published:
    """A published model as read: the config of ours that it has, its tensors, and where they go.

    ``files`` are those that were read, whose hashes are kept. ``vocabulary`` is how a model of captions reads them, and
    ``vocabulary_file`` where its vocabulary was found beside the weights.
    """

    config: AnyModelConfig
    tensors: Tensors
    rules: Sequence[Rule]
    ignored: Ignored
    files: tuple[Path, ...]
    licence: str = UNKNOWN_LICENCE
    name: str | None = None
    vocabulary: ClipBpe | BartBpe | None = None
    vocabulary_file: Path | None = None


class Publisher(Protocol):
    """The module of a kind: ``published(source)`` reads; UserError where the source is of another kind."""

    def published(self, source: Path) -> Published:
        """The model in a file or folder."""


@dataclass(frozen=True)
class Kind:
    """One kind of published weights: its name on the command line, its module, and what the source is."""

    name: str
    module: str
    help: str

    def read(self, source: Path) -> Published:
        """The model in ``source``."""
        publisher: Publisher = importlib.import_module(self.module)  # type: ignore[assignment]
        return publisher.published(source)


KINDS = (
    Kind("openai-clip", "dalle_jax.pretrained.publishers.openai_clip", "OpenAI's CLIP: a .pt file"),
    Kind(
        "hf-clip",
        "dalle_jax.pretrained.publishers.hugging_face_clip",
        "Hugging Face's CLIPModel: a folder with config.json",
    ),
    Kind("open-clip", "dalle_jax.pretrained.publishers.open_clip", "open_clip: a folder with open_clip_config.json"),
    Kind(
        "openai-dvae",
        "dalle_jax.pretrained.publishers.openai_dvae",
        "DALL·E 1's dVAE: a folder with encoder.pkl, decoder.pkl",
    ),
    Kind(
        "taming-vqgan",
        "dalle_jax.pretrained.publishers.taming_vqgan",
        "taming's VQGAN: a .ckpt, or a folder with last.ckpt",
    ),
    Kind("dalle-mini-vqgan", "dalle_jax.pretrained.publishers.dalle_mini_vqgan", "DALL·E mini's Flax VQGAN: a folder"),
    Kind("llamagen-vq", "dalle_jax.pretrained.publishers.llamagen_vq", "LlamaGen's image tokenizer: a .pt file"),
    Kind(
        "lpips",
        "dalle_jax.pretrained.publishers.lpips_weights",
        "LPIPS: a state dict, or a folder with VGG-16 and its weights",
    ),
    Kind(
        "dalle-mini",
        "dalle_jax.pretrained.publishers.dalle_mini",
        "DALL·E mini or mega: a folder with flax_model.msgpack",
    ),
    Kind(
        "min-dalle", "dalle_jax.pretrained.publishers.min_dalle", "min-dalle: a folder with encoder.pt and decoder.pt"
    ),
    Kind("llamagen", "dalle_jax.pretrained.publishers.llamagen", "LlamaGen's transformers: a .pt file"),
)


def kind(name: str) -> Kind:
    """The kind of that name; UserError with the nearest where there is none."""
    found = next((one for one in KINDS if one.name == name), None)
    if found is None:
        names = [one.name for one in KINDS]
        raise UserError(f"{name!r} is none of the kinds {', '.join(names)}{did_you_mean(name, names)}")
    return found


Json: TypeAlias = dict[str, Any]


def read_json(path: Path) -> Json:
    """An object of JSON; UserError for everything else."""
    if not path.is_file():
        raise refused(path, "a file with the model's config", "none")
    if path.stat().st_size > LARGEST_CONFIG:
        raise refused(path, f"at most {LARGEST_CONFIG} bytes", str(path.stat().st_size))
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise refused(path, "a config in JSON", f"something else ({str(error)[:100]})") from error
    if not isinstance(value, dict):
        raise refused(path, "an object in JSON", type(value).__name__)
    return value


def first_file(folder: Path, names: Sequence[str]) -> Path:
    """The first of these files that is in the folder."""
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise refused(folder, f"a folder with {' or '.join(names)}", "none of them")
    return found


def vocabulary_beside(folder: Path) -> Path | None:
    """The text tokenizer's file: ``vocab.json`` with its merges, CLIP's, or ``tokenizer.json``; else None."""
    if all((folder / name).is_file() for name in (VOCABULARY, MERGES)):
        return folder / VOCABULARY
    names = (f"{FILE}.gz", FILE, TOKENIZER)
    return next((folder / name for name in names if (folder / name).is_file()), None)


def refuse_flags(path: Path, config: Json, known: Mapping[str, Any], ignored: frozenset[str] = frozenset()) -> None:
    """Raises UserError with all flags of a config that are not implemented, by name.

    ``known`` are those that are, with the one value that each may have, or ``...`` for any; ``ignored`` change nothing.
    """
    wrong = []
    for name, value in config.items():
        if name in ignored:
            continue
        if name not in known:
            if value not in (None, False):
                wrong.append(f"{name} = {str(value)[:60]!r} is not known here")
        elif known[name] is not ... and value != known[name]:
            wrong.append(f"{name} = {str(value)[:60]!r}, of which only {known[name]!r} is implemented")
    if wrong:
        raise refused(path, "a config of which all is implemented", "; ".join(wrong))


def licence_beside(folder: Path) -> str:
    """The licence that the model card in the folder states in its first lines, as the hub's cards do."""
    card = folder / "README.md"
    if not card.is_file():
        return UNKNOWN_LICENCE
    head = card.read_bytes()[:20_000].decode("utf-8", errors="replace")
    found = re.search(r"\A---\n(?:.*\n)*?license:[ \t]*(\S.*)\n(?:.*\n)*?---", head)
    return found.group(1).strip() if found else UNKNOWN_LICENCE


def shape(tensors: Tensors, name: str, dimensions: int) -> tuple[int, ...]:
    """The shape of a tensor that must be there with so many dimensions."""
    found = tensors.stored.get(name)
    if found is None or len(found.shape) != dimensions or 0 in found.shape:
        got = "no such tensor" if found is None else f"shape {list(found.shape)}"
        raise refused(tensors.name, f"a tensor {name!r} of {dimensions} dimensions", got)
    return found.shape


def count(tensors: Tensors, pattern: str) -> int:
    """How many numbers, from 0 on without a gap, the pattern's group takes among the names."""
    numbers = {int(match.group(1)) for name in tensors if (match := re.match(pattern, name))}
    if numbers != set(range(len(numbers))):
        missing = next(number for number in itertools.count() if number not in numbers)
        raise refused(tensors.name, f"all layers of {pattern}", f"none of number {missing}")
    return len(numbers)


def square(tensors: Tensors, name: str, places: int) -> int:
    """The side of a square grid of so many places."""
    side = round(places**0.5)
    if side * side != places or not side:
        raise refused(tensors.name, f"{name!r} for a square grid and one place more", f"{places + 1} places")
    return side
