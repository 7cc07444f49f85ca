"""A pipeline from the folders of its trained or imported models."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TypeAlias, TypeVar

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.models.code_generator import CodeGenerator, Reduced
from dalle_jax.models.prompt_kinds import ByClass, TokenIds
from dalle_jax.parallel.axes import BATCH
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.batching import check_batch
from dalle_jax.pipelines.embedding_pipeline import sees_of
from dalle_jax.pipelines.image_codec import ImageCodec
from dalle_jax.pipelines.imported.glide import GlidePipeline
from dalle_jax.pipelines.imported.karlo import Karlo
from dalle_jax.pipelines.load.forecast import add_forecast_heads
from dalle_jax.pipelines.load.glide_pipeline import GLIDE, GuidingClip, load_glide, read_glide_file
from dalle_jax.pipelines.load.karlo_pipeline import KARLO, load_karlo, read_karlo_file
from dalle_jax.pipelines.load.models import (
    PipelineFile,
    load_clip,
    load_generator,
    load_tokenizer_of,
    read_model_file,
    stage_folders,
)
from dalle_jax.pipelines.load.pixel_unclip_pipeline import is_pixel_decoder, load_pixel_unclip
from dalle_jax.pipelines.load.text import load_text
from dalle_jax.pipelines.load.unclip_pipeline import load_unclip
from dalle_jax.pipelines.pixel_unclip import PixelUnclip
from dalle_jax.pipelines.prompts import ClassPrompts, FeaturePrompts, PromptReader, TextPrompts
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.pipelines.text_to_image import TextToImage
from dalle_jax.pipelines.unclip import DECODER_STEPS, Unclip
from dalle_jax.sampling.options import RecommendedSampling
from dalle_jax.storage import Place

AnyPipeline: TypeAlias = TextToImage | Unclip | PixelUnclip | Karlo | GlidePipeline
"""A pipeline of a transformer, one of CLIP, prior and decoder, or GLIDE's."""


def load_pipeline(
    folder: Place,
    image_tokenizer: Place | None = None,
    clip: Place | None = None,
    batch: int = 64,
    layout: Layout | None = None,
    *,
    sees: str | None = None,
    steps: int | None = None,
    consistency_decoder: Place | None = None,
    guide: GuidingClip | None = None,
    reduced: Reduced | None = None,
    forecast: Place | None = None,
) -> AnyPipeline:
    """Load the pipeline of a folder with ``pipeline.gin``, of a transformer's run folder, or of imported weights.

    ``image_tokenizer`` and ``clip`` replace the folders that it names; the CLIP of an unCLIP is replaced in ranking
    alone. All networks are loaded into their shards of ``layout``, by default one device. ``sees`` and ``steps`` are
    the inputs and the steps of an unCLIP's decoder; None is the default. ``consistency_decoder`` decodes codes, or the
    latents of an unCLIP's decoder, in place of the image tokenizer. ``guide`` is a CLIP of noised images
    that guides GLIDE. ``reduced`` is the precision of a transformer's weights and cache. ``forecast`` has the heads
    that guess its codes in parallel decoding. Raises UserError without an image tokenizer, or if its codebook has a
    different size.
    """
    check_batch(batch, 1 if layout is None else layout.parts(BATCH))
    is_karlo = (folder / KARLO).is_file()
    if is_karlo or (folder / GLIDE).is_file():
        _refuse_reduced(folder, reduced)
    if is_karlo or (folder / GLIDE).is_file():
        given_none = {"image_tokenizer": image_tokenizer, "sees": sees, "consistency_decoder": consistency_decoder}
        given_none["forecast"] = forecast
        for name, value in given_none.items():
            if value is not None:
                raise UserError(f"{name}: expected none for the imported pipeline in {folder}, got {value}")
        ranker = None if clip is None else load_ranker(clip, batch, layout)
        if not is_karlo:
            return load_glide(folder, ranker=ranker, steps=steps, batch=batch, layout=layout, guide=guide)
    if guide is not None:
        raise UserError(f"guide_clip: expected none for a model other than GLIDE, got {guide.folder}")
    if is_karlo:
        return load_karlo(folder, ranker=ranker, steps=steps, batch=batch, layout=layout)
    file = stage_folders(folder, image_tokenizer, clip, consistency_decoder, forecast)
    if not file.is_unclip:
        for name in (name for name, value in {"sees": sees, "steps": steps}.items() if value is not None):
            raise UserError(f"{name}: expected none for the transformer of {folder}; an unCLIP's decoder has {name}")
        return _recommending(load_transformer_pipeline(file.needs, batch, layout, reduced), file)
    _refuse_reduced(folder, reduced)
    ranker = None if clip is None else load_ranker(clip, batch, layout)
    chosen, given = sees_of(sees or "embedding"), file.steps if steps is None else steps
    if is_pixel_decoder(storage.place(file.needs["decoder"])):
        pixels = load_pixel_unclip(file.needs, ranker=ranker, sees=chosen, steps=given, batch=batch, layout=layout)
        return _recommending(pixels, file)
    number = DECODER_STEPS if given is None else given
    codes = load_unclip(file.needs, ranker=ranker, sees=chosen, steps=number, batch=batch, layout=layout)
    return _recommending(codes, file)


P = TypeVar("P", TextToImage, Unclip, PixelUnclip)


def _recommending(pipeline: P, file: PipelineFile) -> P:
    """Return the pipeline with the sampling of ``pipeline.gin``, if it has one."""
    pipeline.recommended = file.sampling or pipeline.recommended
    return pipeline


def _refuse_reduced(folder: Place, reduced: Reduced | None) -> None:
    for name, value in {} if reduced is None else asdict(reduced).items():
        if value is not None:
            raise UserError(f"{name}: expected none for {folder}, which is not a transformer of codes, got {value!r}")


def recommended_sampling(folder: Place) -> RecommendedSampling:
    """Read the options of sampling that are recommended for the model of a folder, without loading it."""
    if (folder / KARLO).is_file():
        return RecommendedSampling(guidance=read_karlo_file(folder).guidance)
    if (folder / GLIDE).is_file():
        return RecommendedSampling(guidance=read_glide_file(folder).guidance)
    file = stage_folders(folder, image_tokenizer=folder)
    if file.sampling is not None or file.is_unclip:
        return file.sampling or RecommendedSampling()
    return read_model_file(storage.place(file.needs["transformer"])).sampling or RecommendedSampling()


def load_transformer_pipeline(
    needs: Mapping[str, str], batch: int = 64, layout: Layout | None = None, reduced: Reduced | None = None
) -> TextToImage:
    """Load the transformer with its forecasting heads, the image tokenizer and the CLIP of a pipeline's ``needs``."""
    transformer, tokenizer_folder = storage.place(needs["transformer"]), storage.place(needs["image_tokenizer"])
    generator, tokenizer = load_generator(transformer, layout, reduced), load_tokenizer_of(needs, layout)
    if "forecast" in needs:
        add_forecast_heads(generator, transformer, storage.place(needs["forecast"]), layout)
    if generator.codebook_size != tokenizer.codebook_size:
        raise UserError(
            f"{tokenizer_folder}: expected an image tokenizer of {generator.codebook_size} codes, which the "
            f"transformer in {transformer} generates, got one of {tokenizer.codebook_size}"
        )
    return TextToImage(
        generator,
        ImageCodec(tokenizer, batch, layout),
        prompt_reader(generator, transformer),
        load_ranker(storage.place(needs["clip"]), batch, layout) if "clip" in needs else None,
        batch,
        layout,
        read_model_file(transformer).sampling or RecommendedSampling(),
    )


def load_ranker(folder: Place, batch: int = 64, layout: Layout | None = None) -> ClipRanker:
    """Load a CLIP and its text tokenizer."""
    clip = load_clip(folder, layout)
    return ClipRanker(clip, load_text(folder, clip.config.text_length), batch, layout)


def prompt_reader(generator: CodeGenerator, folder: Place) -> PromptReader:
    """Return the reader of a transformer's prompts; the text tokenizer is in its ``folder``."""
    kind = generator.prompt_kind
    if isinstance(kind, TokenIds):
        return TextPrompts(load_text(folder, kind.length))
    return ClassPrompts(kind) if isinstance(kind, ByClass) else FeaturePrompts(kind)
