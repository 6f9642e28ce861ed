"""Embeddings remembered by content: in memory and, from run to run, in a file."""

from __future__ import annotations

from .cache import EmbeddingCache, Vector, content_key
from .memory import EmbeddingMemory, Recent

__all__ = [
    "EmbeddingCache",
    "EmbeddingMemory",
    "Recent",
    "Vector",
    "content_key",
]
