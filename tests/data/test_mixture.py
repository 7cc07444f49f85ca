from collections import Counter

import pytest
from test_loader import Numbers, keys

from dalle_jax.config.bind import loads
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.data.loader import Loader
from dalle_jax.data.mixture import Interleaving, MixedSources, Mixture, MixturePart
from dalle_jax.data.sources.scenes import Scenes

SCENES = Scenes(size=32, levels=(1,), count=4, seed=0, split="train")


class Named(Numbers):
    """A source whose keys name it."""

    def __getitem__(self, index):
        return {**super().__getitem__(index), "key": f"{self.name}/{index}"}


@pytest.mark.parametrize("weights", [(0.95, 0.05), (1.0, 2.0, 3.0), (0.7, 0.1, 0.1, 0.1), (5.0, 1.0, 1.0)])
def test_every_period_has_each_source_in_exact_proportion_to_its_weight_and_evenly_spread(weights):
    interleaving = Interleaving(weights)
    period = sum(interleaving.turns)
    places = [interleaving.at(position) for position in range(3 * period)]
    for first in range(0, 3 * period, period):
        counts = Counter(part for part, _ in places[first : first + period])
        assert [counts[part] / period for part in range(len(weights))] == pytest.approx(
            [weight / sum(weights) for weight in weights]
        )
    for part, weight in enumerate(weights):
        seen = [place for which, place in places if which == part]
        assert seen == list(range(len(seen)))
        for position in range(period):
            before = sum(which == part for which, _ in places[:position])
            assert abs(before - position * weight / sum(weights)) < len(weights)


def test_each_source_of_a_mixture_has_its_own_epochs():
    mixed = MixedSources([Named(6, "a"), Named(4, "b")], (3.0, 1.0))
    order = keys(Loader(mixed, None, 5, seed=1), range(16))
    for name, count, times in (("a", 6, 10), ("b", 4, 5)):
        own = [key for key in order if key.startswith(name)]
        assert len(own) == count * times
        for epoch in range(times):
            assert sorted(own[epoch * count : (epoch + 1) * count]) == [f"{name}/{index}" for index in range(count)]


def test_any_step_and_any_rows_of_a_mixture_can_be_read():
    loader = Loader(MixedSources([Named(6, "a"), Named(4, "b")], (3.0, 1.0)), None, 8, seed=1)
    whole = [loader.batch(step) for step in range(9)]
    again = Loader(MixedSources([Named(6, "a"), Named(4, "b")], (3.0, 1.0)), None, 8, seed=1)
    for step in (8, 2):
        rows = [again.batch(step, rows) for rows in ([0, 1, 2, 3], [4, 5, 6, 7])]
        for name in ("key", "caption", "caption_group"):
            assert rows[0][name] + rows[1][name] == whole[step][name]


def test_a_single_source_is_shuffled_like_the_first_of_a_mixture():
    alone = keys(Loader(Named(6, "a"), None, 6, seed=1), range(3))
    mixed = keys(Loader(MixedSources([Named(6, "a"), Named(4, "b")], (1.0, 1.0)), None, 6, seed=1), range(6))
    assert [key for key in mixed if key.startswith("a")] == alone


def test_the_fingerprint_changes_with_the_sources_their_order_and_the_weights():
    a, b = Named(6, "a"), Named(4, "b")
    mixtures = [([a, b], (1.0, 1.0)), ([b, a], (1.0, 1.0)), ([a, b], (1.0, 2.0)), ([a, Named(5, "b")], (1.0, 1.0))]
    assert len({MixedSources(*one).fingerprint() for one in mixtures}) == 4
    assert MixedSources([a, b], (1.0, 1.0)).fingerprint() == MixedSources([a, b], (0.5, 0.5)).fingerprint()


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ((1.0, 0.0), "weight: expected a positive"),
        ((0.333333333, 0.1), "whose order of sources repeats"),
        ((), "at least one"),
    ],
)
def test_invalid_weights_are_a_value_error(weights, said):
    with pytest.raises(ValueError, match=said):
        Mixture({f"part_{index}": MixturePart(SCENES, weight) for index, weight in enumerate(weights)})


def test_parts_are_named_in_a_config_and_an_including_config_can_remove_one():
    scenes = "".join(f"{name} = {value!r}\n" for name, value in vars(SCENES).items() if name != "weights")
    text = "run = @Mixture\n"
    for name, weight in (("large", 3.0), ("small", 1.0), ("rare", 0.5)):
        text += f"parts.{name}.weight = {weight}\nparts.{name}.source = @Scenes\n"
        text += "".join(f"parts.{name}.source.{line}\n" for line in scenes.splitlines())
    mixture: Mixture = loads(text, Mixture, sets=["parts.small=None", "parts.rare.weight=1"])
    assert mixture == Mixture({"large": MixturePart(SCENES, 3.0), "rare": MixturePart(SCENES, 1.0)})
    assert mixture.weights == (3.0, 1.0)
    assert loads(render(mixture), Mixture) == mixture


def test_the_numbered_sources_of_old_configs_are_reported_with_their_present_names():
    with pytest.raises(UserError) as caught:
        loads("weights = (1.0, 2.0)\nfirst = @Scenes\nfirst.size = 32\n", Mixture, "x.gin")
    assert str(caught.value).splitlines() == [
        "x.gin:1: weights is now parts.NAME.weight; give each part a weight of its own",
        "x.gin:2: first is now parts.NAME.source",
        "x.gin:3: first.size is now parts.NAME.source.size",
    ]


def test_an_empty_source_of_a_mixture_is_an_error():
    with pytest.raises(UserError, match="none in source 2"):
        MixedSources([Named(1, "a"), Named(0, "b")], (1.0, 1.0))
