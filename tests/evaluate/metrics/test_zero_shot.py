import numpy as np
import pytest

from dalle_jax.evaluate.metrics.zero_shot import class_vectors


def test_the_vector_of_a_class_is_the_unit_mean_of_its_captions():
    known = {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [0.6, 0.8]}
    got = class_vectors(lambda captions: np.array([known[one] for one in captions]), [["a", "b"], ["c"]])
    np.testing.assert_allclose(got, [[0.5**0.5, 0.5**0.5], [0.6, 0.8]], rtol=1e-6)


def test_a_class_without_captions_is_refused():
    with pytest.raises(ValueError, match="expected at least one caption per class, got none for class 1"):
        class_vectors(lambda captions: np.zeros((len(captions), 2)), [["a"], []])


def test_an_ensemble_finds_a_class_that_its_first_caption_misses():
    known = {"odd": [0.0, 1.0], "usual": [1.0, 0.1], "other": [0.7, 0.7]}

    def encode(captions):
        vectors = np.array([known[one] for one in captions])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    image = np.array([1.0, 0.55]) / np.hypot(1, 0.55)
    one = class_vectors(encode, [["odd"], ["other"]])
    several = class_vectors(encode, [["odd", "usual", "usual"], ["other"]])
    assert (one @ image).argmax() == 1
    assert (several @ image).argmax() == 0
