"""The choice between one code per pass and a window of codes per pass (parallel decoding)."""

from dalle_jax.parallel.chips import chip_of
from dalle_jax.sampling.options import Decoding


def choose_window(decoding: Decoding, window: int, rows: int, device_kind: str) -> int:
    """Return the number of codes that a pass computes of each of ``rows`` rows on a device; 1 is sequential decoding.

    ``auto`` takes the largest power of two, at most ``window``, for which rows times window stay within the chip's
    balance. The balance is FLOP/s over bytes/s of the memory, from ``parallel.chips``: 206 for an H200, 241 for a v5e.
    Up to about that many rows, reading bfloat16 weights takes longer than the products, so that the rows of a window
    cost little (Williams et al. 2009, "Roofline"). On a CPU, or a chip that is not listed, ``auto`` is sequential.
    """
    if decoding == "sequential":
        return 1
    if decoding == "jacobi":
        return window
    chip = chip_of(device_kind)
    most = 1 if chip is None else min(window, int(chip.flops / chip.bandwidth) // rows)
    return 1 << max(0, most.bit_length() - 1)
