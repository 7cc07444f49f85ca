"""The measuring stick measured: how often the reader of scenes is right about captions that are known true or false."""

from collections.abc import Sequence

from dalle_jax.evaluate.report_data import ReaderCheck
from dalle_jax.evaluate.shares import Share
from dalle_jax.scenes.reader_accuracy import Degradation, blur_and_noise, measure_reader

CLEAN, BLURRED = "clean", "blurred"


def check_reader(levels: Sequence[int], size: int, count: int, seed: int) -> tuple[ReaderCheck, ReaderCheck]:
    """``count`` pictures of each level, as they are drawn and then blurred and noised like a tokenizer's copies."""
    clean = check_reader_on(CLEAN, "As drawn", levels, size, count, seed)
    blurred = "Blurred and noised like the tokenizer’s copies"
    return clean, check_reader_on(BLURRED, blurred, levels, size, count, seed, blur_and_noise)


def check_reader_on(
    name: str, title: str, levels: Sequence[int], size: int, count: int, seed: int, degrade: Degradation | None = None
) -> ReaderCheck:
    """One kind of picture; ``degrade`` makes it (a tokenizer's reconstruction, say)."""
    rates = [measure_reader(level, size, count, seed, degrade) for level in levels]
    total = sum(rate.count for rate in rates)
    return ReaderCheck(
        name=name,
        title=title,
        true_accepted=Share(sum(round(rate.accepted_true * rate.count) for rate in rates), total),
        wrong_accepted=Share(sum(round(rate.accepted_near * rate.count) for rate in rates), total),
        other_accepted=Share(sum(round(rate.accepted_random * rate.count) for rate in rates), total),
    )
