"""The unCLIP pipeline of pixels from the folders of its trained models."""

from collections.abc import Mapping
from dataclasses import replace

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.models.decoders.pixel_decoder import PixelDecoderConfig
from dalle_jax.models.image_tokenizer import ImageTokenizer
from dalle_jax.models.spaces.space import Latents
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.embedding_pipeline import Sees
from dalle_jax.pipelines.load.models import (
    UPSAMPLERS,
    load_clip,
    load_pixel_decoder,
    load_tokenizer_of,
    load_upsampler,
    read_model_file,
)
from dalle_jax.pipelines.load.text import load_text
from dalle_jax.pipelines.load.unclip_pipeline import load_prior_of
from dalle_jax.pipelines.pixel_unclip import PixelNetworks, PixelSampling, PixelUnclip
from dalle_jax.pipelines.prompts import TextPrompts
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.storage import Place


def is_pixel_decoder(folder: Place) -> bool:
    """Return True for the folder of a pixel decoder."""
    return isinstance(read_model_file(folder).model, PixelDecoderConfig)


def load_pixel_unclip(
    needs: Mapping[str, str],
    *,
    ranker: ClipRanker | None = None,
    sees: Sees = "embedding",
    steps: int | None = None,
    batch: int = 64,
    layout: Layout | None = None,
) -> PixelUnclip:
    """Load the decoder, prior, CLIP and upsamplers of a pipeline's ``needs``; ``steps`` are the decoder's.

    Without a prior the text vector takes its place. ``ranker`` replaces the CLIP in ranking. Raise ``UserError`` if the
    prior was trained on a different CLIP.
    """
    decoder, clip_folder, sampling = storage.place(needs["decoder"]), storage.place(needs["clip"]), PixelSampling()
    tokenizer = _image_tokenizer(needs, decoder, layout)
    if tokenizer is not None:
        sampling = replace(sampling, decoder=replace(sampling.decoder, threshold=None))
    clip, network = load_clip(clip_folder, layout), load_pixel_decoder(decoder, layout)
    if steps is not None:
        if steps < 2:
            raise UserError(f"steps: expected at least 2 for a pixel decoder, got {steps}")
        sampling = replace(sampling, decoder=replace(sampling.decoder, steps=steps))
    return PixelUnclip(
        PixelNetworks(load_prior_of(needs, decoder, layout), clip, network, tokenizer),
        [load_upsampler(storage.place(needs[name]), layout) for name in UPSAMPLERS if name in needs],
        TextPrompts(load_text(decoder, network.config.text_length)),
        ClipRanker(clip, load_text(clip_folder, clip.config.text_length), batch, layout),
        ranker=ranker,
        sees=sees,
        sampling=sampling,
        batch=batch,
        layout=layout,
    )


def _image_tokenizer(needs: Mapping[str, str], decoder: Place, layout: Layout | None) -> ImageTokenizer | None:
    """Load the image tokenizer of a decoder of latents; raise ``UserError`` for a decoder of pixels with one."""
    model = read_model_file(decoder).model
    latents = isinstance(model, PixelDecoderConfig) and isinstance(model.space, Latents)
    folder = needs.get("image_tokenizer")
    if folder is not None and not latents:
        raise UserError(f"needs.image_tokenizer: expected none for a pixel decoder, got {folder}")
    if folder is None and latents:
        raise UserError("needs.image_tokenizer: expected the image tokenizer of the decoder's latents, got none")
    if folder is None and (decoder_of_latents := needs.get("consistency_decoder")) is not None:
        raise UserError(f"needs.consistency_decoder: expected none for a pixel decoder, got {decoder_of_latents}")
    return None if folder is None else load_tokenizer_of(needs, layout)
