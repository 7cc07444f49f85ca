"""min-dalle's MinDalle at the sizes of DALL·E mini with random weights: 256 codes of 1 or 4 images for one text.

The loop is its own ``generate_raw_image_stream``. The text tokenizer and VQGAN, which it would download, are replaced:
the text has fixed tokens, and the result is the codes.
"""

import tempfile
import warnings
from collections.abc import Callable

import torch
from min_dalle import MinDalle
from min_dalle.models import DalleBartDecoder, DalleBartEncoder

warnings.simplefilter("ignore")  # its loop opens torch.cuda's autocast in every step

TOKENS = [0, *range(100, 116), 2]  # <s>, 16 tokens, </s>


class FixedText:
    """A text tokenizer whose tokens do not depend on the text."""

    def tokenize(self, text: str, is_verbose: bool) -> list[int]:
        del text, is_verbose
        return TOKENS


class RandomMinDalle(MinDalle):
    """MinDalle whose encoder and decoder have PyTorch's initial weights; an image is its codes."""

    def __init__(self):
        with tempfile.TemporaryDirectory() as folder:  # the constructor makes folders for downloads
            super().__init__(models_root=folder, device="cpu", is_mega=False, is_reusable=False, is_verbose=False)
        self.is_reusable = True
        sizes = {
            "layer_count": self.layer_count, "embed_count": self.embed_count, "device": self.device,
            "attention_head_count": self.attention_head_count, "glu_embed_count": self.glu_embed_count,
        }  # fmt: skip
        texts = {"text_vocab_count": self.text_vocab_count, "text_token_count": self.text_token_count}
        self.encoder = DalleBartEncoder(**texts, **sizes).eval()
        self.decoder = DalleBartDecoder(image_vocab_count=self.image_vocab_count, **sizes).eval()

    def init_tokenizer(self) -> None:
        self.tokenizer = FixedText()

    def image_grid_from_tokens(self, image_tokens, is_seamless, is_verbose=False):
        del is_seamless, is_verbose
        return image_tokens


def generate(side: int) -> Callable[[], None]:
    """Return a function that samples the codes of ``side`` x ``side`` images, with guidance scale 16 and top-k 256."""
    torch.manual_seed(0)
    model = RandomMinDalle()

    def call() -> None:
        stream = model.generate_raw_image_stream("", seed=-1, grid_size=side, top_k=256, supercondition_factor=16)
        for codes in stream:
            assert codes.shape == (side * side, 256), f"expected codes of {side * side} images, got {codes.shape}"

    return call


CASES = {"one": lambda: generate(1), "four": lambda: generate(2)}
