"""The report as one HTML page: everything inside it, nothing fetched, no script."""

from collections.abc import Iterable, Sequence
from html import escape

from dalle_jax.evaluate.metrics.composition import level_name
from dalle_jax.evaluate.report.accuracy import SPLIT_NAMES, accuracy, figures, guidance, level_title, weakest
from dalle_jax.evaluate.report.formats import candidate, cards, duration, figure, picture, share, table, verdict
from dalle_jax.evaluate.report.run_report import Comparison, Figure, Report, Sample, SampleGroup
from dalle_jax.evaluate.report.style import STYLE

STRIP_PICTURES = 16


def page(report: Report) -> str:
    """The whole page. Sections with nothing to say are left out, so a training-only report is a short page."""
    sections = [
        ("samples", "Samples", _samples(report)),
        ("accuracy", "How often it is right", _accuracy(report)),
        ("limits", "What it cannot do yet", _limits(report)),
        ("training", "Training", _training(report)),
        ("transformer", "Which transformer", _comparison(report.comparison) if report.comparison else ""),
        ("tokenizer", "Reconstructions", _reconstructions(report)),
        ("reader", "How the reader was measured", _reader(report)),
        ("times", "Times and machine", _times(report)),
        ("again", "Do it again", _again(report)),
    ]
    kept = [(key, title, body) for key, title, body in sections if body]
    links = "".join(f'<a href="#{key}">{title}</a>' for key, title, _ in kept)
    body = "".join(f'<section id="{key}"><h2>{title}</h2>{text}</section>' for key, title, text in kept)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light">'
        f"<title>{escape(report.title)}</title><style>{STYLE}</style></head><body>"
        f'<header><h1>{escape(report.title)}</h1><p class="lead">{escape(report.summary)}</p>'
        f"<nav>{links}</nav>{_strip(report.samples)}{cards(headline(report))}</header><main>{body}</main>"
        "<footer>Made by dalle_jax. metrics.json beside this page holds the same figures.</footer></body></html>\n"
    )


def headline(report: Report) -> list[tuple[str, Figure]]:
    """What a visitor wants to know first: right per level, the caller's figures, PSNR, and how long it took."""
    out: list[tuple[str, Figure]] = []
    for cell in report.composition.cells if report.composition else ():
        name = f"reranked_{cell.chosen_of}" if cell.chosen_of in cell.reranked else "first"
        path = f"composition/{level_name(cell.level)}/{cell.split}/{name}"
        note = f"right, CLIP’s choice of {cell.chosen_of}" if name != "first" else "right, first candidate"
        label = f"Level {cell.level}, {SPLIT_NAMES[cell.split]}"
        out.append((path, Figure(path, label, cell.chosen.value, "percent", note)))
    if report.reconstruction is not None:
        note = f"tokenizer PSNR over {report.reconstruction.count} pictures"
        psnr = Figure("", "Reconstruction", report.reconstruction.psnr, "decibel", note)
        out.append(("reconstruction/psnr", psnr))
    out += [(item.path.replace(".", "/"), item) for item in report.figures]
    out.append(("wall_seconds", Figure("", "Time", report.wall_seconds, "seconds", "the whole run")))
    return out


def _strip(groups: Sequence[SampleGroup]) -> str:
    """The first pictures of every group in turn, wrong ones too: what the model draws, at a glance."""
    longest = max((len(group.samples) for group in groups), default=0)
    shown = [group.samples[i] for i in range(longest) for group in groups if i < len(group.samples)][:STRIP_PICTURES]
    items = []
    for sample in shown:
        best = sample.chosen or sample.first
        items.append(
            f"<div>{picture(best.picture, sample.caption)}{escape(sample.caption)} {verdict(best.right)}</div>"
        )
    return f'<div class="strip">{"".join(items)}</div>' if items else ""


def _samples(report: Report) -> str:
    if not any(group.samples for group in report.samples):
        return ""
    judged = any(sample.first.right is not None for group in report.samples for sample in group.samples)
    reader = (
        " Ticks and crosses are the verdict of a reader that looks at the pixels alone; a picture is right when every "
        "part is."
    )
    fixed = "The first captions of each fixed set, in order: nothing was picked, failures are shown."
    out = [f"<p>{fixed}{reader if judged else ''}</p>"]
    if report.sampling:
        out.append(f"<p>Drawn with {escape(report.sampling)}.</p>")
    for group in report.samples:
        out.append(f'<h3>{escape(group.title)}</h3><div class="samples">{"".join(map(_sample, group.samples))}</div>')
    return "".join(out)


def _sample(sample: Sample) -> str:
    of = f" of {sample.chosen_of}" if sample.chosen is not None else ""
    shown = candidate(sample.first, "First candidate", f"no. {sample.first.index + 1}{of}", sample.caption)
    if sample.chosen is not None:
        shown += candidate(sample.chosen, "CLIP’s choice", f"no. {sample.chosen.index + 1}{of}", sample.caption)
    return f'<div class="sample"><p>{escape(sample.caption)}</p><div class="two">{shown}</div></div>'


def _accuracy(report: Report) -> str:
    body = accuracy(report) + guidance(report)
    if not body:
        return ""
    return (
        "<p><b>Seen</b> captions name combinations that occur in training; <b>held out</b> ones never do. “CLIP’s "
        "choice of 16” draws 16 pictures and keeps the one that CLIP scores highest; “any of 16” asks whether at least "
        "one of them is right, which is the most that reranking could reach.</p>" + body
    )


def _limits(report: Report) -> str:
    sentences = [*report.limits, *weakest(report)]
    return f'<ul class="plain">{_items(sentences)}</ul>' if sentences else ""


def _items(sentences: Iterable[str]) -> str:
    return "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)


def _training(report: Report) -> str:
    out = []
    for stage in report.stages:
        if not (stage.charts or stage.note):
            continue
        note = f"<p>{escape(stage.note)}</p>" if stage.note else ""
        out.append(f'<h3>{escape(stage.title)}</h3>{note}<div class="charts">{figures(list(stage.charts))}</div>')
    return "".join(out)


def _comparison(comparison: Comparison) -> str:
    columns = list(dict.fromkeys((f.path, f.label) for contender in comparison.contenders for f in contender.figures))
    rows = []
    for contender in comparison.contenders:
        by_path = {item.path: item for item in contender.figures}
        base = f"comparison/contenders/{contender.name}"
        row = [escape(contender.name) + (" <small>(was run)</small>" if contender.name == comparison.chosen else "")]
        for path, _ in columns:
            item = by_path.get(path)
            row.append(figure(f"{base}/{path}", item.value, item.kind) if item else share("", None))
        rows.append(row)
    head = ["Network", *(escape(label) for _, label in columns)]
    return f"<p>{escape(comparison.why)}</p>{table(head, rows, 'The networks that were compared')}"


def _reconstructions(report: Report) -> str:
    measured = report.reconstruction
    out = []
    if report.reconstructed:
        pairs = "".join(
            f"<div>{picture(pair.original, f'original: {pair.caption}')}{picture(pair.copy, f'copy: {pair.caption}')}"
            f"{escape(pair.caption)}</div>"
            for pair in report.reconstructed
        )
        out.append(
            f'<p>Above the original, below what the tokenizer’s codes give back.</p><div class="pairs">{pairs}</div>'
        )
    if measured is not None:
        rows = [["PSNR", figure("reconstruction/psnr", measured.psnr, "decibel"), ""]]
        rows.append(["Mean squared error", figure("reconstruction/mse", measured.mse, "number"), ""])
        for level, still in measured.still_right.items():
            name, before = level_name(level), measured.read_right.get(level)
            cells = [
                share(f"reconstruction/still_right/{name}", still),
                share(f"reconstruction/read_right/{name}", before),
            ]
            rows.append([f"Read right<br><small>{escape(level_title(report, level))}</small>", *cells])
        head = ["", "After the tokenizer", "Originals"]
        out.append(table(head, rows, f"Over {measured.count} pictures that training did not see"))
    return "".join(out)


def _reader(report: Report) -> str:
    if not report.reader:
        return ""
    rows = []
    for check in report.reader:
        base = f"reader/{check.name}"
        accepted = [
            share(f"{base}/true_accepted", check.true_accepted),
            share(f"{base}/wrong_accepted", check.wrong_accepted),
            share(f"{base}/other_accepted", check.other_accepted),
        ]
        rows.append([escape(check.title), f"{check.true_accepted.count:,}", *accepted])
    head = [
        "Pictures",
        "Number",
        "True captions accepted",
        "One attribute wrong, accepted",
        "Another picture’s, accepted",
    ]
    return table(
        head, rows, "The measuring stick, measured on drawn pictures whose captions are known to be true or not"
    )


def _times(report: Report) -> str:
    rows = []
    for stage in report.stages:
        steps, parameters = (f"{n:,}" if n else share("", None) for n in (stage.steps, stage.parameters))
        seconds = figure(f"stages/{stage.name}/seconds", stage.seconds, "seconds")
        rows.append([escape(stage.title), seconds, steps, parameters])
    rows.append(["The whole run", figure("wall_seconds", report.wall_seconds, "seconds"), "", ""])
    machine = report.machine
    facts = {
        "Processor": f"{machine.cpu}, {machine.cores} of {machine.cores_total} cores used",
        "Memory": f"{machine.memory_gib:g} GiB" if machine.memory_gib else "unknown",
        "Accelerators": machine.accelerators or "none",
        "System": machine.system,
        "Versions": ", ".join(f"{name} {version}" for name, version in machine.versions.items()),
    }
    listed = "".join(f"<dt>{name}</dt><dd>{escape(fact)}</dd>" for name, fact in facts.items())
    return table(["Stage", "Time", "Steps", "Parameters"], rows, "Where the time went") + f"<dl>{listed}</dl>"


def _again(report: Report) -> str:
    config = f"<details><summary>The resolved config</summary><pre>{escape(report.config_text)}</pre></details>"
    took = f"It took {duration(report.wall_seconds)} on the machine above; seed {report.seed}."
    return f"<p>{took}</p><pre>{escape(report.command)}</pre>" + (config if report.config_text else "")
