"""Table of the kinds of published weights, the interface of a publisher's module, and helpers to read configs."""

import importlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from dalle_jax.config.errors import UserError
from dalle_jax.config.problems import find_named
from dalle_jax.models.model_configs import AnyModelConfig
from dalle_jax.pretrained.files.tensors import Tensors, file_error, is_size
from dalle_jax.pretrained.mapping import Ignored, Rule
from dalle_jax.sampling.options import RecommendedSampling
from dalle_jax.text.bart_bpe import BartBpe
from dalle_jax.text.clip_bpe import FILE, ClipBpe
from dalle_jax.text.glide_bpe import ENCODER, PAIRS, GlideBpe
from dalle_jax.text.vocabulary_files import MERGES, TOKENIZER, VOCABULARY
from dalle_jax.untrusted import open_file, parse_json, read_file

PUBLISHERS = "dalle_jax.pretrained.publishers"
"""Package that holds a module for each publisher."""
MAX_CONFIG_BYTES = 1 << 24
MODEL_CARD = "README.md"
"""File with a YAML header that states the licence."""
WEIGHT_ENDINGS = frozenset({".pt", ".pth", ".bin", ".ckpt", ".pkl", ".safetensors", ".msgpack", ".npz"})
MAX_FILES_NAMED = 5
UNKNOWN_LICENCE = "not stated next to the weights; ask the publisher"

Json: TypeAlias = dict[str, object]
"""A JSON object, whose values are not checked yet."""


@dataclass(frozen=True)
class Published:
    """A published model: its config in this package, its tensors, and the rules that map them to variables.

    - ``ignored``: tensors that are not used, by pattern, with the reason.
    - ``files``: the files that were read, whose hashes are recorded.
    - ``vocabulary``: the text tokenizer of a model that reads captions; ``vocabulary_file`` is its file, if one was
      found next to the weights.
    - ``sampling``: the publisher's options of sampling, of a model that samples by itself.
    """

    config: AnyModelConfig
    tensors: Tensors
    rules: Sequence[Rule]
    ignored: Ignored
    files: tuple[Path, ...]
    licence: str = UNKNOWN_LICENCE
    name: str | None = None
    vocabulary: ClipBpe | BartBpe | GlideBpe | None = None
    vocabulary_file: Path | None = None
    sampling: RecommendedSampling | None = None


@runtime_checkable
class Publisher(Protocol):
    """The function of a publisher's module that reads weights.

    It is named ``published``, unless the module has several such functions.
    """

    def __call__(self, source: Path) -> Published:
        """Read the model in a file or folder; raise UserError if the source is of a different kind."""
        ...


@runtime_checkable
class PresetPublisher(Protocol):
    """A function of a publisher's module that reads a file of weights by the name of a preset, which gives the rest."""

    def __call__(self, source: Path, preset: str) -> Published:
        """Read the model in a file; raise UserError for an unknown preset, or one that the weights do not fit."""
        ...


Takes: TypeAlias = Literal["file", "folder", "either"]
"""The place that a kind of weights is read from."""


@dataclass(frozen=True)
class Kind:
    """A kind of published weights.

    ``name`` is its name on the command line, ``module`` its module in the package ``PUBLISHERS``, and ``function`` the
    ``Publisher`` in that module. ``preset_function`` is its ``PresetPublisher``, for a kind whose bare weights can be
    read by a preset's name.
    """

    name: str
    module: str
    help: str
    takes: Takes
    function: str = "published"
    preset_function: str | None = None

    def read(self, source: Path, preset: str | None = None) -> Published:
        """Read the model in ``source``, or bare weights by the name of a preset."""
        module = importlib.import_module(f"{PUBLISHERS}.{self.module}")
        if preset is not None:
            if self.preset_function is None:
                raise UserError(f"--preset: expected none, because {self.name} has no presets, got {preset}")
            of_preset: PresetPublisher = getattr(module, self.preset_function)
            check_place(source, "file", f"a file of weights for --preset {preset}")
            return of_preset(source, preset)
        check_place(source, self.takes, self.help)
        publisher: Publisher = getattr(module, self.function)
        return publisher(source)


def check_place(source: Path, takes: Takes, expected: str) -> None:
    """Raise UserError for a file where a folder is meant, and the reverse."""
    if takes == "folder" and source.is_file():
        raise file_error(source, expected, "a file; name the folder that it lies in")
    if takes == "file" and source.is_dir():
        inside = sorted(one.name for one in source.iterdir() if one.suffix in WEIGHT_ENDINGS)[:MAX_FILES_NAMED]
        names = ", ".join(inside) or "it has no weights"
        raise file_error(source, expected, f"a folder; name one of its files ({names})")


KINDS = (
    Kind("openai-clip", "openai_clip", "OpenAI's CLIP: a .pt file", "file"),
    Kind("hf-clip", "hugging_face_clip", "Hugging Face's CLIPModel: a folder with config.json", "folder"),
    Kind(
        "open-clip",
        "open_clip",
        "open_clip: a folder with open_clip_config.json, or with --preset a file such as epoch_32.pt",
        "folder",
        preset_function="published_preset",
    ),
    Kind("openai-dvae", "openai_dvae", "DALL·E 1's dVAE: a folder with encoder.pkl, decoder.pkl", "folder"),
    Kind("taming-vqgan", "taming_vqgan", "taming's VQGAN or GumbelVQ: a .ckpt, or a folder with last.ckpt", "either"),
    Kind("dalle-mini-vqgan", "dalle_mini_vqgan", "DALL·E mini's Flax VQGAN: a folder", "folder"),
    Kind(
        "llamagen-vq", "taming_vqgan", "LlamaGen's image tokenizer: a .pt file", "file", function="published_llamagen"
    ),
    Kind("lpips", "lpips_weights", "LPIPS: a state dict, or a folder with VGG-16 and its weights", "either"),
    Kind("efficientnet-lite0", "vision.efficientnet_weights", "EfficientNet-Lite0: a .pth file", "file"),
    Kind("inception-v3", "vision.inception_weights", "FID's InceptionV3: pt_inception-2015-12-05-6726825d.pth", "file"),
    Kind("dinov2", "vision.dinov2_weights", "DINOv2's ViT: a state dict, or Hugging Face's folder", "either"),
    Kind("dalle-mini", "dalle_mini", "DALL·E mini or mega: a folder with flax_model.msgpack", "folder"),
    Kind("min-dalle", "min_dalle", "min-dalle: a folder with encoder.pt and decoder.pt", "folder"),
    Kind("llamagen", "llamagen", "LlamaGen's transformers: a .pt file", "file"),
    Kind("diffusers-unet", "diffusers_unet", "diffusers' UNets, such as Karlo's decoder: a folder", "folder"),
    Kind(
        "consistency-decoder",
        "diffusers_unet",
        "the consistency decoder: diffusers' folder",
        "folder",
        function="published_consistency",
    ),
    Kind("glide", "glide", "GLIDE's base, upsampler or inpainting network: a .pt file", "file"),
    Kind("karlo-prior", "karlo", "Karlo's prior: diffusers' folder prior", "folder", function="published_prior"),
    Kind(
        "karlo-text-proj",
        "karlo",
        "Karlo's projections: diffusers' folder text_proj",
        "folder",
        function="published_text_proj",
    ),
    Kind(
        "karlo-text-encoder",
        "karlo",
        "Karlo's text tower: diffusers' folder text_encoder",
        "folder",
        function="published_text_encoder",
    ),
    Kind(
        "karlo-image-encoder",
        "hugging_face_clip",
        "the image tower of Karlo's variations: diffusers' folder image_encoder",
        "folder",
        function="published_image_encoder",
    ),
)


@dataclass(frozen=True)
class PublishedPart:
    """A network of a published pipeline: its file or folder in the source, its model folder, and its kind."""

    source: str
    folder: str
    kind: str
    optional: bool = False


@dataclass(frozen=True)
class WholeKind:
    """A published pipeline of several networks."""

    name: str
    help: str
    parts: tuple[PublishedPart, ...]


WHOLE_KINDS = (
    WholeKind(
        "karlo",
        "Karlo as a whole: diffusers' folder with model_index.json",
        (
            PublishedPart("text_encoder", "text_encoder", "karlo-text-encoder"),
            PublishedPart("prior", "prior", "karlo-prior"),
            PublishedPart("text_proj", "text_proj", "karlo-text-proj"),
            PublishedPart("decoder", "decoder", "diffusers-unet"),
            PublishedPart("super_res_first", "super_res_first", "diffusers-unet"),
            PublishedPart("super_res_last", "super_res_last", "diffusers-unet"),
            PublishedPart("image_encoder", "image_encoder", "karlo-image-encoder", optional=True),
        ),
    ),
    WholeKind(
        "glide-text2im",
        "GLIDE as a whole: a folder with base.pt and upsample.pt",
        (PublishedPart("base.pt", "base", "glide"), PublishedPart("upsample.pt", "upsampler", "glide")),
    ),
    WholeKind(
        "glide-inpaint",
        "GLIDE for inpainting: a folder with base_inpaint.pt and upsample_inpaint.pt",
        (PublishedPart("base_inpaint.pt", "base", "glide"), PublishedPart("upsample_inpaint.pt", "upsampler", "glide")),
    ),
)


def find_any_kind(name: str) -> Kind | WholeKind:
    """Return the kind of one network or of a pipeline. Raises UserError with similar names if it does not exist."""
    every: tuple[Kind | WholeKind, ...] = (*KINDS, *WHOLE_KINDS)
    return find_named(name, every, "a kind of published weights")


def find_kind(name: str) -> Kind:
    """Return the kind of that name. Raises UserError with similar names if it does not exist."""
    return find_named(name, KINDS, "a kind of published weights")


def read_json(path: Path) -> Json:
    """Read a file that holds a JSON object; raise UserError for all others."""
    if not path.is_file():
        raise file_error(path, "a file with the model's config", "none")
    try:
        value = parse_json(read_file(path, MAX_CONFIG_BYTES))
    except ValueError as error:
        raise file_error(path, "a config in JSON", f"other content ({str(error)[:100]})") from error
    return as_object(path, "the config", value)


def as_object(path: Path, name: str, value: object) -> Json:
    """Return a JSON value that must be an object; raise UserError if it is not."""
    if not isinstance(value, dict):
        raise file_error(path, f"{name} to be an object in JSON", type(value).__name__)
    return value


def positive_int(path: Path, name: str, value: object) -> int:
    """Return a JSON value that must be a whole number of 1 or more; raise UserError if it is not."""
    if not is_size(value) or not value:
        raise file_error(path, f"{name} as a whole number of 1 or more", repr(value)[:80])
    return value


def find_file(folder: Path, names: Sequence[str]) -> Path:
    """Return the first of these files that the folder has; raise UserError if it has none."""
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise file_error(folder, f"a folder with {' or '.join(names)}", "none of them")
    return found


def find_vocabulary(folder: Path) -> Path | None:
    """Return the text tokenizer's file in a folder, or None.

    The first of these that exists: ``vocab.json`` next to ``merges.txt``, GLIDE's
    ``encoder.json`` next to ``vocab.bpe``, CLIP's merges file, ``tokenizer.json``.
    """
    if all((folder / name).is_file() for name in (VOCABULARY, MERGES)):
        return folder / VOCABULARY
    for end in ("", ".gz"):
        if (folder / (ENCODER + end)).is_file() and (folder / (PAIRS + end)).is_file():
            return folder / (ENCODER + end)
    names = (f"{FILE}.gz", FILE, TOKENIZER)
    return next((folder / name for name in names if (folder / name).is_file()), None)


def check_flags(path: Path, config: Json, known: Mapping[str, object], ignored: frozenset[str] = frozenset()) -> None:
    """Raise UserError that names every flag of a config that is not implemented.

    ``known`` maps a flag to the only value that is implemented, or to ``...`` if all values are implemented. Flags in
    ``ignored`` do not change the network.
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
        raise file_error(path, "a config of which all is implemented", "; ".join(wrong))


def read_licence(folder: Path) -> str:
    """Read the licence from the YAML header of the model card."""
    card = folder / MODEL_CARD
    if not card.is_file():
        return UNKNOWN_LICENCE
    with open_file(card) as stream:
        head = stream.read(20_000).decode("utf-8", errors="replace")
    found = re.search(r"\A---\n(?:.*\n)*?license:[ \t]*(\S.*)\n(?:.*\n)*?---", head)
    return found.group(1).strip() if found else UNKNOWN_LICENCE


def tensor_shape(tensors: Tensors, name: str, dimensions: int) -> tuple[int, ...]:
    """Return the shape of a tensor. Raise UserError unless it exists and has ``dimensions`` axes, none of length 0."""
    found = tensors.stored.get(name)
    if found is None or len(found.shape) != dimensions or 0 in found.shape:
        got = "no such tensor" if found is None else f"shape {list(found.shape)}"
        raise file_error(tensors.name, f"a tensor {name!r} of {dimensions} dimensions", got)
    return found.shape


def count_layers(tensors: Tensors, pattern: str) -> int:
    """Count the layers in the tensors' names.

    The first group of ``pattern`` matches the layer's number. Raises UserError unless the numbers are 0, 1, 2 and so
    on without a gap.
    """
    numbers = {int(match.group(1)) for name in tensors if (match := re.match(pattern, name))}
    if numbers != set(range(len(numbers))):
        missing = next(number for number in itertools.count() if number not in numbers)
        raise file_error(tensors.name, f"all layers of {pattern}", f"none of number {missing}")
    return len(numbers)


def grid_side(tensors: Tensors, name: str, positions: int) -> int:
    """Return the side of a square grid that has ``positions`` positions.

    ``name`` is the tensor of position embeddings, which errors name. ``positions`` does not count its row for the class
    token.
    """
    side = round(positions**0.5)
    if side * side != positions or not side:
        raise file_error(tensors.name, f"{name!r} for a square grid and a class token", f"{positions + 1} positions")
    return side
