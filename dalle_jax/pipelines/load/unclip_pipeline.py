"""The unCLIP pipeline from the folders of its trained models."""

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.models.priors.prior import Prior
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.image_codec import ImageCodec
from dalle_jax.pipelines.load.models import (
    load_clip,
    load_code_denoiser,
    load_image_tokenizer,
    load_prior,
    read_model_file,
)
from dalle_jax.pipelines.load.text import load_text
from dalle_jax.pipelines.prompts import TextPrompts
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.pipelines.unclip import Sees, TextVectorPrior, Unclip, UnclipNetworks
from dalle_jax.storage import Place


def load_unclip(
    decoder: Place,
    prior: Place | None,
    *,
    sees: Sees = "embedding",
    steps: int = 8,
    batch: int = 64,
    layout: Layout | None = None,
) -> Unclip:
    """Load a decoder with the image tokenizer and the CLIP that its ``model.gin`` names, and a prior.

    Without a prior the text vector takes its place. Raise ``UserError`` if the prior was trained on a different CLIP.
    """
    needs = read_model_file(decoder).needs
    clip_folder = storage.place(needs["clip"])
    if prior is not None and (found := read_model_file(prior).needs["clip"]) != needs["clip"]:
        raise UserError(f"{prior}: expected a prior of the CLIP in {needs['clip']}, as the decoder's, got {found}")
    clip, network = load_clip(clip_folder), load_code_denoiser(decoder)
    chosen: Prior = TextVectorPrior() if prior is None else load_prior(prior)
    return Unclip(
        UnclipNetworks(chosen, clip, network),
        ImageCodec(load_image_tokenizer(storage.place(needs["image_tokenizer"])), batch, layout),
        TextPrompts(load_text(decoder, network.config.text_length)),
        ClipRanker(clip, load_text(clip_folder, clip.config.text_length), batch, layout),
        sees=sees,
        steps=steps,
        batch=batch,
        layout=layout,
    )
