"""A small untrained unCLIP for tests: its networks, and a folder that ``load_pipeline`` reads."""

from typing import NamedTuple

from flax import nnx

from dalle_jax.config.render import render
from dalle_jax.models.clip import Clip, ClipConfig, TowerConfig
from dalle_jax.models.code_denoiser import CodeDenoiser, CodeDenoiserConfig
from dalle_jax.models.priors.mlp_prior import MlpPriorConfig
from dalle_jax.models.vqvae import Vqvae, VqvaeConfig
from dalle_jax.pipelines.load.models import ModelFile, PipelineFile, absolute_needs
from dalle_jax.storage import Place
from dalle_jax.text.sentencepiece import SentencePiece, train_sentencepiece
from dalle_jax.train.checkpoints.save_weights import save_weights

TOWER = TowerConfig(width=8, layers=1, heads=2)
LENGTH, VOCABULARY = 6, 30
CLIP = ClipConfig(
    image_size=16, patch=8, vision=TOWER, vocab_size=VOCABULARY, text_length=LENGTH, text=TOWER, embed_width=6
)
TOKENIZER = VqvaeConfig(downsample=4, width=8, blocks=1, codebook_size=16, code_width=4, stem="patch")
DECODER = CodeDenoiserConfig(
    text_vocab=VOCABULARY, text_length=LENGTH, embed_width=6, codebook_size=16, code_width=4, grid=(4, 4), width=16,
    layers=1, heads=2,
)  # fmt: skip
PRIOR = MlpPriorConfig(embed_width=6, width=8, hidden=8, layers=1)


class SmallUnclip(NamedTuple):
    """The untrained networks, and the text tokenizer of both CLIP and decoder."""

    clip: Clip
    decoder: CodeDenoiser
    tokenizer: Vqvae
    text: SentencePiece


def small_words() -> bytes:
    """Return a SentencePiece model of ``VOCABULARY`` pieces."""
    return train_sentencepiece(["a red circle", "a blue square"] * 5, VOCABULARY, "bpe", 0)


def small_unclip() -> SmallUnclip:
    """Create the networks; the decoder has the code vectors of the image tokenizer."""
    tokenizer, decoder = Vqvae(TOKENIZER, rngs=nnx.Rngs(1)), CodeDenoiser(DECODER, rngs=nnx.Rngs(0))
    decoder.set_code_vectors(tokenizer.code_vectors)
    return SmallUnclip(Clip(CLIP, rngs=nnx.Rngs(2)), decoder, tokenizer, SentencePiece(small_words(), LENGTH))


def write_unclip(folder: Place) -> None:
    """Write the networks, a prior and ``pipeline.gin`` of 2 steps into a folder."""
    parts, words = small_unclip(), {"text.model": small_words()}
    needs = absolute_needs(clip=str(folder / "clip"))
    written = {
        "clip": (parts.clip, ModelFile(CLIP), words),
        "tokenizer": (parts.tokenizer, ModelFile(TOKENIZER), {}),
        "prior": (PRIOR.build(nnx.Rngs(3)), ModelFile(PRIOR, needs), {}),
        "decoder": (parts.decoder, ModelFile(DECODER, needs), words),
    }
    for name, (network, file, files) in written.items():
        text = render(file)
        save_weights(folder / name, network, text, {"model.gin": text.encode(), **files})
    places = {"image_tokenizer": "tokenizer"} | {name: name for name in ("clip", "prior", "decoder")}
    (folder / "pipeline.gin").write_text(render(PipelineFile(places, steps=2)))
