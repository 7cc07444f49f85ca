"""CLIP beside transformers and OpenAI's own code, run live in an environment of their own.

DALLE_JAX_REFERENCE names its Python, which needs torch (the CPU build), transformers and openai-clip (--no-deps).
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from dalle_jax.losses.contrastive import similarities
from dalle_jax.models.clip import unit
from dalle_jax.pretrained import hugging_face_clip
from tests.parity.fixtures import assert_close, imported, run

pytestmark = pytest.mark.reference
SCRIPT = Path(__file__).with_name("clip_by_torch.py")
TOLERANCE = 5e-5
"""Rounding of two programs in float32; the logits are up to 14 times a cosine."""


def by_torch(*arguments: object) -> dict[str, np.ndarray]:
    """The outputs that the script wrote to its last argument."""
    python = os.environ.get("DALLE_JAX_REFERENCE")
    if not python:
        pytest.skip("DALLE_JAX_REFERENCE is not set")
    done = subprocess.run([python, SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(np.load(str(arguments[-1])))


TEXT = {"context_length": 8, "vocab_size": 50, "transformer_width": 64, "transformer_heads": 1, "transformer_layers": 2}
VIT = {"embed_dim": 24, "image_resolution": 32, "vision_layers": 2, "vision_width": 128, "vision_patch_size": 8, **TEXT}
RESNET = {
    **{"embed_dim": 24, "image_resolution": 64, "vision_layers": [1, 2, 1, 2], "vision_width": 4},
    **{"vision_patch_size": None, **TEXT},
}


def compare(clip, pixels, ids, wanted):
    rows = (pixels.transpose(0, 2, 3, 1), ids.astype(np.int32))
    image = run(lambda clip, x: unit(clip.vision(x)), clip, rows[0])
    text = run(lambda clip, x: unit(clip.text(x)), clip, rows[1])
    assert_close(image, wanted["image"] / np.linalg.norm(wanted["image"], axis=1, keepdims=True), TOLERANCE)
    assert_close(text, wanted["text"] / np.linalg.norm(wanted["text"], axis=1, keepdims=True), TOLERANCE)
    logits = run(lambda clip, image, text: clip.logit_scale * similarities(image, text), clip, image, text)
    assert_close(logits, wanted["logits"], 14 * TOLERANCE)


@pytest.mark.parametrize("sizes", [VIT, RESNET], ids=["vit", "resnet"])
def test_a_new_model_of_openais_code_is_imported_and_gives_the_same(tmp_path, sizes):
    (tmp_path / "sizes.json").write_text(json.dumps(sizes))
    wanted = by_torch("openai", tmp_path / "sizes.json", tmp_path / "clip.pt", tmp_path / "out.npz")
    clip = imported("openai-clip", tmp_path / "clip.pt")
    compare(clip, wanted["pixels"], wanted["ids"], wanted)


def test_what_is_imported_and_exported_is_loaded_by_transformers_and_gives_the_same(tmp_path):
    (tmp_path / "sizes.json").write_text(json.dumps(VIT))
    openai = by_torch("openai", tmp_path / "sizes.json", tmp_path / "clip.pt", tmp_path / "out.npz")
    clip = imported("openai-clip", tmp_path / "clip.pt")
    hugging_face_clip.export(clip, tmp_path / "hf")
    np.savez(tmp_path / "in.npz", pixels=openai["pixels"], ids=openai["ids"])
    wanted = by_torch("hugging_face", tmp_path / "hf", tmp_path / "in.npz", tmp_path / "hf.npz")
    compare(clip, openai["pixels"], openai["ids"], wanted)
    assert_close(wanted["logits"], openai["logits"], 14 * TOLERANCE)
    compare(imported("hf-clip", tmp_path / "hf"), openai["pixels"], openai["ids"], wanted)
