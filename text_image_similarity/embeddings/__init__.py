"""Embeddings remembered by content: in memory and, from run to run, in a file."""

from __future__ import annotations

from .cache import EmbeddingCache, Vector, content_key
from .memory import REMEMBERED, EmbeddingMemory, PartEmbeddings, Recent

__all__ = [
    "REMEMBERED",
    "EmbeddingCache",
    "EmbeddingMemory",
    "PartEmbeddings",
    "Recent",
    "Vector",
    "content_key",
]
