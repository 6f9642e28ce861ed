"""A limit on the number of pieces in which content may arrive: a tiny piece takes as much time as a large one."""

from __future__ import annotations

_PIECES = 8192  # number of pieces; if there are more, they must have on average at least this many bytes:
_PIECE_BYTES = 64


def are_too_small(pieces: int, received: int) -> bool:
    """Tell whether content arrives in too many tiny pieces.

    Args:
        pieces: Number of pieces so far.
        received: Total number of bytes in these pieces.
    """
    return pieces > _PIECES and received < pieces * _PIECE_BYTES
