"""DALL·E mini's own transformer beside its import and export, run live in an environment of its own.

DALLE_JAX_REFERENCE_FLAX names its Python, which needs dalle-mini 0.1.5 (--no-deps), jax 0.4.30, flax 0.8.5,
transformers 4.40.2, numpy below 2, scipy below 1.13 and einops.
"""

import json

import numpy as np
import pytest
from flax import nnx

from dalle_jax.__main__ import main
from dalle_jax.models.dalle_bart import DalleBart, DalleBartConfig, text_mask
from dalle_jax.pipelines.load.models import load_generator
from dalle_jax.pretrained.files.read_weights import read_tensors
from dalle_jax.pretrained.publishers import dalle_mini
from dalle_jax.pretrained.publishers.dalle_mini import export
from tests.parity.fixtures import assert_close, imported, run
from tests.pretrained.publishers.test_image_tokenizer_files import noisy
from tests.reference.live import FLAX, by_reference
from tests.text.byte_vocabularies import VOCABULARY, write_bart

pytestmark = pytest.mark.reference
SIZES = {
    "as mini, one layer to write": {
        **{"d_model": 64, "encoder_layers": 3, "encoder_attention_heads": 4, "encoder_ffn_dim": 100},
        **{"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 70, "encoder_vocab_size": 90},
        **{"max_text_length": 10, "image_length": 25, "image_vocab_size": 60, "decoder_start_token_id": 60},
    },
    "as mega, rows beyond the codes": {
        **{"d_model": 48, "encoder_layers": 1, "encoder_attention_heads": 3, "encoder_ffn_dim": 64},
        **{"decoder_layers": 3, "decoder_attention_heads": 6, "decoder_ffn_dim": 90, "encoder_vocab_size": 70},
        **{"max_text_length": 7, "image_length": 9, "image_vocab_size": 16415, "decoder_start_token_id": 16415},
    },
}


def by_flax(*arguments):
    return by_reference("dalle_mini_by_flax.py", *arguments, variable=FLAX)


def same(model, wanted):
    """``wanted``: captions and codes that were given, the codes after the start, and what came out."""
    codes = np.concatenate([wanted["codes"][:, 1:], np.zeros_like(wanted["codes"][:, :1])], axis=1)
    tolerance = 2e-5 * max(1.0, *(np.abs(wanted[name]).max() for name in ("encoded", "logits")))
    encoded = run(lambda model, text: model.encoder(text, text_mask(text, model.config.pad_id)), model, wanted["text"])
    seen = wanted["text"] != model.config.pad_id  # of what a pad becomes nothing is ever read
    assert_close(encoded[seen], wanted["encoded"][seen], tolerance)
    logits = run(lambda model, text, codes: model(text, codes).image, model, wanted["text"], codes)
    assert_close(logits, wanted["logits"][..., : logits.shape[-1]], tolerance)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_a_new_dalle_mini_goes_in_and_out_and_gives_the_same_in_both_programs(tmp_path, sizes):
    flags = sizes | {"use_scan": True, "gradient_checkpointing": False, "dropout": 0.0, "normalize_text": True}
    (tmp_path / "sizes.json").write_text(json.dumps(flags))
    wanted = by_flax("new", tmp_path / "sizes.json", tmp_path, tmp_path / "out.npz")
    model = imported("dalle-mini", tmp_path)
    assert model.config.start_code == sizes["decoder_start_token_id"]
    same(model, wanted)
    export(model, tmp_path / "ours")
    before, after = (read_tensors(place / "flax_model.msgpack") for place in (tmp_path, tmp_path / "ours"))
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    again = by_flax("load", tmp_path / "ours", tmp_path / "out.npz", tmp_path / "again.npz")
    for name, value in wanted.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)


def test_every_flag_that_their_config_takes_or_writes_is_known_here(tmp_path):
    found = by_flax("flags", tmp_path / "out.npz")
    constructor, written = (json.loads(str(found[name])) for name in ("constructor", "written"))
    known = {*dalle_mini.REQUIRED, *dalle_mini.SIZES, *dalle_mini.OTHER}
    assert len(constructor) > 35 and constructor.keys() <= known and written.keys() <= known
    defaults = constructor | {"use_scan": True}  # None there, which stands for True
    read = dalle_mini.config_from_json(defaults, "config.json")
    assert (read.width, read.codebook_size, read.start_code) == (1024, 16384, 16384)


def asked(folder, config):
    """Two captions, the second short, and codes for a network of ours."""
    random = np.random.default_rng(0)
    text = random.integers(config.pad_id + 1, config.text_vocab, (2, config.text_length)).astype(np.int32)
    text[1, 3:] = config.pad_id
    codes = random.integers(0, config.codebook_size, (2, config.grid[0] * config.grid[1])).astype(np.int32)
    codes[:, 0] = config.start_code
    np.savez(folder / "in.npz", text=text, codes=codes)
    return folder / "in.npz"


def test_an_exported_new_network_gives_the_same_in_dalle_mini(tmp_path):
    config = DalleBartConfig(
        text_vocab=40, text_length=6, codebook_size=20, grid=(4, 4), width=32, encoder_layers=2, encoder_heads=2,
        encoder_hidden=50, decoder_layers=2, decoder_heads=4, decoder_hidden=40, scan=True, pad_id=1,
        empty_caption=(0, 2), extra_codes=3, start_code=22,
    )  # fmt: skip
    model = noisy(DalleBart(config, rngs=nnx.Rngs(0)))
    export(model, tmp_path / "out")
    same(model, by_flax("load", tmp_path / "out", asked(tmp_path, config), tmp_path / "out.npz"))


def test_a_transformer_that_was_trained_here_is_exported_and_dalle_mini_gives_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_bart(tmp_path)
    settings = ["trainer.evaluate_every=None", "trainer.images_every=None"]
    words = [word for one in settings for word in ("--set", one)]
    assert main(["train", "smoke/tokenizer.gin", "--out", "runs/smoke/tokenizer", *words]) == 0
    layout = ["scan=True", "pad_id=1", "extra_codes=1", "start_code=32", "empty_caption=(0, 2)"]
    layout.append(f"text_vocab={len(VOCABULARY)}")
    captions = ["file='vocab.json'", "vocabulary=@BartBpe", "vocabulary.lower=True"]
    settings = [f"task.model.{one}" for one in layout] + [f"task.captions.{one}" for one in captions]
    words += [word for one in settings for word in ("--set", one)]
    assert main(["train", "smoke/dalle_bart.gin", "--out", "run", *words]) == 0
    assert main(["export", "dalle-mini", "run", "out"]) == 0
    model = load_generator(tmp_path / "run")
    rows = asked(tmp_path, model.config)
    same(model, by_flax("load", tmp_path / "out", rows, tmp_path / "out.npz"))
