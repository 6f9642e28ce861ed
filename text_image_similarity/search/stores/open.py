"""Open stores; the library for each kind is imported only on demand."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from ...errors import ConfigError, UsageError
from ...system import require
from ..arguments import check_url
from ..fields import Field
from .memory import MemoryStore
from .protocol import Store

STORES_VARIABLE = "TEXT_IMAGE_SIMILARITY_STORES"
_KINDS = "sqlite, lancedb, lancedb:<URI>, qdrant://host:port/name, pgvector"
_AT_HOME = ("sqlite", "lancedb", "pgvector")  # stored together with the products


def check_kind(kind: str, place: str) -> None:
    """Raise a `UsageError` unless a kind of store is valid and possible for a catalogue at a place."""
    if not isinstance(kind, str):
        raise ConfigError(f"store={kind!r} is not one of {_KINDS}")
    if kind == "pgvector" and "://" not in place:
        raise ConfigError("store='pgvector' needs a catalogue in PostgreSQL; give a place such as postgresql://...")
    if kind in _AT_HOME or kind.startswith("lancedb:"):
        return
    if not kind.startswith(("qdrant://", "qdrants://")):
        raise ConfigError(f"store={kind!r} is not one of {_KINDS}")
    check_url("store", kind, one_host=True)
    if not urlsplit(kind).hostname or not _name(kind):
        raise ConfigError(
            f"store={kind!r} needs a host and a unique name for the catalogue's collections: qdrant://host:6333/name"
        )


def check_named(kind: str, place: str, given: str | None) -> None:
    """Make sure that an external store was named by the user, and not only by the catalogue.

    Otherwise, the provider of a catalogue could make this process connect to any address with the user's credentials.

    Args:
        kind: Kind of store in the catalogue.
        place: Place of the catalogue.
        given: Store that the caller named; `TEXT_IMAGE_SIMILARITY_STORES` may name others, separated by spaces.

    Raises:
        UsageError: Only the catalogue names the store.
    """
    named = os.environ.get(STORES_VARIABLE, "")
    if kind in _AT_HOME or kind in (given, named, *named.split()):
        return
    raise UsageError(
        f"the catalogue {place} has its vectors in an external store, {kind}: if you trust it, set the environment variable "
        f"{STORES_VARIABLE}={kind}, or pass store={kind!r} in Python; your credentials, such as QDRANT_API_KEY, are sent there"
    )


def open_store(
    kind: str, place: str, generation: int, fields: Sequence[Field], embed_dim: int, identity: str = ""
) -> Store:
    """Open the store of a generation, or create it.

    Args:
        kind: As for `open_catalog`.
        place: Place of the catalogue.
        generation: Number of the generation.
        fields: All fields, including the built-in ones.
        embed_dim: Length of the vectors.
        identity: Unique token of the catalogue, by which a store in a shared place recognises its catalogue.

    Raises:
        ConfigError: The kind is unknown, or its library is not installed.
        DatabaseError: The store cannot be opened, leads to another place, or belongs to another catalogue.
    """
    check_kind(kind, place)
    if kind.startswith("lancedb"):
        require("a catalogue in LanceDB", "lancedb", extra="search")
        # LanceDB reads this when it is imported. Its log only repeats errors that are raised, without escaping them.
        os.environ.setdefault("LANCEDB_LOG", "off")
        from .lancedb import LanceStore

        named = kind.removesuffix(":") != "lancedb"
        return LanceStore(_folder(kind, place, generation), fields, embed_dim, identity, named=named)
    if kind.startswith("qdrant"):
        require("a catalogue in Qdrant", "qdrant_client", extra="search")
        from .qdrant import QdrantStore, connect

        return QdrantStore(connect(kind), f"{_name(kind)}-{generation}", fields, embed_dim, identity)
    if kind == "pgvector":
        from .pgvector import PgVectorStore

        return PgVectorStore(place, generation, fields, embed_dim)
    return MemoryStore(fields, embed_dim)


def _folder(kind: str, place: str, generation: int) -> str:
    uri = kind.removeprefix("lancedb").removeprefix(":")
    if not uri and not Path(place).is_dir():
        raise ConfigError(
            f"{place} is not a folder in which LanceDB can store vectors; name one: store='lancedb:<URI>'"
        )
    return f"{(uri or place).rstrip('/')}/vectors-{generation}"


def _name(kind: str) -> str:
    return urlsplit(kind).path.strip("/")
