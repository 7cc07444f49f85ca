import numpy as np
import pytest

from dalle_jax.config.bind import loads
from dalle_jax.config.errors import UserError
from dalle_jax.rewards.read_scenes import ReadScenes
from dalle_jax.rewards.read_signs import ReadSigns
from dalle_jax.rewards.reward import FunctionReward, SampledGroups, open_reward
from dalle_jax.rewards.reward_mixture import RewardMixture
from dalle_jax.rewards.score_with_clip import ClipReward, ScoreWithClip
from dalle_jax.rewards.spread_codes import SpreadCodes, code_spread
from dalle_jax.runs import TrainRun
from dalle_jax.scenes.grammar import parse
from dalle_jax.scenes.rendering import render

RIGHT, OTHER = "a red circle above a blue square", "a green cross above a blue square"
CODES = np.array([[[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 0, 0]]])


def groups(prompts=(RIGHT,), images=None):
    rng = np.random.default_rng(0)
    if images is None:
        images = np.stack([render(parse(one), 32, rng) for one in (RIGHT, OTHER, RIGHT)])[None]
    return SampledGroups(prompts, images, np.repeat(CODES, len(prompts), axis=0))


def test_the_reader_rewards_the_share_of_right_parts_and_images_that_are_right_as_a_whole():
    mixture = RewardMixture({"reader": ReadScenes(parts=2.0, whole=0.5).open()})
    parts = mixture.parts(groups())
    np.testing.assert_allclose(parts["reader/whole"], [[1.0, 0.0, 1.0]])
    np.testing.assert_allclose(parts["reader/parts"], [[1.0, 5 / 7, 1.0]])  # neither colour nor shape of the first
    np.testing.assert_allclose(mixture.total(parts), [[2.5, 10 / 7, 2.5]])


def test_a_prompt_outside_the_grammar_is_an_error():
    with pytest.raises(UserError, match="expected a caption in the grammar"):
        ReadScenes().open()(groups(("a cat",)))


def test_a_sign_is_rewarded_by_its_letters_and_as_a_whole():
    words = ("BUS", "BAS", "NO")
    drawn = [render(parse(f'a red sign that says "{word}"'), 64, np.random.default_rng(0)) for word in words]
    prompts = ('a red sign that says "BUS"', "the word “no” on it")
    parts = RewardMixture({"sign": ReadSigns().open()}).parts(groups(prompts, np.stack([drawn, drawn])))
    np.testing.assert_allclose(parts["sign/letters"], [[1.0, 2 / 3, 0.0], [0.0, 0.0, 1.0]], atol=1e-6)
    np.testing.assert_allclose(parts["sign/whole"], [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    with pytest.raises(UserError, match=r"expected a prompt with a word in quotes, .* got 'a red sign'"):
        ReadSigns().open()(groups(("a red sign",)))


def test_the_spread_of_codes_is_the_share_that_differs_from_the_others_of_the_group():
    np.testing.assert_allclose(code_spread(CODES), [[0.25, 0.25, 0.5]])
    np.testing.assert_allclose(SpreadCodes().open()(groups())[""], [[0.25, 0.25, 0.5]])


def test_several_clips_are_weighted_and_each_compares_an_image_with_its_own_prompt():
    class Ranker:
        def image_vectors(self, images):
            return np.eye(3)[: len(images)]

        def text_vectors(self, texts):
            assert list(texts) == [RIGHT]
            return np.array([[0.1, 0.2, 0.3]])

        def similarity(self, images, texts):
            raise NotImplementedError

    own = {name: ClipReward(ScoreWithClip("absent", weight), Ranker()) for name, weight in (("a", 1.0), ("b", 2.0))}
    mixture = RewardMixture(own)
    parts = mixture.parts(groups())
    assert set(parts) == {"a", "b"}
    np.testing.assert_allclose(mixture.total(parts), [[0.3, 0.6, 0.9]])


def test_a_function_gets_all_images_with_the_prompt_of_each():
    def brightness(images, prompts):
        assert images.shape == (3, 32, 32, 3) and prompts == [RIGHT] * 3
        return images.mean(axis=(1, 2, 3))

    found = FunctionReward(brightness).__call__(groups())[""]
    np.testing.assert_allclose(found, groups().images.mean(axis=(2, 3, 4)))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda images, prompts: [0.0, np.nan, np.inf],
            "reward own: expected finite values, got nan for 2 of",
        ),
        (lambda images, prompts: [0.0], r"reward own: expected one number for each of 3 images, got an array .* \[1\]"),
        (lambda images, prompts: None, "reward own: expected one number for each of 3 images, got None"),
        (lambda images, prompts: ["good", "bad", "good"], "reward own: expected real numbers, got 'good'"),
        (lambda images, prompts: [1j, 2j, 3j], "reward own: expected real numbers, got 1j"),
    ],
)
def test_a_reward_that_is_not_finite_or_of_another_shape_stops_with_one_line(function, message):
    with pytest.raises(UserError, match=message):
        RewardMixture({"own": open_reward("own", function)}).parts(groups())


def test_a_sum_of_rewards_whose_spread_would_overflow_stops_with_one_line():
    mixture = RewardMixture({"own": open_reward("own", lambda images, prompts: [0.0, 1.0, -1e200])})
    with pytest.raises(UserError, match=r"rewards own: expected a weighted sum of at most 1e\+30 in size, got 1e\+200"):
        mixture.total(mixture.parts(groups()))


@pytest.mark.parametrize(("given", "message"), [(3, "got 3"), (ReadScenes(), r"got ReadScenes\(.*open it first")])
def test_something_else_than_a_function_is_no_reward(given, message):
    with pytest.raises(UserError, match="reward own: expected a function of images and prompts, " + message):
        open_reward("own", given)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "'my_module:reward'",
            r"task\.rewards\.own: expected @ReadScenes or @ReadSigns or @ScoreWithClip or @SpreadCodes",
        ),
        ("@my_module.reward", "@my_module.reward: expected one word after @"),
    ],
)
def test_a_config_names_no_python_function(value, message):
    with pytest.raises(UserError, match=message):
        loads(f"task = @Reinforce\ntask.rewards.own = {value}\n", TrainRun)
