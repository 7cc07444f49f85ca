import numpy as np
import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.metrics.zero_shot import accuracies, class_vectors, wordings


def test_every_class_is_said_in_every_template():
    assert wordings(["cat", "dog"], ["a {}.", "no {} here"]) == [["a cat.", "no cat here"], ["a dog.", "no dog here"]]
    for templates in (["a photo"], ["{} {}"], []):
        with pytest.raises(UserError, match="templates: expected texts such as"):
            wordings(["cat"], templates)


def test_the_vector_of_a_class_is_the_unit_mean_of_its_captions():
    known = {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [0.6, 0.8]}
    got = class_vectors(lambda captions: np.array([known[one] for one in captions]), [["a", "b"], ["c"]])
    np.testing.assert_allclose(got, [[0.5**0.5, 0.5**0.5], [0.6, 0.8]], rtol=1e-6)
    with pytest.raises(ValueError, match="a caption"):
        class_vectors(lambda captions: np.zeros((len(captions), 2)), [["a"], []])


def test_a_picture_is_right_where_its_class_is_among_the_nearest():
    classes = np.eye(6, dtype=np.float32)
    image = np.array([[0.9, 0.5, 0, 0, 0, 0], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]], np.float32)
    found = accuracies(image, classes, np.array([1, 0]))
    assert (found[1].right, found[5].right) == (0, 1)
    assert set(accuracies(image, classes[:3], np.array([1, 0]))) == {1}


def test_an_ensemble_finds_a_class_that_its_first_caption_misses():
    known = {"odd": [0.0, 1.0], "usual": [1.0, 0.1], "other": [0.7, 0.7]}

    def encode(captions):
        vectors = np.array([known[one] for one in captions])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    image, label = np.array([[1.0, 0.55]]) / np.hypot(1, 0.55), np.array([0])
    one = class_vectors(encode, [["odd"], ["other"]])
    several = class_vectors(encode, [["odd", "usual", "usual"], ["other"]])
    assert accuracies(image, one, label)[1].right == 0
    assert accuracies(image, several, label)[1].right == 1
