"""min-dalle beside its import, run live in an environment of its own.

DALLE_JAX_REFERENCE names its Python, which needs torch (the CPU build), min-dalle (--no-deps), emoji, requests and
Pillow.
"""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from dalle_jax.models.dalle_bart import text_mask
from dalle_jax.models.vqgan import Vqgan, VqganConfig
from dalle_jax.pretrained.files.write_torch import write_state_dict
from dalle_jax.pretrained.mapping import to_published
from dalle_jax.pretrained.publishers.vqgan_layouts import TAMING, name_pairs, torch_rules
from dalle_jax.sampling.autoregressive import Settings, image_keys, sample
from tests.parity.fixtures import assert_close, imported, run
from tests.reference.live import by_reference

pytestmark = pytest.mark.reference
GUIDANCE = 4.0
SIZES = {
    "few codes, mini's rows": {
        "encoder": {"layer_count": 1, "text_vocab_count": 30, "text_token_count": 12, "glu_embed_count": 90},
        "decoder": {"layer_count": 2, "image_vocab_count": 40, "glu_embed_count": 90},
        "width": 128,
        "start": 40,
    },
    "mega's rows": {
        "encoder": {"layer_count": 2, "text_vocab_count": 50, "text_token_count": 9, "glu_embed_count": 200},
        "decoder": {"layer_count": 1, "image_vocab_count": 16415, "glu_embed_count": 200},
        "width": 192,
        "start": 16415,
    },
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_a_new_model_of_min_dalle_is_imported_and_gives_the_same_logits_and_greedy_codes(tmp_path, sizes):
    width = {"embed_count": sizes["width"], "attention_head_count": sizes["width"] // 64}
    given = {side: sizes[side] | width for side in ("encoder", "decoder")}
    (tmp_path / "sizes.json").write_text(json.dumps(given | {"start": sizes["start"], "guidance": GUIDANCE}))
    wanted = by_reference("min_dalle_by_torch.py", "new", tmp_path / "sizes.json", tmp_path, tmp_path / "out.npz")
    model = imported("min-dalle", tmp_path)
    assert model.config.start_code == sizes["start"]
    text, codes = wanted["text"].astype(np.int32), wanted["codes"].astype(np.int32)

    encoded = run(lambda model, text: model.encoder(text, text_mask(text, model.config.pad_id)), model, text)
    tolerance = 1e-5 * max(np.abs(wanted[name]).max() for name in ("encoded", "logits"))
    assert_close(encoded, wanted["encoded"], tolerance)
    logits = run(lambda model, text, codes: model(text, codes).image, model, text, np.repeat(codes, 2, axis=0))
    assert_close(logits, wanted["logits"][..., : logits.shape[-1]], tolerance)

    def greedy(model, text):
        settings = Settings.of(1, temperature=0.0, guidance=GUIDANCE)
        return sample(model, text[1:], image_keys(jax.numpy.zeros(1, np.uint32), 1), settings, guided=True)

    apart = np.abs(logits - wanted["logits"][..., : logits.shape[-1]]).max()
    assert wanted["gap"] > 2 * (2 * GUIDANCE - 1) * apart  # a code that rounding decides would say nothing
    np.testing.assert_array_equal(run(greedy, model, text)[0], codes)
    assert len(np.unique(codes)) > 10


def test_the_published_vqgan_decodes_as_min_dalles_detokenizer(tmp_path):
    """At the published size; its norms have another epsilon (1e-5 in place of 1e-6), which shows in small values."""
    config = VqganConfig(
        width=128, multipliers=(1, 1, 2, 2, 4), blocks=2, attention_levels=(4,), latent_width=256, code_width=256,
        codebook_size=16384, pixel_range="0..1",
    )  # fmt: skip
    vqgan = Vqgan(config, rngs=nnx.Rngs(0))
    vqgan.codebook[...] = jax.random.normal(jax.random.key(1), vqgan.codebook.shape)
    theirs = {}
    for name, value in to_published(vqgan, torch_rules(name_pairs(config, TAMING))).items():
        if not name.startswith(("encoder.", "quant_conv.")):
            theirs[name.replace("quantize.embedding", "embedding")] = value
    write_state_dict(tmp_path / "detoker.pt", theirs)
    codes = np.random.default_rng(0).integers(0, 16384, (1, 256))
    np.savez(tmp_path / "in.npz", codes=codes)
    arguments = (tmp_path / "detoker.pt", tmp_path / "in.npz", tmp_path / "out.npz")
    wanted = by_reference("min_dalle_by_torch.py", "detokenizer", *arguments)
    drawn = run(lambda model, codes: model.decode(codes), vqgan, codes.reshape(1, 16, 16).astype(np.int32))[0]
    assert drawn.std() > 0.05
    assert_close(drawn, wanted["same_epsilon"] / 255, 2e-5)
    assert_close(drawn, wanted["theirs"] / 255, 1e-3)
