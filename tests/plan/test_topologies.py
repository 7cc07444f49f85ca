"""Topologies, the roofline and the messages of ``plan``, without a compiler."""

import argparse
import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from dalle_jax.commands import plan as command
from dalle_jax.config.errors import UserError
from dalle_jax.models.dalle import DalleConfig
from dalle_jax.models.priors.mlp_prior import MlpPriorConfig
from dalle_jax.parallel.chips import chip_named
from dalle_jax.plan.roofline import roofline
from dalle_jax.plan.topologies import SLICES, Topology, parse
from dalle_jax.tasks.caption_tokens import Captions
from dalle_jax.tasks.denoise_images import DenoiseImages
from dalle_jax.tasks.generate_codes import GenerateCodes
from dalle_jax.tasks.predict_embeddings import PredictEmbeddings
from tests.small_denoisers import decoder_config

CODES = DalleConfig(text_vocab=20, text_length=6, codebook_size=16, grid=(2, 2), width=16, depth=1, heads=2)


def test_a_topology_is_parsed_into_family_and_shape():
    assert parse("v5p:8x8x8") == Topology("v5p", (8, 8, 8))
    assert parse("v5e:2x4", slices=3).chips == 24
    assert str(parse("v5e:2x4", slices=3)) == "3 slices of v5e:2x4"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("v5", "did you mean"),
        ("v5litepod-16", "expected one of v4, v5e, v5p, v6e, tpu7x"),
        ("v5e", "as 2 numbers, such as v5e:4x8, got ''"),
        ("v5e:2x2x2", "as 2 numbers"),
        ("v4:4x4", "as 3 numbers"),
        ("v4:0x4x4", "as 3 numbers"),
        ("v4:4x4x4 ", "as 3 numbers"),
    ],
)
def test_an_unknown_topology_is_an_error_with_an_example(text, says):
    with pytest.raises(UserError, match="--topology") as error:
        parse(text)
    assert says in str(error.value)


def test_a_number_of_slices_below_one_is_an_error():
    with pytest.raises(UserError, match="--slices: expected 1 or more, got 0"):
        parse("v5e:2x2", slices=0)


def test_every_family_has_a_chip_and_its_slices_are_in_order_of_size():
    for family, shapes in SLICES.items():
        chips = [Topology(family, shape).chips for shape in shapes]
        assert chips == sorted(set(chips)) and chip_named(family)
        assert [one.chips for one in Topology(family, shapes[0]).larger()] == chips[1:]


def test_without_libtpu_the_error_names_the_extra_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"expected the package libtpu.*-e '\.\[plan\]'"):
        parse("v5e:2x2").devices()


def test_the_roofline_divides_work_by_the_published_figures():
    line = roofline(chip_named("v5e"), devices=4, hardware_flops=4 * 197e12, peak=819 * 10**9, sent=100e9)
    assert (line.products, line.memory, line.collectives) == (1.0, 2.0, 0.5)
    assert (line.least, line.most, line.bound_by) == (2.0, 3.5, "memory")
    half = roofline(chip_named("tpu7x"), devices=2, hardware_flops=2307e12, peak=0, sent=0.0)
    assert half.products == 1.0  # a chip has two devices


def test_an_image_tokenizer_that_does_not_exist_yet_is_an_error_with_a_suggestion(tmp_path: Path):
    task = GenerateCodes(CODES, Captions("none"), image_tokenizer=str(tmp_path / "none"), image_size=8)
    with pytest.raises(UserError, match=r"expected a trained image tokenizer.*--set task\.image_size=None"):
        command.check_tokenizer(task)
    command.check_tokenizer(GenerateCodes(CODES, Captions("none")))


def test_a_text_tokenizer_that_does_not_exist_yet_is_listed_as_not_checked(tmp_path: Path):
    there = tmp_path / "text.model"
    there.write_bytes(b"")
    assert command.unchecked(GenerateCodes(CODES, Captions(str(there)))) == []
    (said,) = command.unchecked(GenerateCodes(CODES, Captions("not/there.model")))
    assert "not/there.model" in said


def test_a_clip_that_is_not_named_is_listed_as_left_out_if_the_step_embeds_with_one(tmp_path: Path):
    there = tmp_path / "text.model"
    there.write_bytes(b"")
    images = DenoiseImages(decoder_config(), Captions(str(there)))
    assert command.unchecked(images) == ["memory and FLOPs of the frozen CLIP, since task.clip is None"]
    assert command.unchecked(replace(images, clip="runs/clip")) == []
    assert command.unchecked(replace(images, blank_clips=1.0)) == []


def test_a_prior_on_images_without_a_clip_is_an_error():
    prior = PredictEmbeddings(MlpPriorConfig(embed_width=8, width=8, hidden=8, layers=1), Captions("none"), 4)
    prior.open_for_plan()
    with pytest.raises(UserError, match=r"task\.clip: expected the folder of a trained CLIP"):
        replace(prior, image_size=16).open_for_plan()


def test_the_command_takes_a_topology_and_repeated_set_flags():
    parser = argparse.ArgumentParser(exit_on_error=False)
    command.add_arguments(parser)
    args = parser.parse_args(["x.gin", "--topology", "v5e:2x2", "--set", "a=1", "--set", "b=2"])
    assert (args.topology, args.slices, args.set) == ("v5e:2x2", None, ["a=1", "b=2"])
