"""Figures of a page from the findings on held-out captioned images."""

from dalle_jax.evaluate.report.run_report import Figure
from dalle_jax.evaluate.suites.evaluate_captioned import CaptionedFindings


def captioned_figures(findings: CaptionedFindings) -> tuple[Figure, ...]:
    """Return each number of the transformer and of CLIP with its label."""
    retrieval = f"of a held-out picture, of {findings.retrieval_among}"
    found = f"CLIP finds its caption, of {findings.found_among}"
    return (
        Figure("clip.retrieval_top1", "CLIP finds the caption", findings.retrieval_top1, "percent", retrieval),
        Figure("clip.retrieval_top5", "… among its first five", findings.retrieval_top5, "percent", retrieval),
        Figure("transformer.image_nll", "Nats per code", findings.image_nll, "nats", "given the picture’s caption"),
        Figure(
            "transformer.image_nll_other", "… another’s caption", findings.image_nll_other, "nats", "captions exchanged"
        ),
        Figure("drawn.first_found", "Drawn, first candidate", findings.first_found, "percent", found),
        Figure("drawn.chosen_found", "Drawn, CLIP’s choice", findings.chosen_found, "percent", found),
    )
