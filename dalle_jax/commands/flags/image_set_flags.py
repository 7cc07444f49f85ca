"""Flags of ``evaluate`` that name sets of images, features and distances, and what they open."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import get_args

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.data.precomputed.manifest import holds_codes
from dalle_jax.data.source_of_path import source_of_path
from dalle_jax.data.sources.folder import Folder
from dalle_jax.data.sources.precomputed import Codes
from dalle_jax.evaluate.features.feature_extractor import FeatureExtractor
from dalle_jax.evaluate.features.open_features import KINDS, open_features
from dalle_jax.evaluate.suites.compare_images import AMONG, CompareImages
from dalle_jax.evaluate.suites.feature_comparison import DEFAULT_DISTANCES, DistanceName
from dalle_jax.evaluate.suites.image_sets import DecodedCodes, ImageSet, RecordImages
from dalle_jax.evaluate.suites.sets.array_images import ENDINGS, is_statistics, open_array_images
from dalle_jax.evaluate.suites.sets.reference_sets import ReferenceImages, ReferenceSet, ReferenceStatistics
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.encode import fingerprint
from dalle_jax.pipelines.image_codec import ImageCodec
from dalle_jax.pipelines.load.models import load_image_tokenizer
from dalle_jax.storage import Place

DEFAULT_FEATURES = "efficientnet-lite0"
IMAGE_SET_FLAGS = ("against", "features", "distances", "inception_score", "lpips", "statistics", "size", "count")
"""Flags of ``add_image_set_flags`` other than ``--images``, which they need."""
SCORES = "scores.jsonl"
"""The file that ``sample`` writes last, with a line for each image."""


def add_image_set_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "--images",
        metavar="SOURCE",
        help="instead of a config: the images to measure, a folder, tars, parquet or array_record files, an .npz or "
        ".npy file, or codes",
    )
    parser.add_argument(
        "--against",
        metavar="SOURCE",
        help="with --images, real images to compare them with, or an .npz file of mean and covariance",
    )
    parser.add_argument(
        "--features",
        action="append",
        metavar="NETWORK",
        help="with --against or --model, a network whose features are compared: "
        f"{', '.join(one.form for one in KINDS)}; may be given several times (default {DEFAULT_FEATURES})",
    )
    parser.add_argument(
        "--distances",
        metavar="NAME,...",
        help=f"with --against or --model, the distances to compute, of {', '.join(get_args(DistanceName))} "
        f"(default {','.join(DEFAULT_DISTANCES)})",
    )
    parser.add_argument(
        "--inception-score", action="store_true", help="with --images, the Inception Score by inception:FILE"
    )
    parser.add_argument(
        "--lpips",
        type=storage.reachable,
        metavar="DIR",
        help="with --images, imported LPIPS weights: the diversity of images of one caption, and with --model the "
        "distance of each image from its reconstruction",
    )
    parser.add_argument(
        "--statistics",
        type=Path,
        metavar="DIR",
        help="with --against, the folder that keeps its features (default: statistics beside --out)",
    )
    parser.add_argument(
        "--size", type=int, metavar="N", help="resize the middle square of each image to N pixels a side"
    )
    parser.add_argument("--count", type=int, metavar="N", help="read at most the first N images of each source")


def open_image_set(
    path: str, size: int | None, tokenizer: Place | None, layout: Layout | None, say: Callable[[str], None]
) -> ImageSet:
    """Open the images of a path. Raise ``UserError`` if it holds none."""
    if size is not None and size < 1:
        raise UserError(f"--size: expected at least 1 pixel, got {size}")
    place = storage.place(path)
    if path.endswith(ENDINGS):
        if not isinstance(place, Path):
            raise UserError(f"{path}: expected an array in a file of this machine, got a URL")
        return open_array_images(place, size)
    if holds_codes(place):
        codes = Codes(path).open()
        side = codes.manifest.encoding.image_size
        if size not in (None, side):
            raise UserError(f"--size: expected {side}, the size of the images that {path} was encoded from, got {size}")
        folder = tokenizer or storage.place(codes.manifest.image_tokenizer)
        network = load_image_tokenizer(folder, layout)
        if (found := fingerprint(network)) != codes.manifest.encoding.tokenizer:
            wanted = f"{codes.manifest.encoding.tokenizer}, which computed the codes of {path}"
            raise UserError(f"--image-tokenizer: expected {wanted}, got {found} in {folder}")
        return DecodedCodes(path, codes, ImageCodec(network, AMONG, layout).decode, found)
    source = source_of_path(path, say)
    if isinstance(source, Folder):
        source = _samples(path) if storage.exists(place / SCORES) else replace(source, captioned=False)
    return RecordImages(path, source.open(), size)


def open_reference(
    path: str,
    size: int | None,
    tokenizer: Place | None,
    layout: Layout | None,
    say: Callable[[str], None],
    statistics: Path | None,
) -> ReferenceSet:
    """Open the reference of a path: images, whose features are kept in ``statistics``, or statistics alone."""
    place = storage.place(path)
    if isinstance(place, Path) and is_statistics(place):
        return ReferenceStatistics(place)
    return ReferenceImages(open_image_set(path, size, tokenizer, layout, say), statistics)


def _samples(path: str) -> Folder:
    """Return the images that ``sample`` wrote into a folder, with their prompts as captions, without the grid."""
    return Folder(path, metadata=(SCORES,), file="file", caption=("prompt",), captioned=False, listed=True)


def open_extractors(
    specifications: list[str] | None, own_clip: Place | None, layout: Layout | None
) -> Mapping[str, FeatureExtractor]:
    """Load the extractors of the flags, named by their networks; a second one of a network gets a number."""
    found: dict[str, FeatureExtractor] = {}
    for one in specifications or [DEFAULT_FEATURES]:
        name = one.partition(":")[0]
        number = sum(other == name or other.startswith(f"{name}-") for other in found)
        found[f"{name}-{number + 1}" if number else name] = open_features(one, own_clip, layout, AMONG // 2)
    return found


def comparison_of(args: argparse.Namespace) -> CompareImages:
    """Return the options of a comparison. Raise ``UserError`` for unknown distances or a wrong count."""
    distances, count = args.distances, args.count
    names: list[DistanceName] = list(DEFAULT_DISTANCES)
    if distances is not None:
        known = {name: name for name in get_args(DistanceName)}
        wrong = [one for one in distances.split(",") if one not in known]
        if wrong:
            raise UserError(f"--distances: expected some of {', '.join(known)}, got {wrong[0]!r}")
        names = [known[one] for one in distances.split(",")]
    if count is not None and count < 1:
        raise UserError(f"--count: expected at least 1 image, got {count}")
    return CompareImages(tuple(names), count, inception_score=args.inception_score)


def refuse_flags(args: argparse.Namespace, names: tuple[str, ...], why: str) -> None:
    """Raise ``UserError`` for the first flag of these that is given."""
    for name in names:
        if given := getattr(args, name):
            shown = "it" if given is True else given
            raise UserError(f"--{name.replace('_', '-')}: expected none {why}, got {shown}")
