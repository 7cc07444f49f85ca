"""Small files that expand into huge, slow or deep objects: each is refused at once, in little memory."""

import json
import os
import pickle
import re
import resource
import struct
import time
import zipfile

import numpy as np
import pytest

from dalle_jax import untrusted
from dalle_jax.config.errors import UserError
from dalle_jax.pretrained.files.read_weights import read_tensors
from dalle_jax.pretrained.files.tensors import StoredTensor, Tensors, short_repr
from dalle_jax.pretrained.mapping import IDENTITY, mismatches, rule, stacked
from dalle_jax.pretrained.publisher import count_layers, find_kind
from tests.pretrained.files.test_hostile_files import GOOD, HALF, NUMBERS, hostile, refusal
from tests.pretrained.weight_files import (
    Reference,
    encoded,
    flax_array,
    flax_map,
    named,
    npz,
    pickled,
    safetensors,
    tensor,
    torch_old,
    torch_zip,
)

SECONDS, BYTES = 30, 200 << 20


@pytest.fixture(autouse=True)
def bounded_time_and_memory():
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < BYTES
    assert time.monotonic() - started < SECONDS


def doubled(times: int) -> bytes:
    """Pickle tuples that each hold the previous one twice: a few bytes here, 2^times steps to print or to hash."""
    body = b")q\x000"
    for number in range(times):
        body += b"h%ch%c\x86q%c0" % (number, number, number + 1)
    return body + b"h%c" % times


HUGE = pickle.dumps(10**5000, protocol=2)[2:-1]  # more digits than Python prints


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"}" + doubled(60) + b"K\x01s.", "without any"),
        (b"}(" + doubled(60) + b"K\x01u.", "without any"),
        (b"\x8f(" + doubled(60) + b"\x90.", "without any"),
        (named("collections", "OrderedDict") + b"](" + doubled(60) + b"K\x01\x86e\x85R.", "without any"),
        (named("builtins", "set") + b"](" + doubled(60) + b"e\x85R.", "without any"),
        (b"(" + doubled(60) + b"Nd.", "without any"),
        (doubled(60) + b"Q.", "a persistent id"),
        (b"(" + encoded("storage") + doubled(60) + encoded("0") + encoded("cpu") + HUGE + b"tQ.", "a storage of kind"),
        (b"(" + encoded("storage") + named("torch", "FloatStorage") + doubled(60) + b"K\x01K\x01tQ.", "names"),
        (doubled(60) + encoded("x") + b"\x93.", "the name"),
        (encoded("x") + doubled(60) + b"\x93.", "the name"),
        (doubled(70) + b".", "deep"),
        (b")" + b"\x85" * 5000 + b".", "deep"),
        (b"]" * 2 + b"a" * 1 + b"." + b"]" * 100, "tensors"),
        (b"}" + HUGE + b"K\x01s.", "too long"),
    ],
    ids=range(15),
)
def test_objects_that_explode_when_hashed_or_printed_are_refused(tmp_path, body, says):
    assert re.search(says, hostile(tmp_path, b"\x80\x02" + body))


@pytest.mark.parametrize("place", ["offset", "shape", "strides", "size"])
@pytest.mark.parametrize(
    "bomb", [HUGE, doubled(60), b")" + b"\x85" * 5000, b"}", b"N", encoded("6"), b"G" + b"\x7f" * 8]
)
def test_sizes_that_are_bombs_or_not_numbers_are_refused(tmp_path, place, bomb):
    parts = {"offset": b"K\x00", "shape": b"K\x04K\x06\x86", "strides": b"K\x06K\x01\x86", "size": b"K\x18"}
    parts[place] = bomb if place in ("offset", "size") else bomb + b"K\x01\x86"
    kind_of = named("torch", "FloatStorage")
    storage = b"(" + encoded("storage") + kind_of + encoded("0") + encoded("cpu") + parts["size"] + b"tQ"
    body = named("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + parts["offset"] + parts["shape"]
    body = b"}" + encoded("a") + body + parts["strides"] + b"\x89}tRs."
    refusal(torch_zip(tmp_path / "a.pt", None, {"0": NUMBERS.tobytes()}, body=b"\x80\x02" + body))


@pytest.mark.parametrize(
    "one",
    [5, "0", None, b"x", ("storage",), ("storage", 1, 2, 3, 4), ("module", "x"), [], {"storage": 1}]
    + [("storage", ("GLOBAL", "torch", "Size"), "0", "cpu", 24), ("storage",) * 7]
    + [("storage", ("GLOBAL", "torch", "FloatStorage"), "0", "cpu", size) for size in (True, -1, 2**70, "24", None)]
    + [("storage", ("GLOBAL", "torch", "FloatStorage"), key, "cpu", 24) for key in (0, None, ("0",), "../0", ".")],
    ids=repr,
)
def test_wrong_persistent_ids_are_refused_in_both_torch_formats(tmp_path, one):
    root = {"a": Reference(one)}
    refusal(torch_zip(tmp_path / "a.pt", root, {"0": NUMBERS.tobytes()}))
    refusal(torch_old(tmp_path / "b.pt", root, {"0": NUMBERS}))


def test_pickles_of_too_many_steps_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(untrusted, "MAX_STEPS", 3000)
    assert "steps" in hostile(tmp_path, b"\x80\x02" + b"]" * 4000 + b".")
    many = b"}q\x00(" + b"".join(b"M" + struct.pack("<H", i) + b"N" for i in range(900)) + b"u"
    copies = (named("collections", "OrderedDict") + b"h\x00\x85R") * 4  # each copies the 900 items
    assert "steps" in hostile(tmp_path, b"\x80\x02" + many + copies + b".")
    inert = named("dall_e.a", "B") + b")\x81" + many + b"b" + b"h\x00b" * 4
    assert "steps" in hostile(tmp_path, b"\x80\x02" + inert + b".")


def test_nested_names_that_add_up_to_too_long_ones_are_refused(tmp_path):
    inside = {str(number): tensor("0", "float32", 24, (4, 6), (6, 1)) for number in range(50)}
    root = {"x" * 200_000: inside}
    assert "too long" in refusal(torch_zip(tmp_path / "a.pt", root, {"0": NUMBERS.tobytes()}))
    path = tmp_path / "a.msgpack"
    parts = flax_map({str(number): flax_array(NUMBERS) for number in range(15)})
    path.write_bytes(b"\x81\xda" + struct.pack(">H", 60_000) + b"x" * 60_000 + parts)
    assert "a name of 60000 characters" in refusal(path)


def test_msgpack_files_of_too_many_values_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(untrusted, "MAX_STEPS", 1000)
    path = tmp_path / "a.msgpack"
    path.write_bytes(b"\x81\xa1a\xdd" + struct.pack(">I", 2000) + b"\x90" * 2000)
    assert "more than 1000 steps" in refusal(path)
    array = b"\x93\x90\xa7float32\xc4\x04" + bytes(4)
    content = b"\xdf" + struct.pack(">I", 300)
    content += b"".join(b"\xa4%04d\xc7%c\x01" % (i, len(array)) + array for i in range(300))
    path.write_bytes(content)  # 300 arrays of 8 values each
    assert "more than 1000 steps" in refusal(path)


@pytest.mark.parametrize(
    "header",
    [
        '{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 48]}}',
        '{"a": {"dtype": "F32", "shape": [12], "data_offsets": [0, Infinity]}}',
        '{"a": {"dtype": "F32", "shape": [1e1], "data_offsets": [0, 48]}}',
        '{"a": {"dtype": "F32", "shape": [12], "data_offsets": [0, 48, 96]}}',
        '{"a": {"dtype": "F32", "shape": [12], "data_offsets": [0, 48], "x": 1}}',
        '{"a": {"dtype": "F32", "shape": [' + "9" * 4000 + '], "data_offsets": [0, 48]}}',
        '{"a": {"dtype": "F32", "shape": [' + "9" * 9000 + '], "data_offsets": [0, 48]}}',
        '{"a": {"dtype": "F32", "shape": [0, 18446744073709551616], "data_offsets": [0, 0]}}',
        '{"a": {"dtype": "F32", "shape": ' + "[" * 500 + "]" * 500 + ', "data_offsets": [0, 48]}}',
        '{"a": {"dtype": "F64", "shape": [12], "data_offsets": [0, 48]}}',
        '{"a": ' + json.dumps(HALF) + ', "a": ' + json.dumps(HALF) + "}",
        "[" * 100_000,
    ],
    ids=range(12),
)  # fmt: skip
def test_safetensors_headers_with_wrong_numbers_are_refused(tmp_path, header):
    head = header.encode()
    path = safetensors(tmp_path / "a.safetensors", head, NUMBERS[:12].tobytes())
    refusal(path)


def test_npz_headers_without_a_plain_tuple_are_refused(tmp_path):
    good = npz(a=NUMBERS)
    for shape in (b"(-24,)", b"(2**4,)", b"(1e1,) ", b"[24]  ", b"(99,)99", b"(True,)", b"((((24"):
        wrong = good.replace(b"(24,), ", shape.ljust(7))
        assert wrong != good
        path = tmp_path / "a.npz"
        path.write_bytes(_without_checksums(wrong))
        assert "a.npy" in refusal(path)


def _without_checksums(archive: bytes) -> bytes:
    at = archive.index(b"PK\x01\x02")
    return archive[: at + 16] + bytes(4) + archive[at + 20 :]


def test_configs_that_need_more_than_any_memory_are_refused(tmp_path):
    target = {"w": StoredTensor((1 << 24, 1 << 24), np.dtype(np.float32), lambda: NUMBERS)}
    have = {f"x{i}": StoredTensor((4, 6), NUMBERS.dtype, lambda: NUMBERS) for i in range(2)}
    rules = [rule("w", "x0", "x1", transform=stacked(IDENTITY, 2, axis=0))]
    (line,) = mismatches(target, Tensors("file", have), rules, {})
    assert f"w (expected {1 << 48} numbers, got 48 in x0, x1)" in line
    config = {"ch": 8, "num_res_blocks": 10**7, "resolution": 8, "z_channels": 8, "embed_dim": 8, "n_embed": 8}
    written = config | {"in_channels": 3, "out_ch": 3, "ch_mult": [1] * 1000, "attn_resolutions": []}
    (tmp_path / "config.json").write_text(json.dumps(written))
    with pytest.raises(UserError, match="num_res_blocks = 10000000; ch_mult"):
        find_kind("dalle-mini-vqgan").read(tmp_path)


def test_huge_layer_numbers_are_refused_without_listing_all_layers():
    far = Tensors("file", {f"layers.{10**18}.w": StoredTensor((1,), NUMBERS.dtype, lambda: NUMBERS)})
    with pytest.raises(UserError, match="none of number 0"):
        count_layers(far, r"layers\.(\d+)\.w")


def test_values_are_quoted_briefly_in_messages():
    loop: list = []
    loop += [loop, loop]
    for value in (10**5000, "x" * 10**6, b"x" * 10**6, loop, [loop] * 16, {"a": loop}, None, 1.5, (1, "b")):
        assert len(short_repr(value)) <= 90
    assert short_repr((1, "b")) == "[1, 'b']" and short_repr({}) == "a dict"


def test_the_valid_versions_of_these_files_are_read(tmp_path):
    body = b"}" + encoded("a") + encoded(GOOD["a"]) + b"s."
    tensors = read_tensors(torch_zip(tmp_path / "a.pt", None, {"0": NUMBERS.tobytes()}, body=b"\x80\x02" + body))
    np.testing.assert_array_equal(tensors["a"], NUMBERS.reshape(4, 6))
    path = safetensors(tmp_path / "a.safetensors", {"a": HALF}, NUMBERS[:12].tobytes())
    np.testing.assert_array_equal(read_tensors(path)["a"], NUMBERS[:12])
    (tmp_path / "a.npz").write_bytes(_without_checksums(npz(a=NUMBERS)))
    np.testing.assert_array_equal(read_tensors(tmp_path / "a.npz")["a"], NUMBERS)
    assert pickled({}) == b"\x80\x02}(u."


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ((b"}" + encoded("k" * 1000)) * 60 + b"](" + b"N" * 900 + b"e" + b"s" * 60, "names that are too long"),
        (b"(" + b"N" * 900 + b"tr\1\0\0\0" + b"0}" + b"j\1\0\0\0Ns" * 300, "without any"),
        (b"\x8b" + struct.pack("<i", 400_000) + b"\x7f" * 400_000 + b"}h\x000", "pickle"),
        (named("builtins", "set") + b"q\x00" + encoded("ab" * 200_000) + b"\x85q\x0100" + b"h\x00h\x01R0" * 9, "a str"),
        (b"(" + b"N" * 900 + b"tq\x010" + named("argparse", "Namespace") + b")R" + b"h\x01b" * 300, "a tuple"),
        (b"](" + b"\x8f" * 3000 + b"e", "bytes of memory"),
        (b"](" + b"}" * 18_000 + b"e", "bytes of memory"),
    ],
    ids=["names", "tuple keys", "long number", "set of a text", "build from a tuple", "sets", "dicts"],
)
def test_pickles_that_take_long_or_much_memory_are_refused(tmp_path, monkeypatch, body, says):
    monkeypatch.setattr(untrusted, "FREE_BYTES", 1 << 20)
    assert says in hostile(tmp_path, b"\x80\x02" + body + b".")


def test_a_tuple_as_a_key_does_not_hide_the_tensors_next_to_it(tmp_path):
    body = b"}(K\x01K\x02\x86N" + encoded("a") + encoded(GOOD["a"]) + b"u."
    tensors = read_tensors(torch_zip(tmp_path / "a.pt", None, {"0": NUMBERS.tobytes()}, body=b"\x80\x02" + body))
    assert list(tensors) == ["a"]


def test_tensors_that_multiply_one_storage_are_refused(tmp_path):
    numbers = np.zeros(1 << 20, np.float32)
    whole = tensor("0", "float32", numbers.size, (numbers.size,), (1,))
    path = torch_zip(tmp_path / "a.pt", {str(i): whole for i in range(40)}, {"0": numbers.tobytes()})
    assert "tensors that share few numbers" in refusal(path)


@pytest.mark.parametrize(
    "kind", ["'m8[Y/0]'", "'M8[s]'", "'|O'", "'<f16'", "()", "[('a', '<f4')]", "'V8'", "5", "'<f4' * 9"]
)
def test_npz_dtypes_that_are_not_plain_numbers_are_refused(tmp_path, kind):
    path = tmp_path / "a.npz"
    header = f"{{'descr': {kind}, 'fortran_order': False, 'shape': (2,), }}\n".encode()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(8))
    assert "expected numbers in 'a.npy'" in refusal(path)


def test_zips_with_a_huge_directory_are_refused(tmp_path):
    entry = b"PK\x01\x02" + bytes(24) + struct.pack("<H", 1) + bytes(16) + b"a"
    directory = entry * 120_000
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 65_535, 65_535, len(directory), 0, 0)
    path = tmp_path / "a.pt"
    path.write_bytes(b"PK\x03\x04" + directory + end)
    assert "bytes of memory" in refusal(path)


def test_safetensors_headers_of_many_small_objects_are_refused(tmp_path):
    header = b'{"a":[' + b"[]," * 2_000_000 + b"1]}"
    assert "bytes of memory" in refusal(safetensors(tmp_path / "a.safetensors", header, b""))


def test_pipes_and_devices_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "a.pt")
    with pytest.raises(UserError, match="expected a file, got a pipe"):
        read_tensors(tmp_path / "a.pt")
    (tmp_path / "a.safetensors").symlink_to("/dev/zero")
    with pytest.raises(UserError, match="expected a file, got a device"):
        read_tensors(tmp_path / "a.safetensors")
