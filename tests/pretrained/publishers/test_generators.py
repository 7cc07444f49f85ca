"""DALL·E mini's, min-dalle's and LlamaGen's layouts: refused flags, inferred sizes, round trips."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx
from flax.serialization import msgpack_restore

from dalle_jax.__main__ import main
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.models.dalle_bart import DalleBart, DalleBartConfig
from dalle_jax.models.llamagen import LlamaGen, LlamaGenConfig
from dalle_jax.models.prompt_kinds import ByCaption, ByClass
from dalle_jax.pipelines.load.models import ModelFile, load_generator
from dalle_jax.pipelines.load.text import load_text
from dalle_jax.pretrained.files.tensors import StoredTensor, Tensors
from dalle_jax.pretrained.mapping import fill, to_published
from dalle_jax.pretrained.publishers import dalle_mini, llamagen, min_dalle
from dalle_jax.train.checkpoints.save_weights import save_weights

BART = DalleBartConfig(
    text_vocab=11, text_length=4, codebook_size=7, grid=(3, 3), width=128, encoder_layers=1, encoder_heads=2,
    encoder_hidden=10, decoder_layers=2, decoder_heads=2, decoder_hidden=14, scan=True, pad_id=1, empty_caption=(0, 2),
    extra_codes=1, start_code=7,
)  # fmt: skip
LLAMA = LlamaGenConfig(
    condition=ByClass(5), codebook_size=7, grid=(16, 16), width=16, depth=2, heads=2, multiple_of=16, scan=True
)


def numbered(network, config):
    """Build a network whose parameters are all distinct."""
    module = network(config, rngs=nnx.Rngs(0))
    graph, state = nnx.split(module)
    leaves, tree = jax.tree.flatten(state)
    starts = np.cumsum([0, *(leaf.size for leaf in leaves)])
    filled = [
        np.arange(start, start + leaf.size, dtype=np.float32).reshape(leaf.shape)
        for leaf, start in zip(leaves, starts, strict=False)
    ]
    return nnx.merge(graph, jax.tree.unflatten(tree, filled))


def in_memory(arrays) -> Tensors:
    return Tensors("here", {name: StoredTensor(x.shape, x.dtype, lambda x=x: x) for name, x in arrays.items()})


def assert_equal(ours, theirs):
    one, other = (nnx.to_flat_state(nnx.state(module)) for module in (ours, theirs))
    assert [path for path, _ in one] == [path for path, _ in other]
    for (path, a), (_, b) in zip(one, other, strict=True):
        np.testing.assert_array_equal(a[...], b[...], err_msg=str(path))


def assert_round_trip(module, rules, network, config):
    again = nnx.eval_shape(lambda: network(config, rngs=nnx.Rngs(0)))
    arrays = to_published(module, rules)
    assert fill(again, in_memory(arrays), rules, {}) == {}
    assert_equal(module, again)
    return arrays


def test_flags_that_are_not_implemented_are_refused_together():
    flags = dalle_mini.config_to_json(BART)
    assert dalle_mini.config_from_json(flags, "config.json", codebook_size=7) == BART
    wrong = flags | {"use_alibi": True, "ln_type": "rmsnorm", "use_head_scale": True, "swin_v3": 1, "image_length": 10}
    del wrong["use_glu"]
    with pytest.raises(UserError) as error:
        dalle_mini.config_from_json(wrong, "config.json")
    text = str(error.value)
    for part in (
        "use_alibi: expected False, the only one implemented, got True",
        "ln_type: expected 'layernorm', the only one implemented, got 'rmsnorm'",
        "use_head_scale: expected False",
        "use_glu: expected True, got nothing",
        "swin_v3: expected a known flag, got 1",
        "image_length: expected a square, got 10",
    ):
        assert f"config.json: {part}" in text
    with pytest.raises(UserError, match="decoder_ffn_dim: expected a whole number from 1 to 16777216, got None"):
        dalle_mini.config_from_json({k: v for k, v in flags.items() if k != "decoder_ffn_dim"}, "config.json")
    with pytest.raises(UserError, match="encoder_layers: expected a whole number from 1 to 1000, got 1000000000"):
        dalle_mini.config_from_json(flags | {"encoder_layers": 10**9}, "config.json")
    with pytest.raises(UserError, match="start_code: expected a row from 0 to 7, got 70"):
        dalle_mini.config_from_json(flags | {"decoder_start_token_id": 70}, "config.json")


OTHER_VALUES = {
    "activation_function": ("relu", "gelu_new", "swish", None),
    "activation_dropout": (0.1,),
    "attention_dropout": (0.1,),
    "ln_positions": ("swinv2", "cogview", "postln", "preln", "subln", "deepnet"),
    "ln_type": ("rmsnorm",),
    "model_type": ("bart",),
    "sinkhorn_iters": (2, 0),
}
"""Values of the other flags that DALL·E mini's program accepts and this package does not implement."""


@pytest.mark.parametrize("flag", dalle_mini.REQUIRED)
def test_each_flag_of_dalle_mini_is_refused_by_name_with_every_other_value(flag):
    only, flags = dalle_mini.REQUIRED[flag], dalle_mini.config_to_json(BART)
    others = (not only,) if isinstance(only, bool) else OTHER_VALUES[flag]
    for other in others:
        with pytest.raises(UserError) as error:
            dalle_mini.config_from_json(flags | {flag: other}, "config.json")
        wanted = f"config.json: {flag}: expected {only!r}, the only one implemented, got {other!r}"
        assert str(error.value).splitlines() == [wanted]


def test_mega_has_the_vqgans_codes_and_starts_from_the_last_row():
    flags = dalle_mini.config_to_json(BART) | {"image_vocab_size": 16415}
    del flags["decoder_start_token_id"]
    config = dalle_mini.config_from_json(flags, "config.json")
    assert (config.codebook_size, config.extra_codes, config.start_code) == (16384, 32, 16415)


def test_export_and_import_on_the_command_line_keep_every_parameter(tmp_path, capsys):
    module, folder = numbered(DalleBart, BART), tmp_path / "ours"
    text = render(ModelFile(model=BART))
    save_weights(folder, module, text, {"model.gin": text.encode()})
    assert main(["export", "dalle-mini", str(folder), str(tmp_path / "theirs")]) == 0
    stored = msgpack_restore((tmp_path / "theirs" / "flax_model.msgpack").read_bytes())  # as DALL·E mini reads it
    layers = stored["model"]["decoder"]["layers"]["FlaxBartDecoderLayers"]
    value = module.stack.blocks.attention.qkv.kernel[...][:, :, 2].reshape(2, 128, 128)
    np.testing.assert_array_equal(layers["FlaxBartAttention_0"]["v_proj"]["kernel"], value)
    pieces = ("<s>", "<pad>", "</s>", "<unk>", "a", "b", "ab", "c", "d", "e", "<mask>")
    (tmp_path / "theirs" / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (tmp_path / "theirs" / "merges.txt").write_text("#version: 0.2\na b\n")
    assert main(["import", "dalle-mini", str(tmp_path / "theirs"), str(tmp_path / "again")]) == 0
    assert "DalleBart" in capsys.readouterr().out
    assert_equal(load_generator(tmp_path / "again"), module)
    text = load_text(tmp_path / "again", BART.text_length)
    assert text.encode_batch(["ab", ""]).tolist() == [[0, 6, 2, 1], [*BART.empty_caption, 1, 1]]
    assert (tmp_path / "again" / "source.json").is_file()
    flags = json.loads((tmp_path / "theirs" / "config.json").read_text())
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(flags | {"use_bias": True}))
    assert main(["import", "dalle-mini", str(tmp_path / "theirs"), str(tmp_path / "never")]) == 2
    assert "use_bias: expected False" in capsys.readouterr().err
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"scan": False}, "model.scan: expected True"),
        ({"start_code": None}, "expected code_width 0, a start_code and extra_codes of 1 or more"),
        ({"pad_id": 0}, r"expected pad_id 1 and empty_caption \(0, 2\), .* got 0 and \(0, 2\)"),
        ({"empty_caption": ()}, r"expected pad_id 1 and empty_caption \(0, 2\), .* got 1 and \(\)"),
        ({"grid": (3, 4)}, r"model.grid: expected a square, as DALL·E mini has it, got \(3, 4\)"),
    ],
)
def test_configs_that_dalle_minis_layout_cannot_express_are_not_exported(tmp_path, changes, says):
    config = dataclasses.replace(BART, width=8, **changes)
    with pytest.raises(UserError, match=says):
        dalle_mini.export(nnx.eval_shape(lambda: DalleBart(config, rngs=nnx.Rngs(0))), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_min_dalles_layers_are_separate_and_transposed():
    module = numbered(DalleBart, BART)
    arrays = assert_round_trip(module, min_dalle.min_dalle_rules(BART), DalleBart, BART)
    shapes = {name: x.shape for name, x in arrays.items()}
    assert min_dalle.config_from_shapes(shapes, "here") == BART
    block = module.stack.block(1)
    np.testing.assert_array_equal(arrays["decoder/layers.1.glu.fc1.weight"], block.glu.up.kernel[...][:, 1].T)
    np.testing.assert_array_equal(
        arrays["decoder/layers.1.encoder_attn.v_proj.weight"], block.cross.kv.kernel[...][:, 1].reshape(128, 128).T
    )
    np.testing.assert_array_equal(arrays["decoder/lm_head.weight"], module.codes.head.kernel[...].T)
    with pytest.raises(UserError, match=r"here: expected min-dalle's .* got none with decoder/embed_tokens.weight"):
        min_dalle.config_from_shapes({}, "here")


@pytest.mark.parametrize("condition", [ByClass(5), ByCaption(4, 6)])
@pytest.mark.parametrize("depth", [1, 2])
def test_llamagens_tensors_survive_a_round_trip(condition, depth):
    config = dataclasses.replace(LLAMA, condition=condition, depth=depth)
    module = numbered(LlamaGen, config)
    arrays = assert_round_trip(module, llamagen.rules_for(config), LlamaGen, config)
    shapes = {name: x.shape for name, x in arrays.items()}
    assert llamagen.config_from_shapes(shapes, "here", grid=(16, 16), heads=2) == config
    last = depth - 1
    qkv = module.stack.block(last).attention.qkv.kernel[...]  # [D 3 N H]
    np.testing.assert_array_equal(arrays[f"layers.{last}.attention.wqkv.weight"][16 + 8], qkv[:, 1, 1, 0])
    gate = module.stack.block(last).mlp.up.kernel[...][:, 0]
    np.testing.assert_array_equal(arrays[f"layers.{last}.feed_forward.w1.weight"], gate.T)


def test_sizes_that_llamagens_tensors_lack_are_published_ones_or_refused(tmp_path):
    shapes = {
        "tok_embeddings.weight": (16384, 768), "cls_embedding.embedding_table.weight": (1001, 768),
        "layers.11.attention.wqkv.weight": (2304, 768), "layers.0.attention.wqkv.weight": (2304, 768),
        "layers.0.feed_forward.w1.weight": (2048, 768),
    }  # fmt: skip
    config = llamagen.config_from_shapes(shapes, "c2i_B_384.pt", grid=(24, 24))
    assert (config.heads, config.depth, config.hidden, config.condition) == (12, 12, 2048, ByClass(1000))
    with pytest.raises(UserError, match=r"expected a published depth and width .* got 13 x 768"):
        llamagen.config_from_shapes(shapes | {"layers.12.attention.wqkv.weight": (2304, 768)}, "here", grid=(24, 24))
    with pytest.raises(UserError, match="expected as many key heads as query heads, wqkv of 2304 rows, got 1536"):
        llamagen.config_from_shapes(shapes | {"layers.0.attention.wqkv.weight": (1536, 768)}, "here", grid=(24, 24))
    with pytest.raises(UserError, match=r"expected a name that ends in the image size"):
        llamagen.grid_of(tmp_path / "model.pt", None)
    assert llamagen.grid_of(tmp_path / "t2i_XL_stage2_512.pt", None) == (32, 32)
    assert llamagen.grid_of(tmp_path / "model.pt", 576) == (24, 24)
