"""Round trips through every format, with strides, offsets, shared storages and bfloat16."""

import io
import json

import ml_dtypes
import msgpack
import numpy as np
import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.pretrained.files.read_weights import read_tensors, source_files
from dalle_jax.pretrained.files.safetensors_files import write_safetensors
from tests.pretrained.weight_files import Raw, encoded, flax_array, flax_map, named, tensor, torch_old, torch_zip

NUMBERS = np.arange(24, dtype=np.float32)


def test_a_torch_zip_becomes_views_with_strides_and_offsets(tmp_path):
    root = {
        "whole": tensor("0", "float32", 24, (4, 6), (6, 1)),
        "turned": tensor("0", "float32", 24, (6, 4), (1, 6)),
        "part": tensor("0", "float32", 24, (2, 3), (6, 1), offset=7),
        "number": tensor("0", "float32", 24, (), (), offset=5),
        "none": tensor("0", "float32", 24, (0, 3), (3, 1)),
        "half": tensor("1", "float16", 2, (2,), (1,)),
        "brain": tensor("2", "bfloat16", 2, (2,), (1,)),
        "epoch": 3,
    }
    half, brain = np.array([1.5, -2], np.float16), np.array([0.5, 3], ml_dtypes.bfloat16)
    path = torch_zip(tmp_path / "a.pt", root, {"0": NUMBERS.tobytes(), "1": half.tobytes(), "2": brain.tobytes()})
    tensors = read_tensors(path)
    grid = NUMBERS.reshape(4, 6)
    np.testing.assert_array_equal(tensors["whole"], grid)
    np.testing.assert_array_equal(tensors["turned"], grid.T)
    np.testing.assert_array_equal(tensors["part"], grid[1:3, 1:4])
    assert float(tensors["number"]) == 5 and tensors["none"].shape == (0, 3)
    np.testing.assert_array_equal(tensors["half"], half)
    np.testing.assert_array_equal(tensors["brain"], brain)
    assert tensors.stored["brain"].dtype == ml_dtypes.bfloat16
    assert tensors.scalars == {"epoch": 3}
    assert not tensors["whole"].flags.writeable and not tensors["whole"].flags.owndata


def test_torchs_legacy_format_is_read_with_strides_and_dtypes(tmp_path):
    root = {
        "a": tensor("70", "float32", 24, (6, 4), (1, 6), old=True),
        "b": tensor("9", "int64", 2, (2,), (1,), old=True),
    }
    integers = np.array([7, -1], np.int64)
    tensors = read_tensors(torch_old(tmp_path / "a.pt", root, {"9": integers, "70": NUMBERS}))
    np.testing.assert_array_equal(tensors["a"], NUMBERS.reshape(4, 6).T)
    np.testing.assert_array_equal(tensors["b"], integers)


def test_torchscript_and_pickled_networks_have_the_names_of_their_state_dicts(tmp_path):
    one = encoded(tensor("0", "float32", 24, (24,), (1,)))
    plain = named("__torch__.___torch_mangle_7", "Holder") + b")\x81}(" + encoded("bias") + one
    plain += encoded("heads") + encoded(3) + b"ub"
    network = named("dall_e.encoder", "Encoder") + b")\x81}(" + encoded("_parameters")
    network += encoded(Raw("collections", "OrderedDict")) + encoded("w") + one + b"s"
    network += encoded("_modules") + b"}(" + encoded("script") + plain + b"u" + encoded("n_hid") + encoded(8) + b"ub"
    path = torch_zip(tmp_path / "a.pkl", None, {"0": NUMBERS.tobytes()}, body=b"\x80\x02" + network + b".")
    tensors = read_tensors(path)
    assert set(tensors) == {"w", "script.bias"}
    assert tensors.scalars == {"script.heads": 3, "n_hid": 8}
    np.testing.assert_array_equal(tensors["script.bias"], NUMBERS)


def test_safetensors_are_read_back_directly_and_through_an_index(tmp_path):
    wanted = {
        "a": NUMBERS.reshape(2, 3, 4),
        "b": np.array([1, 2], ml_dtypes.bfloat16),
        "c": np.array(7, np.int64),
        "d": np.array([True, False]),
    }
    write_safetensors(tmp_path / "one.safetensors", wanted, {"format": "pt"})
    tensors = read_tensors(tmp_path / "one.safetensors")
    assert list(tensors) == list(wanted) and tensors.scalars == {"format": "pt"}
    for name, array in wanted.items():
        np.testing.assert_array_equal(tensors[name], array)
        assert tensors[name].dtype == array.dtype
    write_safetensors(tmp_path / "two.safetensors", {"e": NUMBERS}, {})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "e": "two.safetensors"}}))
    np.testing.assert_array_equal(read_tensors(index)["e"], NUMBERS)
    assert [path.name for path in source_files(index)] == [index.name, "one.safetensors", "two.safetensors"]


def test_flax_files_are_read_with_whole_and_chunked_arrays(tmp_path):
    brain = np.array([[1, 2]], ml_dtypes.bfloat16)
    shape = msgpack.packb({"0": 4, "1": 6})
    chunks = flax_map({"0": flax_array(NUMBERS[:10]), "1": flax_array(NUMBERS[10:])})
    chunked = flax_map({"__msgpack_chunked_array__": msgpack.packb(True), "shape": shape, "chunks": chunks})
    inner = flax_map({"kernel": flax_array(brain), "step": msgpack.packb(5), "long": chunked})
    path = tmp_path / "flax_model.msgpack"
    path.write_bytes(flax_map({"model": inner, "scale": flax_array(np.array(2.5, np.float32))}))
    tensors = read_tensors(path)
    np.testing.assert_array_equal(tensors["model/kernel"], brain)
    np.testing.assert_array_equal(tensors["model/long"], NUMBERS.reshape(4, 6))
    assert float(tensors["scale"]) == 2.5 and tensors.scalars == {"model/step": 5}


def test_files_that_flax_writes_are_read(tmp_path):
    from flax import serialization

    path = tmp_path / "a.msgpack"
    path.write_bytes(serialization.msgpack_serialize({"a": {"b": NUMBERS.reshape(4, 6)}}))
    np.testing.assert_array_equal(read_tensors(path)["a/b"], NUMBERS.reshape(4, 6))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_files_are_read_compressed_or_not(tmp_path, save):
    save(tmp_path / "a.npz", a=NUMBERS.reshape(4, 6), b=np.asfortranarray(NUMBERS.reshape(4, 6)), c=np.array(3))
    tensors = read_tensors(tmp_path / "a.npz")
    np.testing.assert_array_equal(tensors["a"], NUMBERS.reshape(4, 6))
    np.testing.assert_array_equal(tensors["b"], NUMBERS.reshape(4, 6))
    assert int(tensors["c"]) == 3


def test_npz_files_with_python_objects_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.array([print], dtype=object))
    with pytest.raises(UserError, match=r"a\.npz: expected numbers in 'a\.npy', got another .* the dtype '\|O'"):
        read_tensors(tmp_path / "a.npz")
    stream = io.BytesIO()
    np.save(stream, NUMBERS)
    (tmp_path / "b.npz").write_bytes(stream.getvalue())
    with pytest.raises(UserError, match="begins with"):
        read_tensors(tmp_path / "b.npz")
