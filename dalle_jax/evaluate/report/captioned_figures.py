"""Numbers that a page shows (``Figure``), from the findings on held-out captioned images."""

from dalle_jax.evaluate.report.run_report import Figure
from dalle_jax.evaluate.suites.evaluate_captioned import CaptionedFindings


def captioned_figures(findings: CaptionedFindings) -> tuple[Figure, ...]:
    """Return the metrics of the transformer and of CLIP with their labels."""
    nll, other = findings.image_nll, findings.image_nll_other
    retrieval = f"of a held-out image, among {findings.retrieval_among}"
    found = f"CLIP finds its caption among {findings.found_among}"
    return (
        Figure("clip.retrieval_top1", "CLIP finds the caption", findings.retrieval_top1, "percent", retrieval),
        Figure("clip.retrieval_top5", "… among its top five", findings.retrieval_top5, "percent", retrieval),
        Figure("transformer.image_nll", "Nats per image code", nll, "nats", "given the image’s caption"),
        Figure("transformer.image_nll_other", "… with another caption", other, "nats", "captions shuffled"),
        Figure("drawn.first_found", "First candidate", findings.first_found, "percent", found),
        Figure("drawn.chosen_found", "CLIP’s choice", findings.chosen_found, "percent", found),
    )
