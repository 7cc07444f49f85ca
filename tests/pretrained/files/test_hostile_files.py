"""Hostile and broken files: one clear error that names the file, and no code is run."""

import io
import json
import pickle
import random
import struct
import zipfile
import zlib

import numpy as np
import pytest

from dalle_jax import untrusted
from dalle_jax.config.errors import UserError
from dalle_jax.pretrained.files import pickles
from dalle_jax.pretrained.files.pickle_globals import BadPickle
from dalle_jax.pretrained.files.read_weights import read_tensors
from dalle_jax.pretrained.files.safetensors_files import write_safetensors
from dalle_jax.untrusted import Budget
from tests.pretrained.weight_files import (
    Raw,
    Reference,
    encoded,
    flax_array,
    flax_map,
    named,
    pickled,
    safetensors,
    tensor,
    torch_old,
    torch_zip,
)

NUMBERS = np.arange(24, dtype=np.float32)
HALF = {"dtype": "F32", "shape": [12], "data_offsets": [0, 48]}
GOOD = {"a": tensor("0", "float32", 24, (4, 6), (6, 1))}


def read_whole(path) -> list[np.ndarray]:
    return [array.copy() for array in read_tensors(path).values()]


def refusal(path) -> str:
    """Return the error for a file, which must be one line that names the file."""
    with pytest.raises(UserError) as caught:
        read_whole(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: expected ") and "\n" not in message and len(message) < 700
    return message


def hostile(tmp_path, body: bytes) -> str:
    """Return the error for a torch zip with this pickle, and check that the pickle created no file."""
    message = refusal(torch_zip(tmp_path / "evil.pt", None, {"0": NUMBERS.tobytes()}, body=body))
    assert not (tmp_path / "made").exists()
    return message


CALLED = [
    ("posix", "system", "echo x > {made}"),
    ("os", "system", "echo x > {made}"),
    ("nt", "system", "x"),
    ("builtins", "eval", "open('{made}', 'w')"),
    ("__builtin__", "exec", "open('{made}', 'w')"),
    ("builtins", "getattr", "x"),
    ("builtins", "open", "{made}"),
    ("subprocess", "Popen", "touch {made}"),
    ("torch.hub", "load", "x"),
    ("torch", "load", "x"),
    ("torch.nn.modules.module.os", "system", "touch {made}"),
    ("dalle_jax.storage", "write", "x"),
    ("numpy", "save", "{made}"),
    ("runpy", "run_path", "{made}"),
]


@pytest.mark.parametrize("call", CALLED, ids=lambda call: ".".join(call[:2]))
def test_functions_named_in_a_pickle_are_never_called(tmp_path, call):
    module, name, argument = call
    body = pickled(Raw(module, name, argument.format(made=tmp_path / "made")))
    if module == "torch.nn.modules.module.os":  # looks like a class of torch, so becomes an InertObject
        message = refusal(torch_zip(tmp_path / "evil.pt", None, {}, body=body))
        assert "tensors" in message and not (tmp_path / "made").exists()
    else:
        assert f"{module}.{name}" in hostile(tmp_path, body)


def test_the_test_would_notice_a_call(tmp_path):
    pickle.loads(pickled(Raw("posix", "system", f"echo x > {tmp_path / 'made'}")))
    assert (tmp_path / "made").exists()


def test_stack_globals_inst_obj_and_extension_codes_are_refused(tmp_path):
    stacked = b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x01x\x85R."
    assert "os.system" in hostile(tmp_path, stacked)
    assert "INST" in hostile(tmp_path, b"\x80\x02(X\x01\x00\x00\x00xios\nsystem\n.")
    assert "OBJ" in hostile(tmp_path, b"\x80\x02(cbuiltins\neval\no.".replace(b"builtins\neval", b"torch\nSize"))
    assert "EXT1" in hostile(tmp_path, b"\x80\x02\x82\x01.")
    assert "torch.nn.modules.a.b" in hostile(tmp_path, b"\x80\x04\x8c\x10torch.nn.modules\x8c\x03a.b\x93)R.")


def test_build_and_call_only_act_on_inert_objects(tmp_path):
    assert "builds a list" in hostile(tmp_path, b"\x80\x02]}b.")
    assert "builds a tuple" in hostile(tmp_path, b"\x80\x02)}b.")
    assert "calls a dict" in hostile(tmp_path, b"\x80\x02})R.")
    assert "calls torch.FloatStorage" in hostile(tmp_path, b"\x80\x02ctorch\nFloatStorage\n)R.")
    assert "pops more than it pushed" in hostile(tmp_path, b"\x80\x02((0.")
    assert "before seeing STOP" in hostile(tmp_path, b"\x80\x02(X\x01\x00\x00\x00x")


def test_a_tensor_whose_dtype_is_not_a_name_is_refused(tmp_path):
    rebuild = named("torch._utils", "_rebuild_tensor_v3")
    assert "a tensor of dtype 5" in hostile(tmp_path, b"\x80\x02" + rebuild + b"(NK\x00))NNK\x05tR.")


def test_items_of_an_object_under_other_keys_than_text_and_numbers_are_left_out(tmp_path):
    item = encoded(GOOD["a"])
    body = (
        b"}" + encoded("net") + named("dall_e.a", "B") + b")\x81(N" + item + b")" + item + encoded("x") + item + b"us."
    )
    tensors = read_tensors(torch_zip(tmp_path / "a.pt", None, {"0": NUMBERS.tobytes()}, body=b"\x80\x02" + body))
    assert list(tensors) == ["net.x"]


def test_objects_that_contain_themselves_or_multiply_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(untrusted, "MAX_STEPS", 20_000)
    assert "deep" in hostile(tmp_path, b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.")
    layers = b"".join(b"](" + b"h%c" % (i - 1) * 20 + b"eq%c" % i if i else b"]q\x00" for i in range(30))
    assert "more than" in hostile(tmp_path, b"\x80\x02" + layers + b".")


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((4, 7), (7, 1), 0),
        ((4, 6), (6, 1), 1),
        ((4, 6), (6, 2), 0),
        ((10**12, 10**12), (0, 0), 0),
        ((2**62, 4), (1, 1), 0),
        ((25,), (0,), 0),
        ((-1, 6), (6, 1), 0),
        ((4, 6), (-6, 1), 23),
        ((4, 6), (6, 1), -1),
        ((0,), (1,), 25),
        ((4, 6), (6,), 0),
        ((1,) * 40, (1,) * 40, 0),
        ((4.0, 6), (6, 1), 0),
        ((True, 6), (6, 1), 0),
    ],
)
def test_tensors_that_do_not_fit_their_storage_are_refused(tmp_path, shape, strides, offset):
    root = {"a": tensor("0", "float32", 24, shape, strides, offset)}
    assert "'a'" in refusal(torch_zip(tmp_path / "a.pt", root, {"0": NUMBERS.tobytes()}))


def test_storages_of_another_size_than_declared_are_refused(tmp_path):
    root = {"a": tensor("0", "float32", 2**40, (4, 6), (6, 1))}
    assert "96 bytes" in refusal(torch_zip(tmp_path / "a.pt", root, {"0": NUMBERS.tobytes()}))
    assert "data/0" in refusal(torch_zip(tmp_path / "b.pt", GOOD, {}))
    assert "24 numbers in storage '0', got 5" in refusal(torch_old(tmp_path / "c.pt", _old(), {"0": NUMBERS[:5]}))
    whole = torch_old(tmp_path / "d.pt", _old(), {"0": NUMBERS})
    whole.write_bytes(whole.read_bytes()[:-1])
    assert "cut off" in refusal(whole)


def _old():
    return {"a": tensor("0", "float32", 24, (4, 6), (6, 1), old=True)}


@pytest.mark.parametrize("key", ["../../etc/passwd", "/etc/passwd", "..", "a/../../b", "C:/x", "a\\b", "", "x\n"])
def test_tensor_names_that_are_paths_are_refused(tmp_path, key):
    root = {"a": tensor(key, "float32", 24, (4, 6), (6, 1))}
    assert "names" in refusal(torch_zip(tmp_path / "a.pt", root, {"0": NUMBERS.tobytes()}))
    header = {key: {"dtype": "F32", "shape": [24], "data_offsets": [0, 96]}}
    assert "names" in refusal(safetensors(tmp_path / "a.safetensors", header, NUMBERS.tobytes()))


def test_an_index_reads_only_its_own_folder(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    for name in ("../a.safetensors", "/etc/passwd", "sub/a.safetensors", "model.safetensors.index.json"):
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        assert name in refusal(index)


def test_zips_that_are_bombs_or_overlap_are_refused(tmp_path):
    bomb = tmp_path / "bomb.npz"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as member:
        for _ in range(80):
            member.write(bytes(1 << 20))
    assert "zip bomb" in refusal(bomb)
    path = torch_zip(tmp_path / "a.pt", GOOD, {"0": NUMBERS.tobytes(), "1": NUMBERS.tobytes()})
    content = path.read_bytes()
    first, second = (content.rindex(b"PK\x01\x02", 0, content.rindex(name) + 1) for name in (b"data/0", b"data/1"))
    offset = content[first + 42 : first + 46]
    path.write_bytes(content[: second + 42] + offset + content[second + 46 :])
    assert "another member" in refusal(path)
    compressed = torch_zip(tmp_path / "b.pt", GOOD, {"0": NUMBERS.tobytes()}, compressed=True)
    assert "got a compressed member; save the file again with torch" in refusal(compressed)


def test_duplicate_members_and_other_zips_are_refused(tmp_path):
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickled(GOOD))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("x/data.pkl", pickled(GOOD))
    assert "twice" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no weights")
    assert "data.pkl" in refusal(path)


def test_a_network_pickled_with_its_source_is_refused_with_advice(tmp_path):
    body = b"".join(pickle.dumps(one, protocol=2) for one in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    root = Reference(("module", ("GLOBAL", "torch.nn.modules.linear", "Linear"), "linear.py", "import os"))
    path = tmp_path / "old.pt"
    path.write_bytes(body + pickled(root))
    assert "save its state_dict() instead" in refusal(path)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [24], "data_offsets": [0, 92]}},
        {"a": {"dtype": "F32", "shape": [24], "data_offsets": [4, 100]}},
        {"a": HALF, "b": {**HALF, "data_offsets": [24, 72]}},
        {"a": HALF, "b": HALF},
        {"a": {"dtype": "F32", "shape": [12], "data_offsets": [0, 48]}},
        {"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 96]}},
        {"a": {"dtype": "F32", "shape": [-24], "data_offsets": [0, 96]}},
        {"a": {"dtype": "F32", "shape": [24], "data_offsets": [96, 0]}},
        {"a": {"dtype": "F33", "shape": [24], "data_offsets": [0, 96]}},
        {"a": {"dtype": ["F32"], "shape": [24], "data_offsets": [0, 96]}},
        {"a": {"dtype": "F32", "shape": "24", "data_offsets": [0, 96]}},
        {"a": 5},
        {"__metadata__": 5},
        b'{"a": {"dtype": "F32", "shape": [24], "data_offsets": [0, 96]}, "a": 1}',
        b"{" + b'"a":{' * 100_000,
        b"[]",
        b"\xff\xff",
    ],
    ids=str,
)  # fmt: skip
def test_wrong_safetensors_headers_are_refused(tmp_path, header):
    path = safetensors(tmp_path / "a.safetensors", header, NUMBERS.tobytes())
    if isinstance(header, bytes) and header[:1] != b"{":
        assert "begins with" in refusal(path)
    else:
        refusal(path)


def test_a_header_longer_than_its_file_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", 2**60) + b'{"a": 1}')
    assert "length of its header" in refusal(path)


@pytest.mark.parametrize(
    "content",
    [
        b"\xdf\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\x81\xa1a\xc6\xff\xff\xff\xff",
        b"\x91" * 200,
        b"\x81\xa1a\xd4\x07x",
        b"\x81\xa1a\xc1",
        b"\x82\xa1a\x01\xa1a\x02",
        b"\x81\x01\x02",
        b"\x80\x80",
        flax_map({"a": flax_array(NUMBERS).replace(b"\xce", b"\xcf")})[:-3],
        flax_map({"a": flax_array(NUMBERS).replace(b"float32", b"float64")}),
        flax_map({"a": flax_array(NUMBERS).replace(b"float32", b"objects")}),
        flax_map({"a": flax_map({"__msgpack_chunked_array__": b"\xc3", "shape": b"\x81\xa10\x18", "chunks": b"\x80"})}),
    ],
    ids=range(13),
)
def test_wrong_flax_files_are_refused(tmp_path, content):
    path = tmp_path / "a.msgpack"
    path.write_bytes(content)
    assert ".msgpack" in refusal(path)


def test_other_formats_are_refused_and_identified(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(pickle.dumps({"a": NUMBERS}, protocol=4))
    assert "a plain pickle, which is not run" in refusal(path)
    path.write_bytes(b"")
    assert "empty" in refusal(path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    assert "begins with" in refusal(path)


def test_fuzzed_files_are_read_or_raise_user_error(tmp_path):
    """Files with random changes and cuts, under fixed seeds."""
    sources = {
        "zip.pt": torch_zip(tmp_path / "zip.pt", {**GOOD, "n": {"b": 1}}, {"0": NUMBERS.tobytes()}).read_bytes(),
        "old.pt": torch_old(tmp_path / "old.pt", _old(), {"0": NUMBERS}).read_bytes(),
        "a.msgpack": flax_map({"a": flax_array(NUMBERS), "b": flax_map({"c": flax_array(NUMBERS)})}),
    }
    np.savez_compressed(tmp_path / "a.npz", a=NUMBERS)
    write_safetensors(tmp_path / "a.safetensors", {"a": NUMBERS, "b": NUMBERS}, {"x": "y"})
    for name in ("a.npz", "a.safetensors"):
        sources[name] = (tmp_path / name).read_bytes()
    refused, other = 0, 0
    for name, content in sources.items():
        rng = random.Random(zlib.crc32(name.encode()))
        path = tmp_path / f"fuzzed_{name}"
        for _ in range(120):
            changed = bytearray(content)
            for _ in range(rng.randint(1, 8)):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
            start, end = sorted(rng.randrange(len(changed) + 1) for _ in range(2))
            kind = rng.randrange(4)
            if kind == 0:
                changed = changed[:start]
            elif kind == 1:
                del changed[start : min(end, start + 20)]
            path.write_bytes(changed)
            try:
                sizes = [array.nbytes for array in read_whole(path)]
            except UserError as error:
                sizes = []
                refused += str(error).startswith(str(path))
                other += not str(error).startswith(str(path))
            assert sum(sizes) <= 1 << 26
    assert refused > 300 and other == 0


def test_fuzzed_pickles_are_read_or_raise_bad_pickle(tmp_path):
    """Random streams of opcodes, with allowed and forbidden names among them."""
    rng = random.Random(5)
    pieces = [
        *(
            b"}",
            b"]",
            b")",
            b"(",
            b"t",
            b"R",
            b"\x81",
            b"b",
            b"Q",
            b"u",
            b"s",
            b"a",
            b"e",
            b"0",
            b"N",
            b"\x88",
            b"l",
            b"d",
        ),
        *(b"\x85", b"\x86", b"\x87", b"\x8f", b"\x90", b"\x93", b"h\x00", b"q\x00", b"K\x05", b"2", b"1", b"o"),
        *(named("collections", "OrderedDict"), named("torch._utils", "_rebuild_tensor_v2"), named("os", "system")),
        *(named("torch", "Size"), named("dall_e.a", "B"), encoded("x"), b"\x94", b"\x97", b"\x98", b"\x82\x01"),
    ]
    seen = set()
    for _ in range(2000):
        body = b"\x80\x04" + b"".join(rng.choice(pieces) for _ in range(rng.randint(1, 30))) + b"."
        path_like = _Bytes(body)
        try:
            budget = Budget(0, steps=2000)
            list(pickles.leaves(pickles.load(path_like, lambda value: value, budget), budget))
            seen.add("read")
        except BadPickle as error:
            seen.add(str(error).split(" (")[0][:24])
    assert len(seen) > 8


class _Bytes:
    def __init__(self, content: bytes):
        stream = io.BytesIO(content)
        self.read, self.readline, self.tell = stream.read, stream.readline, stream.tell
