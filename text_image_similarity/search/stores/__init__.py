"""Vector stores: indexes of a catalogue's vectors that follow its ledger and can be searched with filters."""

from __future__ import annotations

from .memory import MemoryStore
from .protocol import Changes, Hits, Rows, Store

__all__ = ["Changes", "Hits", "MemoryStore", "Rows", "Store"]
