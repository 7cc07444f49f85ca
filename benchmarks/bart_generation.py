"""Benchmark (e): sampling 256 codes at the sizes of DALL·E mini, compared with min-dalle, for one text.

Equal: 12 encoder and 12 decoder layers of width 1024, 16 heads, GLUs of width 2730, 64 text tokens, a codebook of
16,384, float32, random weights, top-k 256, temperature 1, guidance scale 16. Both sides compute two rows per image, one
for the text and one for the empty text. Both end with the codes.
Different: min-dalle projects the encoded text to keys and values in every step and for every image, attends to all 256
positions from the first step on, and sorts the logits for top-k. We do the first once per text and grow the cache.
"""

from collections.abc import Callable

from harness import Case, main

NOTE = "guidance scale 16 on both sides: two rows per image"


def generate(images: int) -> Callable[[], None]:
    """Return a function that samples codes [1 images 256] for one text; each call has a new seed."""
    import jax.numpy as jnp
    from flax import nnx

    from dalle_jax.models.dalle_bart import DalleBartConfig
    from dalle_jax.parallel.layout import jit
    from dalle_jax.sampling.autoregressive import Settings, image_keys, sample

    config = DalleBartConfig(
        text_vocab=50_264, text_length=64, codebook_size=16_384, grid=(16, 16), width=1024, encoder_layers=12,
        encoder_heads=16, encoder_hidden=2730, decoder_layers=12, decoder_heads=16, decoder_hidden=2730, pad_id=1,
        empty_caption=(0, 2), extra_codes=1, start_code=16_384, scan=True,
    )  # fmt: skip
    graph, state = nnx.split(config.build(nnx.Rngs(0)))
    tokens = [0, *range(100, 116), 2]  # <s>, 16 tokens, </s>
    text = jnp.asarray([tokens + [config.pad_id] * (config.text_length - len(tokens))], jnp.int32)
    how = Settings.of(1, top_k=256, guidance=16.0)
    draw = jit(lambda state, text, keys, how: sample(nnx.merge(graph, state), text, keys, how, guided=True))
    seeds = iter(range(1_000_000))

    def call() -> None:
        keys = image_keys(jnp.full(1, next(seeds), jnp.int32), images)
        draw(state, text, keys, how).block_until_ready()

    return call


CASES = {"one": lambda: generate(1), "four": lambda: generate(4)}

if __name__ == "__main__":
    main(
        "bart_generation",
        __file__,
        "peer_bart_generation.py",
        [
            Case("one", "DALL·E mini's sizes, 1 image, guided", least=2.5, aim=4.0, rounds=5, warm_up=0, note=NOTE),
            Case("four", "DALL·E mini's sizes, 4 images, guided", least=2.5, aim=4.0, rounds=3, warm_up=0, note=NOTE),
        ],
    )
