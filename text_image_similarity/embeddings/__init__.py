"""Embeddings remembered by content: in memory and, between runs, in a file or in Redis."""

from __future__ import annotations

from .cache import EmbeddingCache, content_key, content_keys
from .memory import REMEMBERED, EmbeddingMemory, PartEmbeddings, Recent
from .saved import SavedEmbeddings, Vector
from .shared import Event, SharedEmbeddings

__all__ = [
    "REMEMBERED",
    "EmbeddingCache",
    "EmbeddingMemory",
    "Event",
    "PartEmbeddings",
    "Recent",
    "SavedEmbeddings",
    "SharedEmbeddings",
    "Vector",
    "content_key",
    "content_keys",
]
