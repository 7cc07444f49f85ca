"""Import to a checkpoint and export back to the same files."""

import dataclasses
import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.__main__ import main
from dalle_jax.config.errors import UserError
from dalle_jax.models.clip import Clip, ClipConfig, FirstEnd, LargestId, TowerConfig
from dalle_jax.models.clip_resnet import ResNetConfig
from dalle_jax.models.dalle_bart import DalleBart
from dalle_jax.pipelines.load.models import load_clip, read_model_file
from dalle_jax.pipelines.load.text import load_text
from dalle_jax.pretrained.exporters import ReadText, find_exporter
from dalle_jax.pretrained.files.read_weights import read_tensors
from dalle_jax.pretrained.files.safetensors_files import write_safetensors
from dalle_jax.pretrained.mapping import to_published
from dalle_jax.pretrained.publisher import read_json
from dalle_jax.pretrained.publishers import dalle_mini, hugging_face_clip
from dalle_jax.pretrained.publishers.clip_rules import openai_rules
from dalle_jax.text.bart_bpe import BartBpe
from tests.pretrained.publishers.test_generators import BART
from tests.text.byte_vocabularies import write_tokenizer_json

TOWER = TowerConfig(width=64, layers=1, heads=1)
CONFIG = ClipConfig(
    image_size=32,
    patch=16,
    vision=TOWER,
    vocab_size=20,
    text_length=6,
    text=TOWER,
    embed_width=8,
    activation="quick_gelu",
    end_of_text=LargestId(),
)


def values(module) -> dict[str, np.ndarray]:
    flat = nnx.to_flat_state(nnx.state(module))
    return {".".join(map(str, path)): np.asarray(leaf.get_value()) for path, leaf in flat}


def noisy(config: ClipConfig) -> Clip:
    """Build a CLIP with distinct random parameters, biases and statistics included."""
    graph, state = nnx.split(nnx.eval_shape(lambda: Clip(config, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(1)
    return nnx.merge(graph, jax.tree.map(lambda leaf: jnp.asarray(rng.random(leaf.shape, np.float32)), state))


def openai_file(path, config: ClipConfig) -> Clip:
    clip = noisy(config)
    write_safetensors(path, to_published(clip, openai_rules(config)), {})
    return clip


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        dataclasses.replace(CONFIG, image_size=64, patch=32, vision=ResNetConfig(width=2, layers=(1, 2, 1, 1))),
    ],
    ids=["vit", "resnet"],
)
def test_import_writes_a_checkpoint_with_every_parameter(tmp_path, capsys, config):
    clip = openai_file(tmp_path / "clip.safetensors", config)
    assert main(["import", "openai-clip", str(tmp_path / "clip.safetensors"), str(tmp_path / "out")]) == 0
    assert "licence: MIT" in capsys.readouterr().out
    assert read_model_file(tmp_path / "out").model == config
    loaded, wanted = values(load_clip(tmp_path / "out")), values(clip)
    assert loaded.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(loaded[name], value, err_msg=name)
    record = json.loads((tmp_path / "out" / "source.json").read_text())
    digest = hashlib.sha256((tmp_path / "clip.safetensors").read_bytes()).hexdigest()
    assert record["files"][0]["sha256"] == digest and record["kind"] == "openai-clip"
    assert (tmp_path / "out" / "checkpoints" / "0" / "checksums.json").is_file()


def test_a_licence_given_by_the_user_is_recorded_in_place_of_the_publishers(tmp_path, capsys):
    openai_file(tmp_path / "clip.safetensors", CONFIG)
    files = [str(tmp_path / "clip.safetensors"), str(tmp_path / "out")]
    assert main(["import", "openai-clip", *files, "--licence", "CC-BY-4.0"]) == 0
    assert "licence: CC-BY-4.0" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "source.json").read_text())["licence"] == "CC-BY-4.0"


@pytest.mark.parametrize("end", [LargestId(), FirstEnd(19)])
def test_an_export_to_hugging_face_is_imported_unchanged(tmp_path, end):
    config = dataclasses.replace(CONFIG, end_of_text=end, activation="gelu", pixel_mean=(0.5, 0.25, 0.5))
    clip = noisy(config)
    hugging_face_clip.export(clip, tmp_path / "hf")
    assert main(["import", "hf-clip", str(tmp_path / "hf"), str(tmp_path / "out")]) == 0
    assert read_model_file(tmp_path / "out").model == dataclasses.replace(config, crop="hugging_face")
    loaded = values(load_clip(tmp_path / "out"))
    for name, value in values(clip).items():
        np.testing.assert_array_equal(loaded[name], value, err_msg=name)
    assert main(["export", "hf-clip", str(tmp_path / "out"), str(tmp_path / "again")]) == 0
    names = ("config.json", "preprocessor_config.json", "model.safetensors")
    assert all((tmp_path / "hf" / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in names)


def test_imported_weights_are_sharded_over_devices(tmp_path):
    """Four devices each hold a quarter of the large matrices; the checkpoint is the same."""
    clip = openai_file(tmp_path / "clip.safetensors", CONFIG)
    out = str(tmp_path / "out")
    assert main(["import", "openai-clip", str(tmp_path / "clip.safetensors"), out, "--fsdp", "4"]) == 0
    loaded = values(load_clip(tmp_path / "out"))
    for name, value in values(clip).items():
        np.testing.assert_array_equal(loaded[name], value, err_msg=name)


def test_all_mismatches_are_reported_together(tmp_path, capsys):
    path = tmp_path / "clip.safetensors"
    openai_file(path, CONFIG)
    tensors = dict(read_tensors(path))
    del tensors["ln_final.bias"]
    tensors["extra.weight"] = np.zeros(3, np.float32)
    tensors["visual.ln_pre.weight"] = np.zeros(63, np.float32)
    tensors["visual.ln_pre.bias"] = np.zeros(64, np.int64)
    tensors["visual.bn1.num_batches_tracked"] = np.zeros((), np.int64)
    write_safetensors(path, tensors, {})
    assert main(["import", "openai-clip", str(path), str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "missing: ln_final.bias" in said and "which no rule uses: extra.weight" in said
    assert "visual.ln_pre.weight (expected float32[64], got float32[63])" in said
    assert "visual.ln_pre.bias (expected float32[64], got int64[64])" in said
    assert "num_batches" not in said and not (tmp_path / "out" / "checkpoints").exists()


def test_flags_that_are_not_implemented_are_refused_by_name(tmp_path, capsys):
    hugging_face_clip.export(noisy(CONFIG), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["layer_norm_eps"] = 1e-6
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["import", "hf-clip", str(tmp_path), str(tmp_path / "out")]) == 2
    assert "layer_norm_eps = '1e-06', of which only 1e-05 is implemented" in capsys.readouterr().err
    model = {"embed_dim": 8, "vision_cfg": {"timm_model_name": "x"}, "text_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model}))
    assert main(["import", "open-clip", str(tmp_path), str(tmp_path / "out")]) == 2
    assert "timm_model_name = 'x' is not known here" in capsys.readouterr().err


PIECES = ["a", "b", "a</w>", "b</w>", "ab</w>", "<|startoftext|>", "<|endoftext|>"]


def write_vocabulary(folder, first: int, pieces=PIECES):
    """Write Hugging Face's two files, with ids from ``first`` on."""
    folder.mkdir(exist_ok=True)
    (folder / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    (folder / "vocab.json").write_text(json.dumps({piece: first + number for number, piece in enumerate(pieces)}))
    return folder / "vocab.json"


def test_the_text_tokenizer_is_copied_with_an_imported_clip(tmp_path, capsys):
    """It is found next to Hugging Face's weights, and given with --vocabulary for OpenAI's; both are hashed."""
    hugging_face_clip.export(noisy(dataclasses.replace(CONFIG, end_of_text=FirstEnd(19))), tmp_path / "hf")
    write_vocabulary(tmp_path / "hf", 13)
    assert main(["import", "hf-clip", str(tmp_path / "hf"), str(tmp_path / "a")]) == 0
    openai_file(tmp_path / "clip.safetensors", CONFIG)
    named = write_vocabulary(tmp_path / "named", 13)
    openai = ["import", "openai-clip", str(tmp_path / "clip.safetensors")]
    assert main([*openai, str(tmp_path / "b"), "--vocabulary", str(named)]) == 0
    assert "no text tokenizer" not in capsys.readouterr().out
    for folder, pad in (("a", 19), ("b", 0)):
        text = load_text(tmp_path / folder, CONFIG.text_length)
        assert text.encode_batch(["AB b", ""]).tolist() == [[18, 17, 16, 19, pad, pad], [18, 19, *[pad] * 4]]
        hashed = {
            one["name"]: one["sha256"] for one in json.loads((tmp_path / folder / "source.json").read_text())["files"]
        }
        for name in ("vocab.json", "merges.txt"):
            assert hashed[name] == hashlib.sha256((tmp_path / folder / name).read_bytes()).hexdigest()
    assert (
        load_text(tmp_path / "a", 6).encode("&amp;").tolist() != load_text(tmp_path / "b", 6).encode("&amp;").tolist()
    )
    assert main([*openai, str(tmp_path / "c")]) == 0
    assert "import with --vocabulary FILE" in capsys.readouterr().out
    with pytest.raises(UserError, match="import it again with --vocabulary FILE"):
        load_text(tmp_path / "c", 6)


def test_what_came_with_a_clip_is_exported_with_it(tmp_path, capsys):
    """The export is imported again with the same text tokenizer, preprocessing and licence."""
    config = dataclasses.replace(CONFIG, end_of_text=FirstEnd(19), pixel_mean=(0.5, 0.25, 0.5), pixel_std=(1.0,) * 3)
    hugging_face_clip.export(noisy(config), tmp_path / "hf")
    write_vocabulary(tmp_path / "hf", 13)
    (tmp_path / "hf" / "README.md").write_text("---\ntags: [a]\nlicense: cc-by-nc-4.0\n---\n# A model\n")
    assert main(["import", "hf-clip", str(tmp_path / "hf"), str(tmp_path / "a")]) == 0
    assert main(["export", "hf-clip", str(tmp_path / "a"), str(tmp_path / "out")]) == 0
    assert f"out: with README.md, merges.txt, vocab.json of {tmp_path / 'a'}" in capsys.readouterr().out
    for name in ("vocab.json", "merges.txt", "preprocessor_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "hf" / name).read_bytes()
    assert main(["import", "hf-clip", str(tmp_path / "out"), str(tmp_path / "b")]) == 0
    assert "licence: cc-by-nc-4.0" in capsys.readouterr().out
    assert read_model_file(tmp_path / "b").model == read_model_file(tmp_path / "a").model
    assert (tmp_path / "b" / "text.gin").read_bytes() == (tmp_path / "a" / "text.gin").read_bytes()


def test_an_unknown_licence_is_not_exported_as_one(tmp_path):
    hugging_face_clip.export(noisy(CONFIG), tmp_path / "hf")
    assert main(["import", "hf-clip", str(tmp_path / "hf"), str(tmp_path / "a")]) == 0
    assert main(["export", "hf-clip", str(tmp_path / "a"), str(tmp_path / "out")]) == 0
    assert not (tmp_path / "out" / "README.md").exists()


def test_cleaning_of_captions_is_exported_with_dalle_mini(tmp_path):
    dalle_mini.export(DalleBart(BART, rngs=nnx.Rngs(0)), tmp_path)
    exporter = find_exporter("dalle-mini")
    for cleaning in ("dalle_mini", "none"):
        text = ReadText(BartBpe(cleaning=cleaning), {"vocab.json": b"{}", "merges.txt": b"m"})
        assert exporter.write_companions(tmp_path, "MIT", text) == ["README.md", "merges.txt", "vocab.json"]
        flags = read_json(tmp_path / "config.json")
        assert dalle_mini.vocabulary_for(flags) == text.vocabulary and "d_model" in flags
        assert (tmp_path / "merges.txt").read_bytes() == b"m"


def test_a_text_tokenizer_in_one_file_is_copied_as_two_files(tmp_path):
    hugging_face_clip.export(noisy(dataclasses.replace(CONFIG, end_of_text=FirstEnd(19))), tmp_path / "hf")
    ids = {piece: 13 + number for number, piece in enumerate(PIECES)}
    one = write_tokenizer_json(tmp_path / "hf", ids, "#version: 0.2\na b</w>\n", PIECES[-1])
    assert main(["import", "hf-clip", str(tmp_path / "hf"), str(tmp_path / "a")]) == 0
    assert load_text(tmp_path / "a", 6).encode("AB b").tolist() == [18, 17, 16, 19, 19, 19]
    read = {file["name"]: file["sha256"] for file in json.loads((tmp_path / "a" / "source.json").read_text())["files"]}
    assert read["tokenizer.json"] == hashlib.sha256(one.read_bytes()).hexdigest() and "merges.txt" not in read


def test_a_vocabulary_that_does_not_fit_the_model_is_refused(tmp_path, capsys):
    openai_file(tmp_path / "clip.safetensors", CONFIG)
    openai = ["import", "openai-clip", str(tmp_path / "clip.safetensors"), str(tmp_path / "out"), "--vocabulary"]
    for file, says in (
        (write_vocabulary(tmp_path / "large", 14), "expected at most 20 ids, as many as the model has, got 21"),
        (
            write_vocabulary(tmp_path / "turned", 0, [*PIECES[:5], *PIECES[:4:-1]]),
            "got one that encodes the empty text as [6, 5, 0] ..., which the model does not read as empty",
        ),
        (write_vocabulary(tmp_path / "endless", 0, PIECES[:6]), "expected CLIP's <|endoftext|> among its pieces"),
        (tmp_path / "nowhere.gz", "nowhere.gz"),
        (tmp_path / "nowhere.json", "found no vocab.json"),
    ):
        assert main([*openai, str(file)]) == 2
        said = capsys.readouterr().err
        assert says in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()
    write_vocabulary(tmp_path, 14)  # a wrong one next to the weights does not prevent the import
    assert main(openai[:-1]) == 0
    assert "is left out" in (said := capsys.readouterr().out) and "expected at most 20 ids" in said
    assert not (tmp_path / "out" / "vocab.json").exists()


def test_errors_for_wrong_kinds_sources_and_targets_are_one_line(tmp_path, capsys):
    openai_file(tmp_path / "clip.safetensors", CONFIG)
    source, out = str(tmp_path / "clip.safetensors"), str(tmp_path / "out")
    for arguments, words in (
        (["import", "openai-clop", source, out], "openai-clip"),
        (["import", "openai-clip", source + "x", out], "got a path that does not exist"),
        (["import", "hf-clip", str(tmp_path), out], "config.json"),
        (["export", "hf", out, out], "hf-clip"),
    ):
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1
    assert main(["import", "openai-clip", source, out]) == 0
    assert main(["import", "openai-clip", source, out]) == 2
    assert "without checkpoints" in capsys.readouterr().err
