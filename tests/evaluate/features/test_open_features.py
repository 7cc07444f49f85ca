import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.features.open_features import KINDS, open_features, parse_features


def test_a_specification_is_a_kind_and_a_source():
    kind, source = parse_features("clip:gs://bucket/clip")
    assert (kind.name, source) == ("clip", "gs://bucket/clip")
    kind, source = parse_features("efficientnet-lite0")
    assert (kind.name, source) == ("efficientnet-lite0", None)


@pytest.mark.parametrize(
    ("specification", "message"),
    [
        ("eficientnet-lite0", "expected one of efficientnet-lite0, .*got 'eficientnet-lite0'; did you mean efficient"),
        ("", "expected one of .*; got ''"),
        ("clip", "features: expected clip:DIR, got 'clip'"),
        ("clip:", "features: expected clip:DIR, got 'clip:'"),
        ("own-clip:runs/clip", "features: expected own-clip, got 'own-clip:runs/clip'"),
        ("own-clip", "features: expected a model with a CLIP for own-clip, got one without"),
        ("clip:no/such", "features clip:no/such: expected a file or folder, got a path that does not exist"),
    ],
)
def test_a_bad_specification_is_one_line(specification, message):
    with pytest.raises(UserError, match=message) as caught:
        open_features(specification)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [one.name for one in KINDS if one.takes != "none"])
def test_a_file_of_other_content_is_one_line(tmp_path, kind):
    file = tmp_path / "weights.pth"
    file.write_bytes(b"not weights")
    with pytest.raises(UserError) as caught:
        open_features(f"{kind}:{file}")
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_without_a_model_is_one_line(tmp_path):
    with pytest.raises(UserError, match=str(tmp_path)):
        open_features(f"clip:{tmp_path}")
