import hashlib
import io
import os
import tarfile

import numpy as np
import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.data.files import ranges
from dalle_jax.data.files.ranges import find_file, read_range
from dalle_jax.data.formats import tar_index
from dalle_jax.data.formats.tar_headers import read_members
from tests.data.tars import member, sample, write


def built(path):
    return tar_index.build_index(find_file(str(path)))


def contents(path):
    """Read all members through the index: {key: {extension: bytes}}."""
    found = built(path)
    return {
        found.key(one): {extension: read_range(found.file, *span) for extension, span in found.byte_ranges(one).items()}
        for one in range(len(found))
    }


def faults(path):
    return [(key, kind) for key, kind, _ in built(path).problems]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_equal_those_of_tarfile_in_every_format_and_with_long_names(tmp_path, format):
    names = ["a.txt", "x/" * 60 + "b.txt", "f" * 80 + ".txt"]
    if format != tarfile.USTAR_FORMAT:
        names += ["very_long_" * 30 + ".txt", "d/" * 200 + "ü" * 90 + ".json"]
    files = [(name, os.urandom(number * 301)) for number, name in enumerate(names)]
    path = write(tmp_path / "a.tar", member("folder", tarfile.DIRTYPE), *files, format=format)
    with tarfile.open(path) as tar:
        expected = [(one.name, one.offset_data, one.size) for one in tar if one.isfile()]
    file = find_file(str(path))
    found = read_members(lambda start, length: read_range(file, start, length), file.size, "a", hashlib.blake2b())
    assert [(one.name.decode(), one.start, one.size) for one in found if one.kind == "file"] == expected
    assert {
        f"{key}.{extension}": data for key, own in contents(path).items() for extension, data in own.items()
    } == dict(files)
    assert faults(path) == []


def test_a_sample_is_a_folder_and_a_name_up_to_its_first_dot(tmp_path):
    files = [("./a.b/x.jpg", b"1"), ("./a.b/x.seg.PNG", b"2"), ("a.b/y.txt", b"3"), ("x.jpg", b"4"), ("README", b"5")]
    files += [("._x.jpg", b"6"), ("dots.", b"7")]
    assert contents(write(tmp_path / "a.tar", *files)) == {
        "a.b/x": {"jpg": b"1", "seg.png": b"2"},
        "a.b/y": {"txt": b"3"},
        "x": {"jpg": b"4"},
    }


def test_a_repeated_key_begins_a_new_sample_even_directly_after_the_first(tmp_path):
    found = built(write(tmp_path / "a.tar", *sample("0"), *sample("0"), *sample("1"), *sample("0")))
    assert [found.key(one) for one in range(4)] == ["0", "0", "1", "0"]
    assert len(set(found.key_hashes.tolist())) == 2


def test_bytes_of_an_extension_are_the_sizes_of_its_members(tmp_path):
    found = built(write(tmp_path / "a.tar", ("0.txt", b"abc"), ("1.jpg", b""), ("1.txt", b"z"), ("2.json", b"{}")))
    assert found.bytes_of("txt").tolist() == [3, 1, -1]
    assert found.bytes_of("jpg").tolist() == [-1, 0, -1]
    assert found.bytes_of("png").tolist() == [-1, -1, -1]


def test_links_special_files_and_paths_out_of_the_tar_are_reported_and_left_out(tmp_path):
    path = write(
        tmp_path / "a.tar",
        *sample("good"),
        member("soft.jpg", tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("hard.jpg", tarfile.LNKTYPE, linkname="good.jpg"),
        member("pipe.jpg", tarfile.FIFOTYPE),
        member("disk.jpg", tarfile.BLKTYPE),
        *sample("../up"),
        *sample("in/../../up"),
        *sample("/etc/root"),
        *sample("fine..name"),
    )
    assert faults(path) == [
        ("soft", "link"),
        ("hard", "link"),
        ("pipe", "not a file"),
        ("disk", "not a file"),
        ("../up", "path outside"),
        ("in/../../up", "path outside"),
        ("/etc/root", "path outside"),
    ]
    assert list(contents(path)) == ["good", "fine"]


def test_a_sparse_file_is_not_a_file_and_later_members_are_found(tmp_path):
    info = member("holes.jpg", tarfile.GNUTYPE_SPARSE, size=512)
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[482] = 1  # the map of holes goes on in a block of its own
    block[148:156] = b"%06o\0 " % (256 + sum(block[:148]) + sum(block[156:]))
    rest = write(tmp_path / "rest.tar", *sample("after")).read_bytes()
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(block) + bytes(512) + b"x" * 512 + rest)
    assert faults(path) == [("holes", "not a file")]
    assert contents(path) == {"after": {"jpg": b"image after", "txt": b"caption after"}}
    newer = member("new.jpg", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.name": "true.jpg"})
    path = write(tmp_path / "b.tar", newer, *sample("after"), format=tarfile.PAX_FORMAT)
    assert faults(path) == [("true", "not a file")]
    assert list(contents(path)) == ["after"]


def test_every_whole_member_of_a_cut_tar_is_found(tmp_path):
    whole = write(tmp_path / "whole.tar", *sample("0", image=b"p" * 700), *sample("1"), *sample("2"))
    data, all_contents = whole.read_bytes(), contents(whole)
    with tarfile.open(whole) as tar:
        ends = [(one.name, one.offset_data + one.size) for one in tar]
        end_of_all = tar.offset
    path = tmp_path / "cut.tar"
    for cut in [1, 100, 511, 512, 700, 1024, 1212, 1300, 1536, 2048, 2060, 2061, 3000, end_of_all - 1, end_of_all]:
        path.write_bytes(data[:cut])
        if cut < 512:
            assert len(built(path)) == 0
        expected = {name for name, end in ends if end <= cut}
        got = {f"{key}.{extension}" for key, own in contents(path).items() for extension in own}
        assert got == expected
        assert all(own.items() <= all_contents[key].items() for key, own in contents(path).items())
        assert faults(path) == [("cut.tar", "broken tail")]
    path.write_bytes(data[: end_of_all + 1024])
    assert faults(path) == []


def test_an_empty_file_has_a_broken_tail_and_no_sample(tmp_path):
    (tmp_path / "a.tar").touch()
    assert faults(tmp_path / "a.tar") == [("a.tar", "broken tail")]
    assert contents(tmp_path / "a.tar") == {}


def test_members_after_a_broken_header_are_left_out(tmp_path):
    path = write(tmp_path / "a.tar", *sample("0"), *sample("1"))
    data = bytearray(path.read_bytes())
    data[2048 + 3] ^= 1
    path.write_bytes(data)
    assert faults(path) == [("a.tar", "broken tail")]
    assert list(contents(path)) == ["0"]


@pytest.mark.parametrize(
    "numbers", [b"-0000000005\0", b"\xff" * 12, b"\x80" + b"\xff" * 11, b"0000000zz5\0 ", b"0_0_0_0_0_5\0"]
)
def test_a_size_that_is_not_a_number_breaks_only_the_tail(tmp_path, numbers):
    path = write(tmp_path / "a.tar", *sample("0"), *sample("1"))
    data = bytearray(path.read_bytes())
    block = data[2048:2560]
    block[124:136] = numbers
    block[148:156] = b"%06o\0 " % (256 + sum(block[:148]) + sum(block[156:]))
    data[2048:2560] = block
    path.write_bytes(data)
    assert faults(path) == [("a.tar", "broken tail")]
    assert list(contents(path)) == ["0"]


@pytest.mark.parametrize(
    "record", [b"99 path=x\n", b"path=x\n", b"00 path=x\n", b"9999999999999999999999 a=b\n", b"6 a=b "]
)
def test_a_broken_pax_header_breaks_only_the_tail(tmp_path, record):
    info = member("pax", tarfile.XHDTYPE)
    info.size = len(record)
    header = info.tobuf(tarfile.USTAR_FORMAT)
    whole = write(tmp_path / "a.tar", *sample("0"))
    path = tmp_path / "b.tar"
    path.write_bytes(whole.read_bytes()[:2048] + header + record.ljust(512, b"\0") + whole.read_bytes()[:1024])
    assert faults(path) == [("b.tar", "broken tail")]
    assert list(contents(path)) == ["0"]


def test_sizes_beyond_eight_gigabytes_are_read(tmp_path):
    info = member("big.jpg")
    info.size = 9 * 2**30
    end = io.BytesIO()
    with tarfile.open(fileobj=end, mode="w") as tar:
        tar.addfile(member("after.txt"))
    path = tmp_path / "a.tar"
    with open(path, "wb") as file:  # a file with a hole: it takes no room
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.seek(512 + 9 * 2**30)
        file.write(end.getvalue())
    found = built(path)
    assert [found.byte_ranges(one) for one in range(2)] == [
        {"jpg": (512, 9 * 2**30)},
        {"txt": (512 + 9 * 2**30 + 512, 0)},
    ]


@pytest.mark.parametrize(
    ("content", "kind"), [(b"<html>" * 200, "<html>"), (b"\x1f\x8b" + bytes(600), "gzip"), (b"BZh9" * 200, "bzip2")]
)
def test_a_file_that_is_not_a_tar_is_an_error_that_describes_it(tmp_path, content, kind):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(UserError, match=f"a.tar: expected a tar, got .*{kind}"):
        built(tmp_path / "a.tar")


def names_in(folder):
    return sorted(one.name for one in folder.iterdir())


@pytest.fixture
def builds(monkeypatch):
    """The names of the tars whose index was built."""
    made = []
    build = tar_index.build_index
    monkeypatch.setattr(tar_index, "build_index", lambda file: made.append(file.name) or build(file))
    return made


def same(one, other):
    arrays = [name for name in vars(one) if isinstance(getattr(one, name), np.ndarray)]
    assert len(arrays) == 6
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays) and all(
        getattr(one, name) == getattr(other, name) for name in vars(one) if name not in arrays
    )


def test_an_index_is_stored_next_to_the_tar_and_read_from_there(tmp_path, builds):
    path = write(tmp_path / "a.tar", *sample("ü"), member("1.jpg", tarfile.SYMTYPE, linkname="x"), *sample("2"))
    first, is_stored = tar_index.load_index(find_file(str(path)))
    again, _ = tar_index.load_index(find_file(str(path)))
    assert is_stored
    assert builds == [str(path)]
    assert names_in(tmp_path) == ["a.tar", "a.tar.index"]
    assert same(first, again)
    assert first.problems


def test_an_empty_index_can_be_stored(tmp_path, builds):
    path = write(tmp_path / "a.tar")
    first, _ = tar_index.load_index(find_file(str(path)))
    assert same(first, tar_index.load_index(find_file(str(path)))[0])
    assert len(first) == 0
    assert len(builds) == 1


def test_an_index_is_built_again_when_the_tar_changes_in_size_or_time(tmp_path, builds):
    path = write(tmp_path / "a.tar", *sample("0"))
    tar_index.load_index(find_file(str(path)))
    write(path, *sample("1"), *sample("2"), *[("x.txt", bytes(20_000))])
    assert tar_index.load_index(find_file(str(path)))[0].key(1) == "2"
    os.utime(path, ns=(1, 1))
    tar_index.load_index(find_file(str(path)))
    assert len(builds) == 3
    tar_index.load_index(find_file(str(path)))
    assert len(builds) == 3


def test_a_damaged_index_is_built_again(tmp_path, builds):
    path = write(tmp_path / "a.tar", *sample("0"), *sample("1"))
    expected, _ = tar_index.load_index(find_file(str(path)))
    place = tmp_path / "a.tar.index"
    data = place.read_bytes()
    flipped = bytearray(data)
    flipped[len(data) * 2 // 3] ^= 4
    damaged = [b"", data[:10], data[:-1], data + b"x", bytes(flipped), b"x" * len(data)]
    for content in damaged:
        place.write_bytes(content)
        assert same(expected, tar_index.load_index(find_file(str(path)))[0])
        assert place.read_bytes() == data
    assert len(builds) == 1 + len(damaged)


def test_a_failed_write_of_an_index_leaves_no_file_behind(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tar", *sample("0"))

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fail)
        found, is_stored = tar_index.load_index(find_file(str(path)))
    assert not is_stored
    assert found.key(0) == "0"
    assert names_in(tmp_path) == ["a.tar"]


def test_an_index_is_stored_in_the_given_folder(tmp_path, builds):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "a.tar", *sample(name))
    cache = tmp_path / "cache"
    for _ in range(2):
        for name in ("x", "y"):
            found, is_stored = tar_index.load_index(find_file(str(tmp_path / name / "a.tar")), str(cache))
            assert is_stored
            assert found.key(0) == name
            assert names_in(tmp_path / name) == ["a.tar"]
    assert len(builds) == 2
    assert len(names_in(cache)) == 2


def test_indexing_reads_headers_and_not_contents(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tar", *[(f"{number}.jpg", bytes(100_000)) for number in range(50)])
    asked = []
    pread = os.pread
    monkeypatch.setattr(
        ranges.os, "pread", lambda file, length, start: asked.append(length) or pread(file, length, start)
    )
    assert len(built(path)) == 50
    assert sum(asked) == 512 * 52


def test_headers_behind_a_url_are_read_in_large_blocks_into_the_same_index(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tar", *sample("0"), ("1.jpg", bytes(30_000)), *sample("2"), ("3.txt", bytes(9)))
    here, asked = find_file(str(path)), []
    expected = built(path)

    def far(file, start, length):
        asked.append(length)
        return read_range(here, start, length)

    monkeypatch.setattr(tar_index, "read_range", far)
    monkeypatch.setattr(tar_index, "REMOTE_BLOCK", 4096)
    found = tar_index.build_index(ranges.DataFile("s3://bucket/a.tar", here.size, here.stamp))
    assert found.digest == expected.digest
    assert np.array_equal(found.starts, expected.starts)
    assert found.problems == expected.problems
    assert asked == [4096, 4096]  # before the large member, and behind it
