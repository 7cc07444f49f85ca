"""Works as bytes, for the processes that draw them too; reading them executes nothing."""

import io
import json
from dataclasses import asdict

import numpy as np

from dalle_jax.images.editable import load_editable
from dalle_jax.pipelines.request import RequestOptions
from dalle_jax.serve.engine.works import Edit, Generate, Vary, Work

KINDS: dict[str, type[Work]] = {one.__name__: one for one in (Generate, Edit, Vary)}


def work_bytes(work: Work) -> bytes:
    """Return a work as an .npz file: its fields as JSON, and its arrays. Of images it has the RGB pixels alone."""
    fields: dict[str, object] = {"kind": type(work).__name__} | dict(vars(work))
    arrays: dict[str, np.ndarray] = {}
    if isinstance(work, Edit):
        arrays |= {f"image{number}": one.pixels for number, one in enumerate(work.images)}
        arrays |= {} if work.hidden is None else {"hidden": work.hidden}
    elif isinstance(work, Vary):
        arrays["image0"] = work.image.pixels
    for name in ("images", "image", "hidden"):
        fields.pop(name, None)
    fields["options"] = asdict(work.options)
    out = io.BytesIO()
    arrays["fields"] = np.frombuffer(json.dumps(fields).encode(), np.uint8)
    np.savez(out, allow_pickle=False, **arrays)
    return out.getvalue()


def work_of_bytes(content: bytes) -> Work:
    """Return the work of ``work_bytes``."""
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = dict(file)
    fields = json.loads(arrays.pop("fields").tobytes())
    kind, hidden = KINDS[fields.pop("kind")], arrays.pop("hidden", None)
    fields |= {"options": RequestOptions(**fields["options"]), "shown": tuple(fields["shown"])}
    images = tuple(load_editable(arrays[f"image{number}"]) for number in range(len(arrays)))
    if kind is Generate:
        return Generate(**fields)
    if kind is Edit:
        return Edit(**fields, images=images, hidden=hidden)
    return Vary(**fields, image=images[0])
