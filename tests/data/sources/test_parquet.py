import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.data.records import Records
from dalle_jax.data.sources.parquet import Parquet
from tests.data.damaged import fault
from tests.data.sources.test_array_record import web

pa = pytest.importorskip("pyarrow", reason="parquet needs pyarrow: pip install -e '.[parquet]'")
pq = pytest.importorskip("pyarrow.parquet")


def write(path, rows=10, group=4, first=0, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = range(first, first + rows)
    table = {
        "image": [f"image {n}".encode() * 20 for n in numbers],
        "caption": [f"a {n}" for n in numbers],
        "text": [[f"one {n}", " "] for n in numbers],
        "width": list(numbers),
    }
    pq.write_table(pa.table(table | columns), path, row_group_size=group)
    return path


def opened(*files, **fields):
    return Parquet(files=tuple(map(str, files)), **fields).open()


def test_rows_are_records_with_all_other_columns_as_metadata(tmp_path):
    write(tmp_path / "a.parquet")
    write(tmp_path / "b.parquet", first=10)
    found = opened(tmp_path)
    assert isinstance(found, Records)
    assert len(found) == 20
    for n in (19, 3, 0, 12):
        one = found[n]
        assert (one.image, one.captions) == (f"image {n}".encode() * 20, (f"a {n}", f"one {n}"))
        assert one.metadata == {"width": n}
    assert [found[n].key for n in (4, 12)] == ["a.parquet:4", "b.parquet:2"]
    assert opened(tmp_path, caption=("text",))[5].metadata == {"width": 5, "caption": "a 5"}


def test_a_struct_with_bytes_is_an_image_and_a_struct_with_only_a_path_is_bad(tmp_path):
    images = [{"bytes": b"p", "path": "x.png"}, {"bytes": None, "path": "y.png"}]
    write(tmp_path / "a.parquet", rows=2, image=pa.array(images))
    found = opened(tmp_path)
    assert found[0].image == b"p"
    assert fault(found, 1) == ("a.parquet:1", "no image")


def test_each_bad_row_has_its_kind(tmp_path):
    images = [b"p", None, b"", b"p" * 101, b"p"]
    path = write(tmp_path / "a.parquet", 5, image=images, caption=["x", "x", "x", "x", None], text=[None] * 5)
    found = opened(path, max_bytes=100)
    assert found[0].captions == ("x",)
    kinds = ["no image", "no image", "image too large", "no caption"]
    assert [fault(found, n) for n in range(1, 5)] == [(f"a.parquet:{n + 1}", kind) for n, kind in enumerate(kinds)]


def test_a_damaged_row_group_makes_only_its_own_rows_bad(tmp_path):
    images = [bytes([n]) * 300 for n in range(8)]
    path = tmp_path / "a.parquet"
    table = pa.table({"image": images, "text": [str(n) for n in range(8)]})
    pq.write_table(table, path, row_group_size=4, compression="zstd", use_dictionary=False, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    start = column.data_page_offset
    content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(content)
    found = opened(path)
    assert [found[n].image for n in range(4)] == images[:4]
    assert [fault(found, n)[1] for n in range(4, 8)] == ["broken row group"] * 4


@pytest.mark.parametrize("kept", [1, 6000, 2**20])
def test_records_do_not_depend_on_kept_bytes_and_memory_stays_below_it(tmp_path, kept):
    write(tmp_path / "a.parquet", rows=100, group=40)
    found = opened(tmp_path, kept_bytes=kept)
    order = [7 * n % 100 for n in range(100)]
    with ThreadPoolExecutor(3) as pool:
        assert [one.metadata["width"] for one in pool.map(found.__getitem__, order)] == order
    held = [table.nbytes for table in found._groups.values()]
    assert sum(held) <= kept or len(held) == 1
    assert len(held) == {1: 0, 6000: 1, 2**20: 3}[kept]


def test_a_table_behind_a_url_is_read_in_byte_ranges(tmp_path):
    write(tmp_path / "site/a.parquet", rows=400, group=10, image=[bytes([n % 251]) * 20_000 for n in range(400)])
    size = (tmp_path / "site/a.parquet").stat().st_size
    with web(tmp_path / "site") as (server, url):
        assert opened(f"{url}/a.parquet")[395].metadata == {"width": 395}
        assert server.served < size / 2


@pytest.mark.parametrize(
    ("columns", "fields", "message"),
    [
        ({}, {"image": "jpg"}, r"a\.parquet: expected the column jpg, .* got the columns image, caption, text, width"),
        ({}, {"caption": ("words",)}, "one of the columns words"),
        ({"image": ["a path"] * 10}, {}, "expected bytes, .* in image, got string"),
        ({}, {"caption": ()}, "caption: expected names"),
        ({}, {"kept_bytes": 0}, "kept_bytes: expected at least 1"),
    ],
)
def test_wrong_columns_and_fields_are_errors(tmp_path, columns, fields, message):
    write(tmp_path / "a.parquet", **columns)
    with pytest.raises(UserError, match=message):
        opened(tmp_path, **fields)


def test_a_file_that_is_not_parquet_is_refused_by_name(tmp_path):
    path = write(tmp_path / "a.parquet")
    for content in (b"", b"html" * 100, path.read_bytes()[:-9]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.parquet: expected a parquet file"):
            opened(path)


def test_without_pyarrow_the_error_names_the_package_to_install(tmp_path, monkeypatch):
    write(tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[parquet\]'"):
        opened(tmp_path)


def test_the_fingerprint_depends_on_contents_and_columns(tmp_path):
    one, same, other = write(tmp_path / "x/a.parquet"), write(tmp_path / "y/a.parquet"), tmp_path / "z/a.parquet"
    write(other, caption=[f"b {n}" for n in range(10)])
    assert opened(one).fingerprint() == opened(same).fingerprint() != opened(other).fingerprint()
    assert opened(one, caption=("text",)).fingerprint() != opened(one).fingerprint()


def test_captions_may_be_bytes_in_utf_8(tmp_path):
    captions = ["a café".encode(), b"caf\xe9", b" "]
    path = write(tmp_path / "a.parquet", 3, caption=pa.array(captions, pa.binary()), text=[["x", "y"], [], None])
    found = opened(path, caption=("caption",))
    assert found[0].captions == ("a café",)
    assert [fault(found, row)[1] for row in (1, 2)] == ["caption not a text", "no caption"]
    assert opened(path, caption=("text",))[0].captions == ("x", "y")


def test_a_column_of_captions_without_texts_is_refused_when_the_file_is_opened(tmp_path):
    write(tmp_path / "a.parquet", 2, caption=[1, 2], text=[1.5, 2.5], prompt=["a", "b"])
    with pytest.raises(UserError, match=r"expected texts in a column of captions, got int64 in caption, double"):
        opened(tmp_path)
    assert opened(tmp_path, caption=("prompt",))[1].captions == ("b",)
