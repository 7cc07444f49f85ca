from dalle_jax.evaluate.metrics.scene_reader import check_reader


def test_the_reader_accepts_true_captions_of_clean_scenes_and_no_others():
    clean, blurred = check_reader((1, 2), size=32, count=10, seed=0)
    assert (clean.name, blurred.name) == ("clean", "blurred")
    assert clean.true_accepted.count == blurred.wrong_accepted.count == 20
    assert clean.true_accepted.right >= 19
    assert clean.other_accepted.right == 0
