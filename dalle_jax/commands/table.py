"""The commands in the order in which ``--help`` lists them.

A module is imported only when its command runs. It defines ``add_arguments(parser)`` and ``run(args)``, which returns
the exit code.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A command: its name, the module that holds it, and its help in one line."""

    name: str
    module: str
    help: str


GROUPS = {
    "train and data": (
        Command("demo", "dalle_jax.commands.demo", "train every stage from scratch, then sample, rank and report"),
        Command("demo-unclip", "dalle_jax.commands.demo_unclip", "train and measure DALL·E 2's prior and decoder"),
        Command("demo-reinforced", "dalle_jax.commands.reinforced.demo_reinforced", "train a demo by rewards"),
        Command("train", "dalle_jax.commands.train", "train one stage; resumes from the newest checkpoint"),
        Command("inspect", "dalle_jax.commands.inspect", "report sizes, captions, bad records and crops of a source"),
        Command("text-tokenizer", "dalle_jax.commands.text_tokenizer", "train a SentencePiece model on captions"),
        Command("encode", "dalle_jax.commands.encode", "encode a data set's images to codes; a stopped run resumes"),
    ),
    "configs and planning": (
        Command("config", "dalle_jax.commands.config", "print the resolved config, which parses back to the same run"),
        Command("plan", "dalle_jax.commands.plan", "compile a training step for a TPU slice: does it fit?"),
    ),
    "sample and evaluate": (
        Command("sample", "dalle_jax.commands.sample", "generate images for prompts and rank them"),
        Command("inpaint", "dalle_jax.commands.edits.inpaint", "fill the masked part of an image"),
        Command("outpaint", "dalle_jax.commands.edits.outpaint", "extend an image on any sides"),
        Command("vary", "dalle_jax.commands.edits.vary", "sample variations of an image"),
        Command("interpolate", "dalle_jax.commands.edits.interpolate", "frames between two images or two texts"),
        Command("edit", "dalle_jax.commands.edits.edit", "change an image from one description toward another"),
        Command("serve", "dalle_jax.commands.serving.serve", "an HTTP server of OpenAI's Images API, and a page"),
        Command("evaluate", "dalle_jax.commands.evaluate", "measure a trained pipeline, or images"),
    ),
    "published weights": (
        Command("import", "dalle_jax.commands.import_", "convert published weights to a model folder"),
        Command("export", "dalle_jax.commands.export", "convert a trained model to a published layout"),
    ),
}
"""The commands by the heading under which ``--help`` lists them."""

COMMANDS = tuple(command for group in GROUPS.values() for command in group)
