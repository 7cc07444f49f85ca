"""Bulk sampling by the ``draw`` of any pipeline, such as unCLIP's and Karlo's."""

from collections.abc import Iterable, Iterator

from dalle_jax.pipelines.bulk.device_engine import DrawnPrompt, tokenizers_of
from dalle_jax.pipelines.bulk.prompt_files import NumberedRequest
from dalle_jax.pipelines.prompted_pipeline import DiffusionPipeline
from dalle_jax.pipelines.text_to_image import TextToImage
from dalle_jax.text.tokenizer import TextTokenizer


class PipelineEngine:
    """Implements ``BulkEngine``; the images of one call at a time are on the host."""

    def __init__(self, pipeline: TextToImage | DiffusionPipeline, batch: int) -> None:
        self._pipeline, self._batch = pipeline, batch

    def draw(self, requests: Iterator[NumberedRequest]) -> Iterator[DrawnPrompt]:
        """Yield the result of each request, in order."""
        for group in alike(requests, self._batch):
            drawn = self._pipeline.draw([request for _, request in group])
            for (number, request), one in zip(group, drawn, strict=True):
                yield DrawnPrompt(number, request, one.pixels, one.chosen, one.candidate_scores)

    def flops_per_image(self) -> float | None:
        """Return None: the FLOPs of these pipelines are not counted."""
        return None

    def tokenizers(self) -> dict[str, TextTokenizer]:
        """Return the text tokenizers of the model and of CLIP."""
        return tokenizers_of(self._pipeline.prompts, self._pipeline.ranker)


def alike(requests: Iterable[NumberedRequest], batch: int) -> Iterator[list[NumberedRequest]]:
    """Group consecutive requests of equal ``candidates`` and ``first``, of at most ``batch`` images, or one request."""
    group: list[NumberedRequest] = []
    for one in requests:
        size = (one.request.options.candidates, one.request.options.first)
        if group:
            before = group[0].request.options
            if size != (before.candidates, before.first) or (len(group) + 1) * size[0] > batch:
                yield group
                group = []
        group.append(one)
    if group:
        yield group
