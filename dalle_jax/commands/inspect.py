"""``inspect CONFIG|SOURCE --out DIR``: what is in a source, and what a config makes of it; a page, JSON and a sheet."""

import argparse
import json
import sys

from dalle_jax import storage
from dalle_jax.config.bind import load
from dalle_jax.config.errors import UserError
from dalle_jax.data.codes import Codes
from dalle_jax.data.folder import Folder
from dalle_jax.data.inspection import inspect
from dalle_jax.data.mixture import Mixture
from dalle_jax.data.opening import Openable
from dalle_jax.data.pictures import Pictures
from dalle_jax.data.scenes import Scenes
from dalle_jax.data.webdataset import WebDataset
from dalle_jax.evaluate.inspection_page import contact_sheet, page, to_json, words
from dalle_jax.images.png import write_png
from dalle_jax.runs import InspectRun, TrainRun
from dalle_jax.storage import Place, write_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "source", help="a config (.gin) of training or with run = @InspectRun, a folder of pictures or tars, or tars"
    )
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="the last word on one field")
    parser.add_argument(
        "--out", type=storage.reachable, required=True, help="the folder for the page, the JSON and the contact sheet"
    )


def run(args: argparse.Namespace) -> int:
    """Reads, prints and writes; of a mixture each source for itself, in a folder of its name."""
    config = read_config(args.source, args.set)
    if config.examine < 1 or config.cells < 0:
        raise UserError(f"examine, cells: expected 1 or more and 0 or more, got {config.examine}, {config.cells}")
    config.pictures.check()
    if isinstance(config.source, Mixture):
        for name, one in config.source.sources().items():
            print(f"{name}:")
            _inspect(one, config, args.out / name, f"{args.source}: {name}")
    else:
        _inspect(config.source, config, args.out, str(args.source))
    return 0


def _inspect(source: Openable, config: InspectRun, out: Place, title: str) -> None:
    """One source."""

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    findings = inspect(source.open(), config.pictures, config.examine, config.cells, say)
    content = to_json(findings)
    sheet = contact_sheet(findings)
    if sheet is not None:
        write_png(out / "contact_sheet.png", sheet)
    write_bytes(out / "inspect.json", (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode())
    write_bytes(out / "inspect.html", page(title, content, sheet).encode())
    print(words(content))
    print(out / "inspect.html")


def read_config(source: str, sets: list[str]) -> InspectRun:
    """An inspection's config, or what a training's says of its data; of a folder or of tars, one with all defaults."""
    if source.endswith(".gin"):
        config: TrainRun | InspectRun = load(source, TrainRun | InspectRun, sets)
        if isinstance(config, InspectRun):
            return config
        if isinstance(config.data.source, Codes):
            raise UserError(f"{source}: data.source: expected pictures to look at, got Codes, which were written ahead")
        if config.data.pictures is None and not isinstance(config.data.source, Scenes):
            raise UserError(f"{source}: data.pictures: expected @Pictures, which says how pictures are cut; got None")
        return InspectRun(config.data.source, config.data.pictures or Pictures(size=256))  # scenes come ready made
    if sets:
        raise UserError(f"--set changes a config, and {source} is none: write a .gin file with run = @InspectRun")
    place = storage.place(source)
    tars = source.endswith(".tar") or any(one in source for one in "*{")
    if tars or (place.is_dir() and any(one.name.endswith(".tar") for one in place.iterdir())):
        return InspectRun(source=WebDataset(files=(source,)), pictures=Pictures(size=256))
    return InspectRun(source=Folder(path=source), pictures=Pictures(size=256))
