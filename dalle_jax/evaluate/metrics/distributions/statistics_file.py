"""Features of a set of images in a .npz file, found again by the fingerprint of the data.

The file holds ``mu`` and ``sigma`` under the names of pytorch-fid, ADM and torch-fidelity, so they read it too, and
their files are read here. Files of others state neither network nor number of images.
"""

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.metrics.distributions.feature_set import FeatureSet
from dalle_jax.evaluate.metrics.metric import merge_over_hosts
from dalle_jax.parallel import hosts
from dalle_jax.pretrained.files.read_weights import read_tensors
from dalle_jax.pretrained.files.tensors import Tensors
from dalle_jax.storage import Place, write

OWN = {
    "count": ("int64", 0),
    "numbers": ("int64", 1),
    "row_numbers": ("int64", 1),
    "rows": ("float32", 2),
    "features": ("uint8", 1),
    "data": ("uint8", 1),
    "image_size": ("int64", 1),
}
"""Arrays beside ``mu`` and ``sigma`` with their dtypes and dimensions; texts are bytes of UTF-8."""

MOST_LETTERS = 1000
"""Largest number of bytes of a text that is compared."""


class FeatureName(NamedTuple):
    """The name of a network, its weights and preparation, and the number of its features."""

    name: str
    width: int


def write_statistics(path: Place, found: FeatureSet, data: str) -> None:
    """Write a set of features. ``data`` is the fingerprint of its images. The file is written aside and renamed."""
    state = found.arrays()
    packed = io.BytesIO()
    np.savez(
        packed,
        mu=found.moments.mean,
        sigma=found.moments.covariance,
        **{name: state[name] for name in ("count", "numbers", "row_numbers", "rows", "image_size")},  # type: ignore[arg-type]
        features=np.frombuffer(found.features.encode(), np.uint8),
        data=np.frombuffer(data.encode(), np.uint8),
    )
    write(path, packed.getvalue())


def read_statistics(path: Path, features: str, width: int, data: str | None = None) -> FeatureSet:
    """Read the features of a network and preparation named ``features`` from a file.

    A file of ``mu`` and ``sigma`` alone is trusted to be of these features; FD compares it, other metrics refuse it.
    Raises ``UserError`` for another network or width, for data of another fingerprint than ``data``, or for a damaged
    file.
    """
    tensors = read_tensors(path)
    missing = [name for name in ("mu", "sigma") if name not in tensors]
    if missing:
        raise UserError(f"{path}: expected statistics with mu and sigma, got a file without {' and '.join(missing)}")
    shapes = [tensors.stored[name].shape for name in ("mu", "sigma")]
    if shapes != [(width,), (width, width)]:
        raise UserError(
            f"{path}: expected mu [{width}] and sigma [{width}, {width}] of {features}, "
            f"got {list(shapes[0])} and {list(shapes[1])}"
        )
    mean, covariance = (np.array(tensors[name], np.float64) for name in ("mu", "sigma"))
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UserError(f"{path}: expected finite numbers, got NaN or infinity in mu or sigma")
    if not any(name in tensors for name in OWN):
        return FeatureSet.of_statistics(features, mean, covariance)
    return _own(path, tensors, features, data, mean, covariance)


def _own(
    path: Path, tensors: Tensors, features: str, data: str | None, mean: np.ndarray, covariance: np.ndarray
) -> FeatureSet:
    found = {
        name: (str(tensors.stored[name].dtype), len(tensors.stored[name].shape)) for name in OWN if name in tensors
    }
    if found != OWN:
        wrong = {name: found.get(name, "nothing") for name in OWN if found.get(name) != OWN[name]}
        raise UserError(f"{path}: expected arrays as dalle-jax writes them, got {wrong}")
    stored = {name: bytes(tensors[name][:MOST_LETTERS]).decode(errors="replace") for name in ("features", "data")}
    if stored["features"] != features:
        raise UserError(f"{path}: expected features of {features!r}, got those of {stored['features']!r}")
    if data is not None and stored["data"] != data:
        raise UserError(f"{path}: expected statistics of the data {data[:12]}, got those of {stored['data'][:12]}")
    count, size = int(tensors["count"]), tensors["image_size"]
    numbers, row_numbers, rows = (np.array(tensors[name]) for name in ("numbers", "row_numbers", "rows"))
    if count < 2 or len(numbers) != count or rows.shape != (len(row_numbers), len(mean)) or len(rows) > count:
        raise UserError(
            f"{path}: expected the numbers of {count} images and rows [n, {len(mean)}] of some of them, "
            f"got {list(numbers.shape)} and {list(rows.shape)}"
        )
    if size.shape != (2,) or not np.isfinite(rows).all():
        raise UserError(f"{path}: expected a height, a width and finite rows, got {size.tolist()} or NaN")
    state = {
        "count": np.asarray(count),
        "image_size": size,
        "mean": mean,
        "scatter": covariance * (count - 1),
        "numbers": numbers,
        "row_numbers": row_numbers,
        "rows": rows,
    }
    return FeatureSet(features, len(mean), most_rows=max(len(rows), 1)).from_arrays(state)


def cached_statistics(
    folder: Path,
    networks: Sequence[FeatureName],
    data: str,
    measure: Callable[[list[int]], list[FeatureSet]],
    say: Callable[[str], None],
) -> list[FeatureSet]:
    """Return the features of the data for each network, from ``folder`` if they are there, else measured and kept.

    ``data`` is a fingerprint of the images and of their preparation. ``measure`` gets the indexes of the networks whose
    features are missing. A damaged file is named and measured again. All processes must call this together; the first
    one reads and writes the files.
    """
    paths = [folder / _file_name(one, data) for one in networks]
    stored: list[FeatureSet | None] = [None] * len(paths)
    if hosts.is_first():
        stored = [_stored(path, one, data, say) for path, one in zip(paths, networks, strict=True)]
    known = json.loads(hosts.gather(json.dumps([one is not None for one in stored]).encode())[0])
    missing = [index for index, found in enumerate(known) if not found]
    measured = dict(zip(missing, measure(missing), strict=True)) if missing else {}
    out = []
    for index, (path, network) in enumerate(zip(paths, networks, strict=True)):
        if index in measured:
            if hosts.is_first():
                write_statistics(path, measured[index], data)
            out.append(measured[index])
        else:
            say(f"features of {network.name.split()[0]} read from {path}")
            out.append(merge_over_hosts(stored[index] or FeatureSet(network.name, network.width)))
    return out


def _file_name(network: FeatureName, data: str) -> str:
    """Return a name that is another one for other networks, weights, preparations or data."""
    return f"{network.name.split()[0]}-{hashlib.sha256(f'{network.name} {data}'.encode()).hexdigest()[:20]}.npz"


def _stored(path: Path, network: FeatureName, data: str, say: Callable[[str], None]) -> FeatureSet | None:
    if not path.is_file():
        return None
    try:
        return read_statistics(path, network.name, network.width, data)
    except UserError as error:
        say(f"{error}; measured again")
        return None
