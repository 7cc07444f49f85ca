"""What every text-to-codes transformer offers to the sampler: teacher forcing, prefill and one cached step."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

from dalle_jax.arrays import Array, Float, Int, Prompts


class Logits(NamedTuple):
    """Float32 logits of teacher forcing; ``text`` is None for a model that predicts no text.

    R >= K: a published table may have rows beyond the codebook, which training knows and drawing never gives.
    """

    image: Float[Array, "B I R"]
    text: Float[Array, "B T V"] | None


@runtime_checkable
class CodeGenerator(Protocol):
    """A transformer p(codes | prompt) in raster order. Caches are values that go in and come out.

    A prompt is what the model was made for (``arrays.Prompts``): token ids for DALL·E, a class or a caption's features
    for LlamaGen.
    """

    @property
    def text_length(self) -> int:
        """T; token ids are padded and features are cut to this length. 1 for classes."""
        ...

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w); I = h * w."""
        ...

    @property
    def codebook_size(self) -> int:
        """K."""
        ...

    def empty(self, text: Prompts) -> Array:
        """The empty prompt, towards which guidance looks: one row for all, or a row for each where they differ."""
        ...

    def __call__(self, text: Prompts, codes: Int[Array, "B I"]) -> Logits:
        """Teacher forcing: ``image[:, i]`` are the logits of code i given the text and the codes before i."""
        ...

    def prefill(self, text: Prompts, candidates: int) -> tuple[Float[Array, "P K"], Any]:
        """Logits of code 0, the same for a prompt's candidates, and a cache that holds each prompt's text once.

        Every array of a cache leads with the prompts axis. It has room for no codes until it is grown.
        """
        ...

    def grow(self, cache: Any, codes: int) -> Any:
        """The same cache with room for the first ``codes`` codes. Small caches are quick to read: grow by stages."""
        ...

    def for_steps(self, rows: int) -> "CodeGenerator":
        """The same generator, laid out for a loop of ``decode`` with that many pictures; it may be itself."""
        ...

    def decode(
        self, previous: Int[Array, "P M"], position: Int[Array, ""], cache: Any
    ) -> tuple[Float[Array, "P M K"], Any]:
        """Logits of code ``position`` (1 to I - 1) given code ``position - 1``, and the new cache."""
        ...
