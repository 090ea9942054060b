"""Where to look for a card that has less memory than it says, and with what. Pure.

Such cards lose what is written past their real size, or write it over their beginning.
"""

from __future__ import annotations

PROBE = 4096
_SPREAD = 32
_MIB = 1 << 20


def probe_offsets(begin: int, end: int) -> tuple[int, ...]:
    """Give offsets between `begin` (the image's end) and `end`, in bytes, multiples of PROBE.

    32 spread evenly find what is lost. A real size is mostly a power of two: the block 2 MiB after
    one is, on a card that wraps, the image's own block at 2 MiB, and the image overwrites it.
    """
    begin = -(-begin // PROBE) * PROBE
    if end - begin < PROBE:
        return ()
    step = max((end - begin) // _SPREAD // PROBE * PROBE, PROBE)
    spread = range(begin, end - PROBE + 1, step)
    wraps = ((1 << power) + 2 * _MIB for power in range(24, end.bit_length()))
    last = (end - PROBE) // PROBE * PROBE
    return tuple(sorted({*spread, last, *(at for at in wraps if begin <= at <= end - PROBE)}))


def probe_block(nonce: bytes, offset: int) -> bytes:
    """Give the block for an offset; `nonce` (8 bytes) tells it from an earlier run's."""
    return (nonce + offset.to_bytes(8, "little")) * (PROBE // 16)
