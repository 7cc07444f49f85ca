import numpy as np

from dalle_jax.evaluate.metrics.atoms import atom_table, atoms_of
from dalle_jax.evaluate.metrics.shares import Share
from dalle_jax.scenes.grammar import parse
from dalle_jax.scenes.judge import judge
from dalle_jax.scenes.rendering import render

ATOMS = {
    "a big red circle": {"colour", "shape", "size"},
    "a red circle above a green square": {"colour 1", "shape 1", "colour 2", "shape 2", "relation"},
    "three pink rings": {"colour", "shape", "count"},
    "a red circle on a blue background": {"colour", "shape", "background"},
    'a red sign that says "CAT"': {"colour", "word"},
}


def judged(caption: str, drawn: str):
    return judge(render(parse(drawn), 32, np.random.default_rng(0)), caption)


def test_the_atoms_of_a_caption_are_the_claims_that_it_makes_in_words():
    for caption, names in ATOMS.items():
        assert {part.name for part in atoms_of(judged(caption, caption))} == names


def test_a_caption_is_right_only_if_all_its_atoms_are():
    table = atom_table(
        [
            judged("a big red circle", "a big red circle"),
            judged("a big red circle", "a big blue circle"),
            judged("a small red ring", "a big blue circle"),
        ]
    )
    assert table.kinds == {"colour": Share(1, 3), "shape": Share(2, 3), "size": Share(2, 3)}
    assert (table.counts[3].captions, table.counts[3].atoms) == (Share(1, 3), Share(5, 9))


def test_captions_are_grouped_by_the_share_of_their_held_out_combinations():
    seen, held_out, half = "a big red circle", "a big red heart", "three red hearts"
    table = atom_table([judged(caption, caption) for caption in (seen, held_out, half)])
    assert table.held_out == {0.0: Share(1, 1), 0.5: Share(1, 1), 1.0: Share(1, 1)}
