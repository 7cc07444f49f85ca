"""Findings of inpainting and outpainting as those of an edit, which a report shows."""

from dalle_jax.evaluate.suites.evaluate_inpainting import PaintedStrip, PaintingFindings
from dalle_jax.evaluate.suites.findings import EditedImages, EditFindings, EditMeasure

RESULTS_SHOWN = 2
"""The results of a case that a report shows, best first."""


def painting_edits(findings: PaintingFindings) -> tuple[EditFindings, EditFindings]:
    """Return the measures and strips of inpainting and of outpainting: ``edits.inpaint`` and ``edits.outpaint``."""
    return _inpaint(findings), _outpaint(findings)


def _inpaint(findings: PaintingFindings) -> EditFindings:
    candidates, hole = findings.candidates, findings.object_in_hole
    measures = [
        EditMeasure("object_in_hole", "The prompt's object in the hole", hole, "first candidate"),
        EditMeasure("unmasked_equal", "Other pixels equal to the last bit", findings.unmasked_equal, "all results"),
    ]
    for one in findings.holes:
        note = f"a hole in a scene of {one.level} object{'s' if one.level > 1 else ''}"
        shares = {
            "first": ("First candidate", one.first),
            f"reranked_{candidates}": (f"CLIP’s choice of {candidates}", one.chosen),
            f"any_of_{candidates}": (f"Any of {candidates}", one.any_of),
        }
        measures += [
            EditMeasure(f"level_{one.level}.{key}", title, share, note) for key, (title, share) in shares.items()
        ]
    about = (
        "An object of a scene is hidden by a square (grey), and the prompt names one of another colour and shape. The "
        " two results are CLIP's best; the verdict is that of the better one."
    )
    return EditFindings("inpaint", "Inpainting", about, hole.count, tuple(measures), _rows(findings, ("inpaint",)))


def _outpaint(findings: PaintingFindings) -> EditFindings:
    cut = f"a cut object; {findings.scene_seam_ratio:.2f} in the scenes themselves"
    measures = (
        EditMeasure("seam_ratio", "Error at the seam over that inside", findings.seam_ratio, "twice as wide"),
        EditMeasure("completed", "Half scenes completed as captioned", findings.completed, "first candidate"),
        EditMeasure("completed_seam_ratio", "Error at their seam over that inside", findings.completed_seam_ratio, cut),
    )
    about = (
        "A scene is extended to twice its width, with a caption of another object. Half of a scene, whose edge cuts "
        "through an object, is completed from its caption. Grey is what was missing. The error is the mean absolute "
        "difference of neighbouring columns."
    )
    count, rows = findings.completed.count, _rows(findings, ("extend", "complete"))
    return EditFindings("outpaint", "Outpainting", about, count, measures, rows)


def _rows(findings: PaintingFindings, kinds: tuple[str, ...]) -> tuple[EditedImages, ...]:
    return tuple(_row(strip) for kind in kinds for strip in findings.strips if strip.kind == kind)


def _row(strip: PaintedStrip) -> EditedImages:
    return EditedImages(strip.caption, strip.images[: 1 + RESULTS_SHOWN], strip.right[0])
