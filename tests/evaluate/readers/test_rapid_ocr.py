"""RapidOCR as a reader: by a package that stands in for it, and live where it is installed."""

import importlib.util

import numpy as np
import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.readers.rapid_ocr import RapidOcr
from dalle_jax.scenes.grammar import sample_scene
from dalle_jax.scenes.rendering import render

FAKE = """
class RapidOCR:
    def __init__(self, params):
        assert params["Global.log_level"] == "critical"

    def __call__(self, image, use_det, use_cls, use_rec):
        assert image.shape[2] == 3 and use_rec and not use_det
        self.txts = TEXTS
        return self
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    def write(name, texts, models=("a_det_small.onnx", "a_cls_m.onnx", "a_rec_small.onnx")):
        (tmp_path / name / "models").mkdir(parents=True)
        for one in models:
            (tmp_path / name / "models" / one).touch()
        (tmp_path / name / "__init__.py").write_text(f"TEXTS = {texts!r}\n{FAKE}")
        monkeypatch.syspath_prepend(tmp_path)
        return RapidOcr(name)

    return write


@pytest.mark.parametrize(
    ("texts", "word"), [(("ca\uff34",), "CAT"), (("L0", "0 "), "LOO"), (None, ""), (("\u4e00!",), "")]
)
def test_a_word_is_capitals_alone(package, texts, word):
    reader = package(f"fake_ocr_{word}_{texts is None}", texts)
    assert reader.read([np.zeros((16, 16, 3), np.uint8)]) == [word]


def test_without_the_package_or_its_models_there_is_one_line(package):
    with pytest.raises(UserError, match=r"no_such_package: expected the package to be installed .*leave it out"):
        RapidOcr("no_such_package").name  # noqa: B018
    with pytest.raises(UserError, match=r"expected models inside the package, .* found none for rec; nothing is downl"):
        package("fake_ocr_models", (), models=("a_det_.onnx", "a_cls_.onnx")).read([np.zeros((8, 8, 3), np.uint8)])


@pytest.mark.skipif(importlib.util.find_spec("rapidocr") is None, reason="needs the package rapidocr")
def test_it_reads_at_least_90_percent_of_clean_signs_of_128_pixels():
    rng = np.random.default_rng(3)
    scenes = [sample_scene(6, rng, "train") for _ in range(20)]
    read = RapidOcr().read([render(scene, 128, rng) for scene in scenes])
    assert np.mean([one == scene.word for one, scene in zip(read, scenes, strict=True)]) >= 0.9
