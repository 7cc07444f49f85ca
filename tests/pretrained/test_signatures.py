"""The same weights under the names of many training programs, and files that hold other weights."""

from pathlib import Path

import numpy as np
import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.pretrained.files.tensors import StoredTensor, Tensors
from dalle_jax.pretrained.publisher import find_kind
from dalle_jax.pretrained.signatures import OPENAI_CLIP, SIGNATURES, Signature, locate

VALUE = np.arange(3.0)
CLIP = OPENAI_CLIP.needed


def file(*names: str) -> Tensors:
    return Tensors("a.pt", {name: StoredTensor(VALUE.shape, VALUE.dtype, lambda: VALUE) for name in names})


def under(prefix: str) -> list[str]:
    return [prefix + name for name in (*CLIP, "logit_scale")]


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "_orig_mod.", "state_dict.", "state_dict.module.", "model_state_dict.", "state_dict.model.",
     "params/", "a.word.that.nobody.expected."],
)  # fmt: skip
def test_the_weights_are_found_under_any_one_prefix(prefix):
    found = locate(file(*under(prefix), *([] if not prefix else ["epoch", "optimizer.0"])), OPENAI_CLIP)
    assert set(found) == {*CLIP, "logit_scale"} and found.prefix == prefix
    np.testing.assert_array_equal(found["text_projection"], VALUE)
    reason = f"next to the weights under {prefix[:-1]!r}"
    assert found.skipped == ({} if not prefix else {"epoch": reason, "optimizer.0": reason})


def test_a_name_that_only_ends_alike_is_not_a_prefix():
    with pytest.raises(UserError, match="expected the tensors of the kind openai-clip"):
        locate(file(*(f"my{name}" for name in CLIP)), OPENAI_CLIP)


def test_weights_that_a_file_has_twice_are_the_preferred_ones_or_refused():
    found = locate(file(*under("ema."), *under("model.")), OPENAI_CLIP)
    assert found.prefix == "model."
    ema = Signature("openai-clip", CLIP, ("ema",))
    assert locate(file(*under("ema."), *under("model.")), ema).prefix == "ema."
    with pytest.raises(UserError, match=r"got them under 'student\.', 'teacher\.'; save one of these alone"):
        locate(file(*under("student."), *under("teacher.")), OPENAI_CLIP)


def test_the_error_says_what_is_there_and_what_the_nearest_prefix_lacks():
    names = [one for one in under("net.") if not one.endswith("text_projection")]
    with pytest.raises(UserError) as caught:
        locate(file(*names, *(f"head.{layer}.weight" for layer in range(4))), OPENAI_CLIP)
    said = str(caught.value)
    assert said.startswith("a.pt: expected the tensors of the kind openai-clip under one prefix (text_projection, ")
    there = "got 8 tensors: net.* (4), head.* (4); under 'net.' it lacks text_projection"
    assert said.endswith(there)


@pytest.mark.parametrize("signature", SIGNATURES, ids=lambda one: f"{one.kind}-{one.needed[0]}")
def test_a_file_of_each_kind_is_recognised_by_another_kinds_reader(signature):
    nothing = Signature("something else", ("no such name",))
    with pytest.raises(UserError, match=f"; it looks like the kind .*{signature.kind}"):
        locate(file(*(f"module.{name}" for name in signature.needed)), nothing)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("hf-clip", "expected Hugging Face's CLIPModel: a folder with config.json, got a file; name the folder"),
        ("open-clip", "expected open_clip: a folder with open_clip_config.json, or with --preset a file such as"),
        ("min-dalle", "expected min-dalle: a folder with encoder.pt and decoder.pt, got a file; name the folder"),
    ],
)
def test_a_file_where_a_folder_is_meant_is_named_as_it_was_given(tmp_path: Path, kind, expected):
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"x")
    with pytest.raises(UserError) as caught:
        find_kind(kind).read(weights)
    assert str(caught.value).startswith(f"{weights}: {expected}")


@pytest.mark.parametrize("kind", ["openai-clip", "llamagen-vq", "glide"])
def test_a_folder_where_a_file_is_meant_is_answered_with_its_files(tmp_path: Path, kind):
    for name in ("b.pt", "a.safetensors", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=r"got a folder; name one of its files \(a\.safetensors, b\.pt\)"):
        find_kind(kind).read(tmp_path)
