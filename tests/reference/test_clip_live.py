"""CLIP beside transformers and OpenAI's own code, run live in an environment of their own.

DALLE_JAX_REFERENCE names its Python, which needs torch (the CPU build), transformers and openai-clip (--no-deps).
"""

import json

import numpy as np
import pytest

from dalle_jax.__main__ import main
from dalle_jax.evaluate.metrics.zero_shot import class_vectors
from dalle_jax.losses.contrastive import similarities
from dalle_jax.models.clip import unit
from dalle_jax.pipelines.load.models import load_clip
from dalle_jax.pretrained.publishers import hugging_face_clip
from tests.parity.fixtures import assert_close, imported, run
from tests.reference.live import by_reference

pytestmark = pytest.mark.reference
TOLERANCE = 5e-5
"""Rounding of two programs in float32; the logits are up to 14 times a cosine."""


def by_torch(*arguments):
    return by_reference("clip_by_torch.py", *arguments)


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


def test_an_imported_and_exported_clip_gives_the_same_in_transformers(tmp_path):
    (tmp_path / "sizes.json").write_text(json.dumps(VIT))
    openai = by_torch("openai", tmp_path / "sizes.json", tmp_path / "clip.pt", tmp_path / "out.npz")
    clip = imported("openai-clip", tmp_path / "clip.pt")
    hugging_face_clip.export(clip, tmp_path / "hf")
    np.savez(tmp_path / "in.npz", pixels=openai["pixels"], ids=openai["ids"])
    wanted = by_torch("hugging_face", tmp_path / "hf", tmp_path / "in.npz", tmp_path / "hf.npz")
    compare(clip, openai["pixels"], openai["ids"], wanted)
    assert_close(wanted["logits"], openai["logits"], 14 * TOLERANCE)
    compare(imported("hf-clip", tmp_path / "hf"), openai["pixels"], openai["ids"], wanted)


TOWERS = {"hidden_act": "gelu", "num_hidden_layers": 2, "attention_dropout": 0.0}
HUGGING_FACE = {
    "projection_dim": 20,
    "vision_config": TOWERS
    | {"hidden_size": 72, "intermediate_size": 200, "num_attention_heads": 6, "image_size": 28, "patch_size": 7},
    "text_config": TOWERS
    | {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 3, "vocab_size": 40, "eos_token_id": 39}
    | {"max_position_embeddings": 11, "bos_token_id": 0, "pad_token_id": 39},
}


def test_a_new_model_of_transformers_is_imported_and_chooses_the_same_classes_by_an_ensemble_of_prompts(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(HUGGING_FACE))
    wanted = by_torch("new_hugging_face", tmp_path / "config.json", tmp_path / "hf", tmp_path / "out.npz")
    clip = imported("hf-clip", tmp_path / "hf")
    compare(clip, wanted["pixels"], wanted["ids"], wanted)
    count = len(wanted["classes"])
    prompts = np.split(np.arange(len(wanted["ids"])).astype(str), count)  # ids are known by their rows

    def encode(rows):
        ids = wanted["ids"].astype(np.int32)[np.asarray(rows, int)]
        return run(lambda clip, ids: clip.encode_text(ids), clip, ids)

    classes = class_vectors(encode, [part.tolist() for part in prompts])
    assert_close(classes, wanted["classes"], TOLERANCE)
    image = run(lambda clip, x: unit(clip.vision(x)), clip, wanted["pixels"].transpose(0, 2, 3, 1))
    logits = float(clip.logit_scale) * image @ classes.T
    chances = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert_close(chances / chances.sum(axis=1, keepdims=True), wanted["chances"], 14 * TOLERANCE)
    best = wanted["chances"].argmax(axis=1)
    assert len(set(best.tolist())) > 1
    assert (image @ classes.T).argmax(axis=1).tolist() == best.tolist()


def test_a_clip_that_was_trained_here_is_exported_and_transformers_gives_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["text-tokenizer", "smoke/text.gin", "--out", "runs/smoke/text.model"]) == 0
    settings = ["trainer.evaluate_every=None", "trainer.images_every=None"]
    words = [word for one in settings for word in ("--set", one)]
    assert main(["train", "smoke/tokenizer.gin", "--out", "runs/smoke/tokenizer", *words]) == 0
    end = ["--set", "task.model.end_of_text=@LargestId"]
    assert main(["train", "smoke/clip.gin", "--out", "run", *words, *end]) == 0
    assert main(["export", "hf-clip", "run", "hf"]) == 0
    clip, random = load_clip(tmp_path / "run"), np.random.default_rng(0)
    pixels = random.normal(size=(2, 3, 32, 32)).astype(np.float32)
    ids = random.integers(3, clip.config.vocab_size, (2, clip.config.text_length))
    np.savez(tmp_path / "in.npz", pixels=pixels, ids=ids)
    compare(clip, pixels, ids, by_torch("hugging_face", "hf", tmp_path / "in.npz", tmp_path / "out.npz"))
