"""Flags of the demos: a config, fields to set, and the folder to write to."""

import argparse
from pathlib import Path

from dalle_jax import storage


def add_demo_flags(parser: argparse.ArgumentParser, default: str, stage_fields: str, out: str) -> None:
    """Add the flags. ``default`` is the config, ``stage_fields`` says how fields of stages are set."""
    parser.add_argument("config", nargs="?", default=default, help=f"a demo's config (default: configs/{default})")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help=f"set one field of the config; {stage_fields}",
    )
    parser.add_argument("--out", type=storage.reachable, default=Path(out), help="the folder to write to")
