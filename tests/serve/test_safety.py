"""The example of a safety filter."""

import numpy as np
import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.serve.safety import ConceptFilter, SafetyFilter, Unsafe, read_concepts


class Ranker:
    """A CLIP whose vectors are given: texts (1, 0), images by their brightness."""

    def text_vectors(self, texts):
        return np.array([[1.0, 0.0]] * len(texts))

    def image_vectors(self, images):
        share = np.asarray(images).mean() / 255
        return np.array([[share, np.sqrt(1 - share**2)]])


def test_a_prompt_that_names_a_concept_is_refused_in_any_case_and_spacing():
    checked = ConceptFilter(["red square"])
    assert isinstance(checked, SafetyFilter)
    checked.check_prompt("a red circle and a square")
    with pytest.raises(Unsafe):
        checked.check_prompt("one RED\n square")


def test_an_image_that_is_similar_to_a_concept_is_refused():
    checked = ConceptFilter(["white"], Ranker(), 0.5)
    checked.check_image(np.full((2, 2, 3), 100, np.uint8))
    with pytest.raises(Unsafe):
        checked.check_image(np.full((2, 2, 3), 200, np.uint8))


def test_concepts_are_lines_of_a_file(tmp_path):
    file = tmp_path / "concepts"
    file.write_text("# comment\n\n a thing \n")
    assert read_concepts(file) == ["a thing"]
    file.write_text("# none")
    with pytest.raises(UserError, match="expected a concept per line"):
        read_concepts(file)
