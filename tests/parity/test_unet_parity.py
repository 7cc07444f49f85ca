"""UNets in published layouts: Karlo's decoder and upsamplers, GLIDE and the UNet of the consistency decoder."""

import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
from fixtures import assert_close, fixture, glide_network, imported, run

from dalle_jax.models.glide import kept_pixels, low_resolution
from dalle_jax.models.unet import UNetContext
from dalle_jax.pretrained.exporters import find_exporter
from dalle_jax.pretrained.files.read_weights import read_tensors


def channels_last(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 2, 3, 1)


def expected(io: dict[str, np.ndarray], prefix: str) -> dict[int, np.ndarray]:
    """The outputs whose name is the prefix and a time, by time."""
    found = {re.fullmatch(rf"{prefix}(\d+)", name): value for name, value in io.items()}
    return {int(match[1]): channels_last(value) for match, value in found.items() if match}


def with_extra(unet, x, time):
    """Call a UNet whose recorded input holds the noised image, then the further channels."""
    noised, extra = jnp.split(x, [unet.config.channels], axis=-1)
    return unet(noised, time, extra=extra)


@pytest.mark.parametrize("masked", [True, False])
def test_karlos_decoder(masked):
    folder, io, tolerance = fixture("unclip_decoder")
    decoder, mask = imported("diffusers-unet", folder), io["context_mask"] if masked else None
    outputs = expected(io, "out_t" if masked else "out_nomask_t")
    assert outputs
    for time, wanted in outputs.items():
        got = run(
            lambda unet, x, t, vector, tokens: unet(x, t, vector=vector, context=UNetContext(tokens, mask)),
            decoder, channels_last(io["sample"]), np.full(len(wanted), time), io["time_add"], io["context"],
        )  # fmt: skip
        assert_close(got, wanted, tolerance)


@pytest.mark.parametrize("part", ["first", "last"])
def test_karlos_upsamplers(part):
    folder, io, tolerance = fixture("unclip_super_res")
    upsampler, sample = imported("diffusers-unet", folder / f"super_res_{part}"), channels_last(io["sample"])
    outputs = expected(io, f"out_{part}_t")
    assert outputs
    for time, wanted in outputs.items():
        got = run(with_extra, upsampler, sample, np.full(len(wanted), time))
        assert_close(got, wanted, tolerance)


def test_the_unet_of_the_consistency_decoder():
    folder, io, tolerance = fixture("consistency_decoder")
    unet, sample = imported("consistency-decoder", folder).unet, channels_last(io["unet_in"])
    outputs = expected(io, "out_unet_t")
    assert outputs
    for time, wanted in outputs.items():
        got = run(with_extra, unet, sample, np.full(len(wanted), time))
        assert_close(got, wanted, tolerance)


def test_karlos_decoder_is_exported_as_it_was_published(tmp_path):
    folder, _, _ = fixture("unclip_decoder")
    find_exporter("diffusers-unet").write(imported("diffusers-unet", folder), tmp_path)
    name = "diffusion_pytorch_model.safetensors"
    ours, theirs = read_tensors(tmp_path / name), read_tensors(folder / name)
    assert set(ours) == set(theirs)
    for one in theirs:
        np.testing.assert_array_equal(ours[one], theirs[one].astype(np.float32))
    written, flags = (json.loads((one / "config.json").read_text()) for one in (tmp_path, folder))
    assert {key: flags[key] for key in written if key in flags} == {
        key: written[key] for key in written if key in flags
    }


@pytest.fixture(scope="module", params=["base", "upsample", "inpaint"])
def drawn(request):
    """GLIDE's network, its fixture and the further channels of its input."""
    network, one = glide_network(request.param)
    images = {
        name: jnp.asarray(channels_last(one.io[name]))
        for name in ("low_res", "inpaint_image", "inpaint_mask")
        if name in one.io
    }
    extra = None
    if "low_res" in images:
        extra = low_resolution(images["low_res"], one.io["sample"].shape[2:])
    elif images:
        extra = kept_pixels(images["inpaint_image"], images["inpaint_mask"])
    return network, one, extra


def test_glides_text_transformer(drawn):
    network, (_, io, tolerance), _ = drawn
    states = run(lambda glide, tokens, mask: glide.text(tokens, mask)[0], network, io["tokens"], io["mask"])
    vector = run(lambda glide, tokens, mask: glide.text(tokens, mask)[1], network, io["tokens"], io["mask"])
    assert_close(states, io["out_text_states"].transpose(0, 2, 1), tolerance)
    assert_close(vector, io["out_text_proj"], tolerance)


def test_glides_prediction(drawn):
    network, (_, io, tolerance), extra = drawn
    outputs = expected(io, "out_t")
    assert outputs
    for time, wanted in outputs.items():
        got = run(
            lambda glide, x, t, tokens, mask: glide(x, t, tokens, mask, extra=extra),
            network, channels_last(io["sample"]), np.full(len(wanted), time), io["tokens"], io["mask"],
        )  # fmt: skip
        assert_close(got, wanted, tolerance)
