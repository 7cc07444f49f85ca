import subprocess
import sys

import numpy as np
import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.data.examples.images import Images
from dalle_jax.data.records import BadRecord, Records
from dalle_jax.data.sources import tfds_scenes
from dalle_jax.data.sources.scenes import Scenes
from dalle_jax.data.sources.tfds import Tfds
from dalle_jax.images.png import encode_png
from tests.architecture.source_tree import ROOT

tfds = pytest.importorskip("tensorflow_datasets", reason="needs tensorflow-datasets: pip install -e '.[tfds]'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of 17 scenes, prepared in array_record format."""
    top = tmp_path_factory.mktemp("tfds")
    builder = tfds_scenes.register()
    config = builder.CONFIG(name="few", size=16, levels=(1,), counts={"train": 12, "validation": 5})
    made = builder(config=config, data_dir=str(top), file_format="array_record")
    made.download_and_prepare()
    return made.data_dir


def test_the_prepared_scenes_equal_the_rendered_scenes(folder):
    found = Tfds(name=folder, split="train").open()
    drawn = Scenes(size=16, levels=(1,), count=12, seed=0, split="train").open()
    expected = {one["key"]: one for one in (drawn[i] for i in range(12))}
    assert isinstance(found, Records)
    assert len(found) == 12
    seen = Images(size=16, crop="centre").source_of(found)
    for index in range(12):
        record = found[index]
        scene = expected.pop(record.metadata["key"])
        assert record.captions == tuple(dict.fromkeys(scene["captions"]))
        np.testing.assert_array_equal(seen[index]["image"], scene["image"])
        assert record.key == f"dalle_jax_scenes/few/1.0.0/train:{index}"
    assert not expected
    assert len(Tfds(name=folder, split="validation").open()) == 5
    assert len(Tfds(name=folder, split="train[:25%]").open()) == 3


def test_tensorflow_is_not_imported(folder):
    code = f"""
import sys
from dalle_jax.data.sources.tfds import Tfds
from tests.data.damaged import fault
assert len(Tfds(name={folder!r}, split="train").open()[3].image) > 50
assert "tensorflow" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_named_data_set_is_prepared_on_request(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_scenes, "COUNTS", {"train": 2})
    fields = {"name": "dalle_jax_scenes/32", "split": "train", "data_dir": str(tmp_path)}
    with pytest.raises(UserError, match="set prepare = True"):
        Tfds(**fields).open()
    monkeypatch.setattr(tfds_scenes.register().BUILDER_CONFIGS[0], "counts", {"train": 2})
    assert len(Tfds(**fields, prepare=True).open()) == 2
    assert len(Tfds(**fields).open()) == 2


def test_bad_rows_are_reported_and_nested_captions_and_classes_are_read(tmp_path):
    class Odd(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("2.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                "said": tfds.features.Sequence({"text": tfds.features.Text(), "by": np.int64}),
                "label": tfds.features.ClassLabel(num_classes=7),
                "mask": tfds.features.Tensor(shape=(2, 2), dtype=np.uint8),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            image = encode_png(np.zeros((4, 4, 3), np.uint8))
            rows = {"a": (image, ["one", " "]), "b": (b"", ["two"]), "c": (image, []), "d": (image, [b"\xff"])}
            for key, (image, texts) in rows.items():
                said = {"text": texts, "by": [3] * len(texts)}
                yield key, {"image": image, "said": said, "label": 5, "mask": np.ones((2, 2), np.uint8)}

    made = Odd(data_dir=str(tmp_path), file_format="array_record")
    made.download_and_prepare()
    found = Tfds(name=made.data_dir, split="train", caption=("said/text",)).open()
    kinds = {}
    for index in range(4):
        try:
            good = found[index]
        except BadRecord as error:
            kinds[error.kind] = error.key
    assert kinds.keys() == {"no image", "no caption", "caption not utf-8"}
    assert (good.captions, good.metadata) == (("one",), {"label": 5})
    with pytest.raises(UserError, match="expected the features words, got image, label, mask, said"):
        Tfds(name=made.data_dir, split="train", caption=("words",)).open()
    with pytest.raises(UserError, match="cannot read the split 'test' of train"):
        Tfds(name=made.data_dir, split="test", caption=("said/text",)).open()


def test_unknown_names_urls_and_wrong_fields_are_errors(tmp_path):
    with pytest.raises(UserError, match="expected the name of a data set of tensorflow_datasets, or a folder"):
        Tfds(name="no_such_data_set_of_ours", split="train").open()
    with pytest.raises(UserError, match="copy the data to this machine"):
        Tfds(name="gs://bucket/x", split="train").open()
    with pytest.raises(UserError, match="max_bytes"):
        Tfds(name="x", split="train", max_bytes=0).open()


def test_without_the_package_the_error_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match=r"-e '\.\[tfds\]'"):
        Tfds(name="x", split="train").open()


def test_the_fingerprint_depends_on_data_and_split(folder):
    prints = [Tfds(name=folder, split=split).open().fingerprint() for split in ("train", "train", "validation")]
    assert prints[0] == prints[1] != prints[2]
