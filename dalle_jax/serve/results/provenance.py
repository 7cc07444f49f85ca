"""The origin of an image, written into its file: model, seed, hash of the prompt, and that a model drew it.

The property is IPTC's Digital Source Type with the value "trained algorithmic media", in an XMP packet, which
JPEG, PNG, WebP and GIF files can hold. PNG files have the values as text too.
"""

import hashlib
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

import numpy as np

from dalle_jax import __version__
from dalle_jax.arrays import UInt8

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's term for media that a trained model made."""
OWN_NAMESPACE = "urn:dalle_jax:provenance"

_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" \
xmlns:iptc="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:own={namespace} iptc:DigitalSourceType={source}
xmp:CreatorTool={tool} own:model={model} own:seed={seed} own:candidate={candidate} own:prompt_sha256={prompt}/>
</rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""


@dataclass(frozen=True)
class Provenance:
    """The origin of one image. The prompt itself is not written, only its SHA-256."""

    model: str
    prompt: str
    seed: int
    candidate: int

    @property
    def prompt_sha256(self) -> str:
        """The hash of the prompt in UTF-8, in hexadecimal digits."""
        return hashlib.sha256(self.prompt.encode()).hexdigest()

    def text(self) -> dict[str, str]:
        """Return the values as text, for the metadata of PNG files."""
        return {
            "Software": f"dalle_jax {__version__}",
            "DigitalSourceType": "trainedAlgorithmicMedia",
            "Model": self.model,
            "Seed": str(self.seed),
            "Candidate": str(self.candidate),
            "PromptSHA256": self.prompt_sha256,
        }

    def xmp(self) -> bytes:
        """Return the XMP packet."""
        filled = {
            "namespace": OWN_NAMESPACE, "source": SOURCE_TYPE, "tool": f"dalle_jax {__version__}", "model": self.model,
            "seed": str(self.seed), "candidate": str(self.candidate), "prompt": self.prompt_sha256,
        }  # fmt: skip
        return _XMP.format(**{name: quoteattr(value) for name, value in filled.items()}).encode()


SIGNATURE = ((242, 95, 58), (250, 250, 250), (38, 70, 160), (250, 250, 250), (38, 160, 110))
"""The colours of the visible signature: five steps of a stair."""


def signed(pixels: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """Return the image with a stair of five squares in its lower right corner, each 1/64 of the shorter side."""
    found = pixels.copy()
    height, width = pixels.shape[:2]
    side = max(1, min(height, width) // 64)
    for step, colour in enumerate(SIGNATURE):
        left = width - side * (len(SIGNATURE) - step)
        top = height - side * (1 + step % 2)
        found[max(0, top) : top + side, max(0, left) : left + side] = colour
    return found
