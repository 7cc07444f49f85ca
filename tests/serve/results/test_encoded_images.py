"""Files of results: sizes, formats and origin."""

import hashlib
import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from dalle_jax.serve.results.encoded_images import FileOptions, encode, encode_gif, fit
from dalle_jax.serve.results.provenance import SOURCE_TYPE, Provenance, signed

ORIGIN = Provenance('a "model" <&>', "a red circle", 7, 3)
PIXELS = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def test_png_and_webp_at_full_quality_keep_every_pixel():
    for form in ("png", "webp"):
        image = opened(encode(PIXELS, FileOptions(form), ORIGIN))
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), PIXELS)


def test_a_png_has_the_origin_as_text_without_the_prompt():
    content = encode(PIXELS, FileOptions(), ORIGIN)
    info = opened(content).info
    assert (info["Model"], info["Seed"], info["Candidate"]) == ('a "model" <&>', "7", "3")
    assert info["PromptSHA256"] == hashlib.sha256(b"a red circle").hexdigest()
    assert b"red circle" not in content


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_the_xmp_packet_is_xml_with_the_property_of_iptc(form):
    packet = opened(encode(PIXELS, FileOptions(form), ORIGIN)).info["xmp"]
    tree = ElementTree.fromstring(packet.decode().split("?>", 1)[1].rsplit("<?", 1)[0])
    found = {key.rpartition("}")[2]: value for node in tree.iter() for key, value in node.attrib.items()}
    assert found["DigitalSourceType"] == SOURCE_TYPE
    assert (found["model"], found["seed"], found["prompt_sha256"]) == ('a "model" <&>', "7", ORIGIN.prompt_sha256)


def test_a_size_of_the_same_shape_scales_and_another_one_cuts_the_middle():
    assert fit(PIXELS, (16, 16)).shape == (16, 16, 3)
    wide = np.zeros((8, 8, 3), np.uint8)
    wide[3:5] = 255
    found = fit(wide, (16, 8))  # scaled to 16 x 16, rows 4 to 12 stay
    assert found.shape == (8, 16, 3)
    assert found[4].min() > 200
    assert fit(PIXELS, (8, 4)).tolist() == PIXELS[2:6].tolist()
    assert fit(PIXELS, None) is PIXELS


def test_a_lower_compression_level_makes_smaller_files():
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    for form in ("jpeg", "webp"):
        sizes = [len(encode(noise, FileOptions(form, level), ORIGIN)) for level in (10, 99)]
        assert sizes[0] < sizes[1]


def test_frames_of_a_gif_come_in_order_with_their_delay():
    frames = [np.full((4, 4, 3), value, np.uint8) for value in (0, 100, 200)]
    image = opened(encode_gif(frames, FileOptions("gif", duration=123), ORIGIN))
    values = []
    for number in range(image.n_frames):
        image.seek(number)
        values.append((np.asarray(image.convert("RGB"))[0, 0, 0], image.info["duration"]))
    assert values == [(0, 120), (100, 120), (200, 120)]


def test_the_signature_changes_the_lower_right_corner_alone():
    pixels = np.full((64, 64, 3), 77, np.uint8)
    changed = (signed(pixels) != pixels).any(axis=2)
    assert changed[-2:, -5:].any()
    changed[-2:, -5:] = False
    assert not changed.any()
