"""Figures of inpainting and outpainting."""

from dalle_jax.evaluate.report.run_report import Figure
from dalle_jax.evaluate.suites.evaluate_inpainting import PaintingFindings


def painting_figures(findings: PaintingFindings) -> tuple[Figure, ...]:
    """Return the figures, whose paths in ``metrics.json`` begin with ``edits.inpaint`` and ``edits.outpaint``."""
    candidates, cases = findings.candidates, f"{findings.object_in_hole.count} cases, first candidate"
    inpaint = [
        Figure("object_in_hole", "Inpainting: object in the hole", findings.object_in_hole.value, "percent", cases),
        Figure("unmasked_equal", "Inpainting: other pixels equal", findings.unmasked_equal.value, "percent"),
    ]
    for one in findings.holes:
        note = f"a hole in a scene of {one.level} object{'s' if one.level > 1 else ''}"
        shares = {"first": one.first, f"reranked_{candidates}": one.chosen, f"any_of_{candidates}": one.any_of}
        inpaint += [
            Figure(f"level_{one.level}.{name}", f"Object in the hole, {name}", share.value, "percent", note)
            for name, share in shares.items()
        ]
    scene = f"a cut object; {findings.scene_seam_ratio:.2f} in the scenes themselves"
    outpaint = [
        Figure("seam_ratio", "Outpainting: seam error / inside", findings.seam_ratio, "number", "twice as wide"),
        Figure("completed", "Outpainting: half scenes completed", findings.completed.value, "percent"),
        Figure("completed_seam_ratio", "Their seam error", findings.completed_seam_ratio, "number", scene),
    ]
    by_edit = {"edits.inpaint": inpaint, "edits.outpaint": outpaint}
    return tuple(
        Figure(f"{edit}.{one.path}", one.label, one.value, one.kind, one.note)
        for edit, figures in by_edit.items()
        for one in figures
    )
