"""``serve --model DIR``: an HTTP server that speaks OpenAI's Images API, and a page (docs/serving.md)."""

import argparse
import importlib.util
import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import jax

from dalle_jax import storage
from dalle_jax.commands.flags.mesh_flags import add_mesh_flags, joined_layout
from dalle_jax.commands.flags.reduced_flags import add_reduced_flags, reduced_of
from dalle_jax.commands.sample import add_decoder_flags
from dalle_jax.config.errors import UserError, install_hint
from dalle_jax.parallel import hosts
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.messages import Receiver, Sender
from dalle_jax.pipelines.load.pipeline import load_pipeline

if TYPE_CHECKING:
    from dalle_jax.serve.engine.engine import Engine
    from dalle_jax.serve.engine.pipeline_model import PipelineModel
    from dalle_jax.serve.http.access import Keys
    from dalle_jax.serve.safety import SafetyFilter

BATCH, LANE_BATCH = 8, 2
"""Images at once, and those of a lane of a CPU, where a lane with an empty slot wastes half of its passes at most."""
MOST_LANES = 4
"""Most lanes of a CPU unless ``--lanes`` asks for more: Python's work for the images keeps one core busy."""
MOST_WINDOW = 256
"""Most codes of a pass, as in ``SamplingOptions``."""
PACKAGES = ("starlette", "uvicorn", "python_multipart", "prometheus_client", "pydantic")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "--model", action="append", required=True, metavar="[NAME=]DIR",
        help="the folder of a demo, of a trained transformer, of an unCLIP, or of imported weights, and the name that "
        "requests give (default: the folder's); may be given several times, and the first is the default",
    )  # fmt: skip
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0 takes a free one (default 8000)")
    parser.add_argument("--keys", type=Path, metavar="FILE", help="accept only the keys of this file, one per line")
    parser.add_argument(
        "--open", action="store_true", help="listen on other machines' requests without keys, such as behind a proxy"
    )
    parser.add_argument("--public-url", metavar="URL", help="start of the URLs of images (default: the request's host)")
    parser.add_argument(
        "--batch", type=int, help="number of images to sample at once (default 8; on a CPU 2 for each lane)"
    )
    parser.add_argument(
        "--lanes", type=int, metavar="N",
        help="parts of a transformer's batch that advance beside each other, each by its own thread (default 1; on "
        f"a CPU one for each core, at most {MOST_LANES}, as far as they divide --batch)",
    )  # fmt: skip
    parser.add_argument("--queue", type=int, default=64, help="requests that may wait; others get a 429 (default 64)")
    parser.add_argument(
        "--deadline", type=float, default=600.0, metavar="S", help="seconds until a request is given up (default 600)"
    )
    parser.add_argument(
        "--rate", type=int, default=0, metavar="N", help="requests per minute of a client (default: any)"
    )
    parser.add_argument(
        "--grace", type=int, default=120, metavar="S", help="seconds to finish requests after SIGTERM (default 120)"
    )
    parser.add_argument(
        "--refuse", type=Path, metavar="FILE",
        help="refuse prompts that contain a line of this file, and with --refuse-similarity images that are near one",
    )  # fmt: skip
    parser.add_argument(
        "--refuse-similarity", type=float, metavar="S",
        help="the similarity, by the first model's CLIP, from which an image is refused",
    )  # fmt: skip
    parser.add_argument("--signature", action="store_true", help="draw five small squares into a corner of each image")
    parser.add_argument(
        "--compiled", type=Path, metavar="DIR",
        help="the folder of compiled programs, which make the next start quick (default: in the user's cache)",
    )  # fmt: skip
    parser.add_argument(
        "--window", type=int, default=1, metavar="N",
        help="codes of an image that a pass of a transformer computes; above 1 the same images take fewer, longer "
        "passes, which is parallel decoding (default 1)",
    )  # fmt: skip
    parser.add_argument(
        "--forecast", type=storage.reachable, metavar="DIR",
        help="the folder of forecasting heads of the transformer, for fewer passes with a --window above 1",
    )  # fmt: skip
    add_decoder_flags(parser)
    add_reduced_flags(parser)
    add_mesh_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Load the models and serve until a signal."""
    missing = [one for one in PACKAGES if importlib.util.find_spec(one) is None]
    if missing:
        raise UserError(f"serve: the package {missing[0]} is not installed; {install_hint('serve')}")
    from dalle_jax.serve.http.access import Keys, is_loopback, read_keys

    _log_to_stderr()
    if not is_loopback(args.host) and args.keys is None and not args.open:
        raise UserError(
            f"--host {args.host}: expected --keys FILE for other machines' requests, or --open, got neither"
        )
    _check_numbers(args)
    keys = Keys([] if args.keys is None else read_keys(args.keys))
    keep_compiled_programs(args.compiled)
    with joined_layout(args) as layout:
        models = _models(args, layout)
        if hosts.is_first():
            return _serve(args, models, keys)
        _follow(models)
    return 0


def _serve(args: argparse.Namespace, models: list["PipelineModel"], keys: "Keys") -> int:
    """Serve in process 0; others repeat what its engine does."""
    from dalle_jax.serve.engine.engine import Engine
    from dalle_jax.serve.engine.followed_runner import END, FollowedRunner
    from dalle_jax.serve.http.access import RateLimit, is_loopback
    from dalle_jax.serve.http.app import build_app
    from dalle_jax.serve.http.image_routes import ImageRoutes
    from dalle_jax.serve.results.signed_files import SignedFiles
    from dalle_jax.serve.server import Listening, serve

    sender = Sender() if jax.process_count() > 1 else None
    if sender is not None:
        for model in models:
            model.runner = FollowedRunner(model.name, model.runner, sender.send)
    engine = Engine(models, queue=args.queue)
    _count_compiles(engine)
    files = SignedFiles()
    routes = ImageRoutes(
        engine, files, _safety(args, models[0]), deadline=args.deadline, public_url=args.public_url, sign=args.signature
    )
    app = build_app(routes, keys=keys, rate=RateLimit(args.rate), loopback=is_loopback(args.host))
    try:
        serve(app, engine, Listening(args.host, args.port, args.grace))
    finally:
        files.close()
        if sender is not None:
            sender.send(END)
    return 0 if engine.alive else 1


def _follow(models: list["PipelineModel"]) -> None:
    """Repeat what the engine of process 0 does; SIGTERM is for process 0, which ends the others."""
    from dalle_jax.serve.engine.followed_runner import follow

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for model in models:
        model.warm()
    follow({model.name: model.runner for model in models}, Receiver().receive)


def _log_to_stderr() -> None:
    """Log a line per request, without its prompt, and faults with their traceback."""
    handler, own = logging.StreamHandler(), logging.getLogger("dalle_jax.serve")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    own.addHandler(handler)
    own.setLevel(logging.INFO)
    own.propagate = False


def _check_numbers(args: argparse.Namespace) -> None:
    for name, least in (("queue", 1), ("deadline", 0.001), ("rate", 0), ("grace", 0), ("port", 0)):
        if getattr(args, name) < least:
            raise UserError(f"--{name}: expected at least {least}, got {getattr(args, name)}")
    if args.refuse_similarity is not None and args.refuse is None:
        raise UserError("--refuse-similarity: expected --refuse FILE with it")
    if not 1 <= args.window <= MOST_WINDOW:
        raise UserError(f"--window: expected between 1 and {MOST_WINDOW}, got {args.window}")
    if args.forecast is not None and (args.window == 1 or len(args.model) > 1):
        raise UserError(
            f"--forecast: expected one --model and a --window above 1, got {len(args.model)} and {args.window}"
        )


def named_folders(given: list[str]) -> dict[str, str]:
    """Return the folders of ``[NAME=]DIR`` by name. Raise UserError for one name twice."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not equals or "/" in name:
            name, folder = Path(text).name or "model", text
        if not name or name in found:
            raise UserError(f"--model {text}: expected a name of its own for each model, got {name!r}; give NAME=DIR")
        found[name] = folder
    return found


def _models(args: argparse.Namespace, layout: Layout | None) -> list["PipelineModel"]:
    from dalle_jax.serve.engine.pipeline_model import PipelineModel

    if jax.process_count() > 1 and args.refuse_similarity is not None:
        raise UserError(
            f"--refuse-similarity: expected none in a run of {jax.process_count()} processes, whose CLIP all of them "
            f"would have to run for each image, got {args.refuse_similarity}"
        )
    lanes, batch = lanes_and_batch(args.lanes, args.batch, layout)
    found: list[PipelineModel] = []
    for name, folder in named_folders(args.model).items():
        pipeline = load_pipeline(
            storage.reachable(folder), batch=batch, layout=layout, sees=args.sees, steps=args.steps,
            reduced=reduced_of(args), forecast=args.forecast,
        )  # fmt: skip
        found.append(PipelineModel(name, pipeline, args.window, lanes))
    return found


def lanes_and_batch(lanes: int | None, batch: int | None, layout: Layout | None) -> tuple[int, int]:
    """Return the numbers of lanes and of images of ``--lanes`` and ``--batch``, either of which may be left out.

    Raise UserError for lanes that do not divide the batch, and for several lanes on a mesh.
    """
    if lanes is not None and lanes < 1:
        raise UserError(f"--lanes: expected at least 1, got {lanes}")
    if lanes is not None and lanes > 1 and layout is not None:
        raise UserError(f"--lanes: expected 1 with --mesh, whose devices share the batch, got {lanes}")
    if batch is not None and batch < 1:
        raise UserError(f"--batch: expected at least 1, got {batch}")
    most = min(MOST_LANES, usable_cores()) if layout is None and jax.default_backend() == "cpu" else 1
    if lanes is None:
        lanes = most if batch is None else max(one for one in range(1, most + 1) if batch % one == 0)
    if batch is None:
        batch = BATCH if most == 1 else LANE_BATCH * lanes
    if batch % lanes:
        raise UserError(f"--batch: expected a multiple of the lanes ({lanes}), got {batch}")
    return lanes, batch


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _safety(args: argparse.Namespace, first: "PipelineModel") -> "SafetyFilter":
    from dalle_jax.serve.safety import ConceptFilter, NoFilter, read_concepts

    if args.refuse is None:
        return NoFilter()
    concepts = read_concepts(args.refuse)
    if args.refuse_similarity is None:
        return ConceptFilter(concepts)
    return ConceptFilter(concepts, first.pipeline.require_ranker(), args.refuse_similarity)


def keep_compiled_programs(folder: Path | None) -> None:
    """Let JAX keep what it compiles in a folder of the user, unless the environment names another."""
    if folder is None:
        if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
            return
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(cache) / "dalle_jax" / "compiled"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _count_compiles(engine: "Engine") -> None:
    def count(event: str, duration_secs: float, **kwargs: str | int) -> None:
        del duration_secs, kwargs
        if event == "/jax/core/compile/backend_compile_duration":
            engine.metrics.compiles.inc()

    jax.monitoring.register_event_duration_secs_listener(count)
