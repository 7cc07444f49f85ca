import pytest

from dalle_jax.scenes.reader_accuracy import blur_and_noise, measure_reader
from dalle_jax.scenes.second_reader import judge_again, perceive_again
from tests.scenes.test_judge import draw_objects


@pytest.mark.parametrize(("level", "size"), [(1, 32), (2, 32), (3, 64), (4, 64), (5, 64)])
def test_the_second_reader_is_right_on_clean_and_on_degraded_images(level, size):
    for degrade in (None, blur_and_noise):
        rates = measure_reader(level, size, count=40, seed=13, degrade=degrade, read=perceive_again)
        assert rates.accepted_true >= 0.97
        assert rates.accepted_near == rates.accepted_random == 0.0


def test_it_rejects_a_blend_of_shapes_and_an_object_of_three_colours():
    blend = draw_objects(("red", "triangle", 0.4, 0.35, 0.5), ("red", "square", 0.7, 0.65, 0.4))
    three = draw_objects(
        *((colour, "square", x, 0.5, 0.31) for colour, x in (("red", 0.2), ("blue", 0.5), ("green", 0.8)))
    )
    wrong = {part.name: part.found for part in judge_again(blend, "a big red triangle").parts if not part.right}
    assert wrong == {"shape": "unknown"}
    wrong = {part.name: part.found for part in judge_again(three, "a big red square").parts if not part.right}
    assert wrong == {"colour": "unknown", "shape": "unknown"}
