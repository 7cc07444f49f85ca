"""The commands in the order in which ``--help`` lists them.

A module is imported only when its command runs. It has ``add_arguments(parser)`` and ``run(args)``, the exit code.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One command: its name, the module that holds it, and what it does in one line."""

    name: str
    module: str
    help: str


COMMANDS = (
    Command("demo", "dalle_jax.commands.demo", "the whole of DALL·E on drawn scenes: train, sample, rerank, report"),
    Command("train", "dalle_jax.commands.train", "one training stage; goes on from the run folder's newest checkpoint"),
    Command("inspect", "dalle_jax.commands.inspect", "what is in a source: sizes, captions, faults, a contact sheet"),
    Command("text-tokenizer", "dalle_jax.commands.text_tokenizer", "a SentencePiece model from a source's captions"),
    Command("encode", "dalle_jax.commands.encode", "images to codes, once; goes on where it was stopped"),
    Command("config", "dalle_jax.commands.config", "print the resolved config, which parses back to the same run"),
    Command("plan", "dalle_jax.commands.plan", "whether a training config fits a TPU slice, found without one"),
    Command("sample", "dalle_jax.commands.sample", "images for prompts, ranked, with their scores and a grid"),
    Command("import", "dalle_jax.commands.import_", "published weights to a model folder that every command takes"),
    Command("export", "dalle_jax.commands.export", "a trained model in the layout that another program loads"),
    Command("evaluate", "dalle_jax.commands.evaluate", "the figures of a trained model"),
)
