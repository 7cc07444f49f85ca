"""The unCLIP pipeline from the folders of its trained models."""

from collections.abc import Mapping

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.models.priors.prior import Prior
from dalle_jax.models.priors.text_vector_prior import TextVectorPrior
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.embedding_pipeline import Sees
from dalle_jax.pipelines.image_codec import ImageCodec
from dalle_jax.pipelines.load.models import (
    UPSAMPLERS,
    load_clip,
    load_code_denoiser,
    load_prior,
    load_tokenizer_of,
    read_model_file,
)
from dalle_jax.pipelines.load.text import load_text
from dalle_jax.pipelines.prompts import TextPrompts
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.pipelines.unclip import DECODER_STEPS, Unclip, UnclipNetworks
from dalle_jax.storage import Place


def load_unclip(
    needs: Mapping[str, str],
    *,
    ranker: ClipRanker | None = None,
    sees: Sees = "embedding",
    steps: int = DECODER_STEPS,
    batch: int = 64,
    layout: Layout | None = None,
) -> Unclip:
    """Load the decoder, prior, CLIP and image tokenizer of a pipeline's ``needs``.

    Without a prior the text vector takes its place. ``ranker`` replaces the CLIP in ranking. Raise ``UserError`` if the
    prior was trained on a different CLIP, or if the codebook has a different size.
    """
    if "image_tokenizer" not in needs:
        raise UserError("needs.image_tokenizer: expected a folder for a decoder of codes, got none")
    for name in UPSAMPLERS:
        if name in needs:
            raise UserError(f"needs.{name}: expected none for a decoder of codes, got {needs[name]}")
    decoder, clip_folder, tokenizer_folder = (
        storage.place(needs[one]) for one in ("decoder", "clip", "image_tokenizer")
    )
    clip, network = load_clip(clip_folder, layout), load_code_denoiser(decoder, layout)
    tokenizer = load_tokenizer_of(needs, layout)
    if network.config.codebook_size != tokenizer.codebook_size:
        raise UserError(
            f"{tokenizer_folder}: expected an image tokenizer of {network.config.codebook_size} codes, which the "
            f"decoder in {decoder} denoises, got one of {tokenizer.codebook_size}"
        )
    return Unclip(
        UnclipNetworks(load_prior_of(needs, decoder, layout), clip, network),
        ImageCodec(tokenizer, batch, layout),
        TextPrompts(load_text(decoder, network.config.text_length)),
        ClipRanker(clip, load_text(clip_folder, clip.config.text_length), batch, layout),
        ranker=ranker,
        sees=sees,
        steps=steps,
        batch=batch,
        layout=layout,
    )


def load_prior_of(needs: Mapping[str, str], decoder: Place, layout: Layout | None = None) -> Prior:
    """Load the prior, or return the text vector in its place. Raise UserError if its CLIP is not the decoder's."""
    if "prior" not in needs:
        return TextVectorPrior()
    folder = storage.place(needs["prior"])
    expected, found = (read_model_file(one).needs.get("clip") for one in (decoder, folder))
    if found != expected:
        raise UserError(f"{folder}: expected a prior trained on the decoder's CLIP in {expected}, got one of {found}")
    return load_prior(folder, layout)
