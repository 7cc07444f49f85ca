"""Each detector with metrics that trigger it and with metrics that do not."""

import pytest

from dalle_jax.train.monitor.detectors import HISTORY, Alerts, detectors


def said(readings, first=1000):
    """Return the warnings of all detectors for successive metrics."""
    watch = Alerts(3, detectors())
    return [line for index, values in enumerate(readings) for line in watch.warnings(first + index, values)]


def falling(scores):
    nats = (3.0, 2.9, 2.8, 2.7, 2.6)
    return [{"evaluation/image_nll": nll, "evaluation/clip_score": s} for nll, s in zip(nats, scores, strict=True)]


def rewarded(value, worse, reward="train/reward", loss="evaluation/image_nll"):
    first = [{loss: 0.1}, {reward: 1.0}]
    return [*first, {reward: value}, {loss: worse}]


def with_suites(distances, losses=(3.0, 2.9, 2.8, 2.7)):
    """Return evaluations, each followed by the figures of a suite."""
    name, steady = "suites/images/first/efficientnet-lite0/fd", {"suites/images/first/clip-2/kid": 0.1}
    return [
        values
        for loss, fd in zip(losses, distances, strict=True)
        for values in ({"evaluation/image_nll": loss}, {"train/loss": 9.0}, {name: fd, **steady})
    ]


NORM, USUAL = "train/gradient_norm/predict", [1.0, 1.3, 0.8, 1.1, 0.9, 1.2, 1.0, 1.1]

CASES = {
    "CODEBOOK COLLAPSE: only 1.0% of the codes": ([{"train/codebook/usage": 0.01}], [{"train/codebook/usage": 0.5}]),
    "ONE-COLOUR SAMPLES: 50% of the sample images": ([{"images/one_colour": 0.5}], [{"images/one_colour": 0.25}]),
    "GUIDANCE WITHOUT EFFECT: a caption changes the logits of the codes by 0.002 nats": (
        [{"evaluation/guidance_effect": 0.002}],
        [{"evaluation/guidance_effect": 0.2}],
    ),
    "STUCK AT UNIFORM: the nats per code is 99.9%": (
        [{"train/image_nll_of_uniform": 0.999}],
        [{"train/image_nll_of_uniform": 0.97}],
    ),
    "STUCK AT UNIFORM: the contrastive loss is 100.0%": (
        [{"train/loss_of_uniform": 1.0}],
        [{"train/loss_of_uniform": 0.9}],
    ),
    "DATA STARVATION: 45% of the time": ([{"host/wait_share": 0.45}], [{"host/wait_share": 0.05}]),
    "GRADIENT NORM EXPLODING: train/gradient_norm/predict is 40; its median was 1.05": (
        [{NORM: norm} for norm in [*USUAL, 40.0]],
        [{NORM: norm} for norm in [*USUAL, 8.0, 9.0]],
    ),
    "THE LOSS FALLS AND SO DOES THE CLIP SCORE: nats per code went from 3 to 2.7": (
        falling((0.30, 0.29, 0.28, 0.27, 0.26)),
        falling((0.30, 0.31, 0.29, 0.30, 0.32)),
    ),
    "REWARD HACKING?: the reward rose from 1 to 1.5 while nats per code of held-out images went from 0.1 to 0.2": (
        rewarded(1.5, 0.2),
        rewarded(1.5, 0.14),
    ),
    "REWARD HACKING?: the reward rose from 1 to 1.5 while the error of x0 of held-out images went from 0.1 to 0.2": (
        rewarded(1.5, 0.2, loss="evaluation/mse_text"),
        rewarded(1.5, 0.14, loss="evaluation/mse_text"),
    ),
    "PREFERENCES COST LIKELIHOOD: pairs are told apart by 1.5 nats, 1 before": (
        rewarded(1.5, 0.2, reward="train/preference_margin"),
        rewarded(1.5, 0.14, reward="train/preference_margin"),
    ),
    "GROUPS ALL ALIKE: only 5% of the prompts": ([{"train/live_groups": 0.05}], [{"train/live_groups": 0.5}]),
    "ENTROPY GONE: the model has 10% of the entropy": ([{"train/entropy_kept": 0.1}], [{"train/entropy_kept": 0.9}]),
    "KL INFINITE: at 1.0% of the codes": ([{"train/kl_infinite": 0.01}], [{"train/kl_infinite": 0.0}]),
    "SLOW REWARD: judging takes 2.5 times as long": (
        [{"speed/judging_per_rollout": 2.5}],
        [{"speed/judging_per_rollout": 0.2}],
    ),
    "THE LOSS FALLS WHILE suites/images/first/efficientnet-lite0/fd RISES: the loss went from 3 to 2.8": (
        with_suites((50.0, 52.0, 60.0, 61.0)),
        with_suites((50.0, 52.0, 48.0, 51.0)),
    ),
}
assert len(USUAL) == HISTORY


@pytest.mark.parametrize("message", CASES)
def test_each_detector_warns_once_of_bad_metrics_and_never_of_good_ones(message):
    bad, good = CASES[message]
    lines = said([*bad, bad[-1]])
    assert len(lines) == 1 and message in lines[0] and lines[0].startswith("WARNING step 10")
    assert said([*good, good[-1]]) == []


def test_a_gradient_norm_is_compared_with_its_own_history_only():
    bad, _ = CASES["GRADIENT NORM EXPLODING: train/gradient_norm/predict is 40; its median was 1.05"]
    assert said([{NORM: 1.0, "train/gradient_norm/other": 40.0} for _ in range(20)]) == []
    assert said(bad[1:]) == [], "too short a history"


def test_the_norm_of_a_late_objective_is_compared_from_its_start_on():
    late, begins = "train/gradient_norm/discriminator", [0.0] * 2 * HISTORY + USUAL
    assert said([{NORM: 1.0, late: norm} for norm in begins]) == []
    (line,) = said([{NORM: 1.0, late: norm} for norm in [*begins, 40.0]])
    assert "train/gradient_norm/discriminator is 40; its median was 1.05" in line


def test_a_falling_loss_without_a_clip_score_raises_no_warning():
    assert said([{"evaluation/image_nll": nll} for nll in (3.0, 2.5, 2.0, 1.5, 1.0)]) == []


def test_a_distance_that_rises_with_the_loss_raises_no_warning():
    assert said(with_suites((50.0, 55.0, 60.0, 70.0), losses=(3.0, 3.0, 3.1, 3.2))) == []


@pytest.mark.parametrize(
    "values",
    [{"train/codebook/usage": 0.0}, {"evaluation/guidance_effect": 0.0}, {"train/image_nll_of_uniform": 1.0}],
)
def test_usual_metrics_of_the_first_steps_raise_no_warning(values):
    assert said([values], first=100) == []
    assert len(said([values], first=1000)) == 1


def test_slow_learning_raises_no_warning_during_the_warm_up():
    watch = Alerts(3, detectors(warmup=5000))
    assert watch.warnings(4000, {"train/image_nll_of_uniform": 1.0}) == []
    assert len(watch.warnings(5400, {"train/image_nll_of_uniform": 1.0})) == 1
