"""The folders of trained or imported stages to the pipeline that draws with them."""

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.models.prompt_kinds import TokenIds
from dalle_jax.pipelines.load.models import load_clip, load_generator, load_image_tokenizer, stage_folders
from dalle_jax.pipelines.load.text import load_text
from dalle_jax.pipelines.text_to_image import Pipeline
from dalle_jax.storage import Place


def load_pipeline(
    folder: Place, image_tokenizer: Place | None = None, clip: Place | None = None, batch: int = 64
) -> Pipeline:
    """The pipeline of a folder that holds ``pipeline.gin``, or of a transformer's run folder or imported weights.

    ``image_tokenizer`` and ``clip`` take the place of those that it names. Raises UserError where there is no image
    tokenizer, or one of other codes.
    """
    if batch < 1:
        raise UserError(f"batch: expected at least 1 image at once, got {batch}")
    needs = stage_folders(folder, image_tokenizer, clip).needs
    transformer, tokenizer_folder = storage.place(needs["transformer"]), storage.place(needs["image_tokenizer"])
    generator, tokenizer = load_generator(transformer), load_image_tokenizer(tokenizer_folder)
    if generator.codebook_size != tokenizer.codebook_size:
        raise UserError(
            f"{tokenizer_folder}: expected an image tokenizer of {generator.codebook_size} codes, which the "
            f"transformer in {transformer} draws, got one of {tokenizer.codebook_size}"
        )
    ranker_folder = storage.place(needs["clip"]) if "clip" in needs else None
    ranker = None if ranker_folder is None else load_clip(ranker_folder)
    kind = generator.prompt_kind
    reader = load_text(transformer, kind.length) if isinstance(kind, TokenIds) else kind
    return Pipeline(
        generator=generator,
        image_tokenizer=tokenizer,
        text=reader,
        clip=ranker,
        clip_text=None
        if ranker is None or ranker_folder is None
        else load_text(ranker_folder, ranker.config.text_length),
        batch=batch,
    )
