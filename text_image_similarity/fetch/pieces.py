"""Into how many pieces content may be cut on its way: each of a few bytes takes the time of a large one."""

from __future__ import annotations

_PIECES = 8192  # (chunks); content in more of them must have so many bytes in each, on average:
_PIECE_BYTES = 64


def are_too_small(pieces: int, received: int) -> bool:
    """Say whether content comes in too many pieces of a few bytes.

    Args:
        pieces: How many came so far.
        received: The bytes of all of them.
    """
    return pieces > _PIECES and received < pieces * _PIECE_BYTES
