import numpy as np
import pytest
from image_files import write_images

from dalle_jax.config.errors import UserError
from dalle_jax.data.sources.folder import Folder
from dalle_jax.evaluate.suites.image_sets import DecodedCodes, RecordImages, stream
from dalle_jax.images.png import write_png
from dalle_jax.parallel import hosts


def folder_set(folder, size=None):
    return RecordImages(str(folder), Folder(str(folder), captioned=False).open(), size)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images") / "some", 23, seed=0)


def test_a_stream_is_the_whole_set_in_order(folder):
    images = folder_set(folder)
    batches = list(stream(images, 10))
    assert [len(one.numbers) for one in batches] == [10, 10, 3]
    assert np.concatenate([one.numbers for one in batches]).tolist() == list(range(23))
    np.testing.assert_array_equal(batches[1].images[2], images.read([12]).images[0])
    assert batches[0].captions[3] == ((folder / "0003.txt").read_text(),)
    assert [len(one.numbers) for one in stream(images, 10, count=12)] == [10, 2]


def test_processes_share_the_batches_of_a_stream(folder, monkeypatch):
    shares = []
    for process in range(2):
        monkeypatch.setattr(hosts, "process_index_and_count", lambda process=process: (process, 2))
        shares.append([one.numbers.tolist() for one in stream(folder_set(folder), 5)])
    assert [len(share) for share in shares] == [3, 2]
    assert sorted(number for share in shares for batch in share for number in batch) == list(range(23))


def test_images_need_no_captions_here(tmp_path):
    found = folder_set(write_images(tmp_path / "bare", 3, seed=1, captions=False)).read([0, 1, 2])
    assert (found.images.shape, found.captions) == ((3, 8, 8, 3), ((), (), ()))


def test_images_of_two_sizes_are_one_line_unless_they_are_resized(tmp_path):
    folder = write_images(tmp_path / "sizes", 3, seed=1)
    write_png(folder / "0001.png", np.zeros((8, 12, 3), np.uint8))
    with pytest.raises(UserError, match=r"expected images of one size, got 8x8 and 12x8 \(0001.png\); give a size"):
        list(stream(folder_set(folder), 10))
    with pytest.raises(UserError, match=r"expected images of one size, got 8x8 and 12x8 \(number 1\)"):
        list(stream(folder_set(folder), 1))
    assert next(stream(folder_set(folder, size=4), 10)).images.shape == (3, 4, 4, 3)


def test_a_broken_image_is_left_out_and_a_broken_folder_is_one_line(tmp_path):
    folder = write_images(tmp_path / "broken", 20, seed=1)
    (folder / "0004.png").write_bytes((folder / "0004.png").read_bytes()[:60])
    images = folder_set(folder)
    assert sum(len(one.numbers) for one in stream(images, 7)) == 19
    assert [one.key for one in images.unreadable()] == ["0004.png"]
    for number in range(3):
        (folder / f"{number:04}.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"expected images of which at least 90% can be read, got 4 of 20 that cannot"):
        list(stream(folder_set(folder), 7))


def test_the_fingerprint_changes_with_the_size_and_the_content_and_not_with_the_place(folder, tmp_path):
    copy = write_images(tmp_path / "copy", 23, seed=0)
    first = folder_set(folder).fingerprint()
    assert folder_set(copy).fingerprint() == first != folder_set(folder, 4).fingerprint()
    assert folder_set(copy).fingerprint(22) == folder_set(write_images(tmp_path / "less", 22, seed=0)).fingerprint()
    (copy / "0003.png").write_bytes((copy / "0004.png").read_bytes())
    assert folder_set(copy).fingerprint() != first


def test_codes_are_decoded_to_images():
    class Codes:
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return {"codes": np.full((2, 2), index), "captions": [f"number {index}"]}

        def fingerprint(self):
            return "codes"

    def decode(codes):
        return np.repeat(np.repeat(codes, 2, 1), 2, 2).astype(np.uint8)[..., None].repeat(3, -1)

    images = DecodedCodes("codes", Codes(), decode, "tokenizer 1")
    assert images.fingerprint() != DecodedCodes("codes", Codes(), decode, "tokenizer 2").fingerprint()
    found = list(stream(images, 3))
    assert [one.images[:, 0, 0, 0].tolist() for one in found] == [[0, 1, 2], [3]]
    assert found[1].captions == (("number 3",),)
