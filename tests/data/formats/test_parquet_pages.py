"""Sizes in the headers of parquet's pages, on files of pyarrow; no file of more than a few kB."""

import numpy as np
import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.data.files.ranges import find_file
from dalle_jax.data.formats.parquet_pages import largest_page
from dalle_jax.data.sources.parquet import Parquet
from dalle_jax.pipelines.bulk.prompt_files import PromptFiles
from dalle_jax.pipelines.request import RequestOptions
from dalle_jax.untrusted import OverBudget
from tests.data.damaged import fault

pa = pytest.importorskip("pyarrow", reason="parquet needs pyarrow: pip install -e '.[parquet]'")
pq = pytest.importorskip("pyarrow.parquet")


def write(path, columns, **options):
    pq.write_table(pa.table(columns), path, compression="zstd", **options)
    return find_file(str(path)), pq.ParquetFile(path).metadata


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("dictionary", [True, False])
def test_the_largest_page_is_that_of_the_largest_values(tmp_path, dictionary, version):
    columns = {"small": ["a", "b"], "large": [b"x" * 70_000, b"y" * 50_000], "lists": [["q", "r"], None]}
    file, footer = write(
        tmp_path / "a.parquet", columns, use_dictionary=dictionary, data_page_version=version, write_statistics=True
    )
    size = largest_page(file, footer.row_group(0))
    assert 120_000 <= size <= 120_100
    assert largest_page(file, footer.row_group(0), frozenset({"small"})) < 100


def test_pages_are_followed_to_the_end_of_a_column(tmp_path):
    values = [np.random.default_rng(n).bytes(3000 + n) for n in range(20)]
    file, footer = write(
        tmp_path / "a.parquet", {"x": values}, use_dictionary=False, data_page_size=1, write_batch_size=1
    )
    assert largest_page(file, footer.row_group(0)) in range(3019, 3060)


@pytest.fixture(scope="module")
def bomb(tmp_path_factory):
    """Return a file of some kB, with one value of 66 MiB."""
    path = tmp_path_factory.mktemp("bomb") / "a.parquet"
    columns = {"prompt": [b"a" * (66 * 2**20)], "caption": ["a"]}
    write(path, columns, use_dictionary=False, write_statistics=False, store_schema=False)
    assert path.stat().st_size < 60_000
    return path


def test_a_page_that_the_size_of_the_file_does_not_justify_is_refused(bomb):
    with pytest.raises(OverBudget, match="content that takes more than"):
        largest_page(find_file(str(bomb)), pq.ParquetFile(bomb).metadata.row_group(0))
    assert fault(Parquet(files=(str(bomb),), image="prompt").open(), 0) == ("a.parquet:0", "broken row group")
    with pytest.raises(
        UserError, match=r"expected a parquet file of prompts, got other content \(content that takes more"
    ):
        PromptFiles([str(bomb)], RequestOptions()).survey()


def test_a_group_larger_than_its_footer_says_is_read_in_small_batches(tmp_path, monkeypatch):
    value = b"a" * 100_000
    file, footer = write(tmp_path / "a.parquet", {"image": [value] * 400, "caption": ["a"] * 400})
    assert footer.row_group(0).total_byte_size < 10**6  # 40 MB without the dictionary
    records = Parquet(files=(file.name,), kept_bytes=2**20).open()
    [table] = records._tables
    assert table.read_group(0) is None
    assert table.group_bytes[0] > 2**20
    assert [records[n].image == value for n in (0, 399)] == [True, True]
