"""Open and create catalogues in folders, in PostgreSQL and in memory."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from os import PathLike
from pathlib import Path

from ..config import Config, require_config
from ..encoders import Encoder, load_encoder
from ..errors import DatabaseError, UsageError
from ..files import path_text
from .arguments import check_encoder, check_url
from .database import ModelIdentity
from .fields import BUILT_IN, Field, checked_fields
from .ledger import MEMORY, Database, Ledger, SqliteDatabase, Transaction, add_generation, intact
from .session import OpenStore, Session
from .stores import Store
from .stores.open import check_kind, check_named, open_store

FILE = "catalog.sqlite"
SERVERS = ("postgresql://", "postgres://")


def open_session(
    place: str | PathLike[str],
    *,
    fields: Sequence[Field] | None,
    store: str | None,
    model: str | PathLike[str] | None,
    config: Config | None,
    encoder: Encoder | None,
) -> Session:
    """Open or create a catalogue, and return its session; see `open_catalog`."""
    where = _checked_place(place)
    config = Config(model="mini") if config is None else config
    require_config(config)
    config = config if model is None else replace(config, model=model)
    check_encoder(encoder)
    if config.score != "cosine":
        raise UsageError("a catalogue always uses cosines; leave Config.score at its default")
    declared = None if fields is None else checked_fields(fields)
    if store is not None:
        check_kind(store, where)
    identity = None
    if not is_catalog(where):
        if declared is None:
            raise UsageError(
                f"there is no catalogue at {where}; create one with text-image-similarity catalog create {where} --fields-from TABLE "
                "(open_catalog(..., fields=[...]))"
            )
        encoder = encoder or load_encoder(config)  # first, so that no file is created if this fails
        identity = ModelIdentity.of(encoder)
        database = _make(where, declared, store or default_kind(where), identity)
    else:
        database = _open(where)
    try:
        ledger, kind, open_generation = _ledger(where, database, declared, store)
        session = Session(ledger, config, open_generation, encoder=encoder, identity=identity)
    except BaseException:
        database.close()
        raise
    session.live_model = None if model is None else path_text(model, "model")
    session.store_kind = kind
    return session


def set_model(place: str | PathLike[str], config: Config) -> list[int]:
    """Record where a catalogue's model is now; processes that open the catalogue later load the model from there.

    Args:
        place: The catalogue.
        config: Settings for loading the model; `model` and `revision` name its new place.

    Returns:
        The numbers of the generations with vectors of this model, at least one.

    Raises:
        UsageError: There is no catalogue at `place`.
        ModelError: The model cannot be loaded.
        DatabaseError: The model is not one of the catalogue's models, or the catalogue cannot be read or written.
    """
    with closing(open_session(place, fields=None, store=None, model=None, config=config, encoder=None)) as session:
        found = ModelIdentity.of(load_encoder(config))
        generations = session.generations.all()
        same = [each.number for each in generations if each.identity.same_as(found)]
        if not same:
            made = " and ".join(str(each.identity) for each in generations)
            raise DatabaseError(
                f"the catalogue {place} was created with {made}, but {found} is a different model, whose vectors "
                "cannot be compared with those of the catalogue; name a folder or an export of the same model"
            )
        for number in same:
            session.generations.set_model(number, found.model, found.revision)
    return same


def _checked_place(place: object) -> str:
    where = path_text(place, "place")
    if not where or "\0" in where:
        raise UsageError(f"place={where!r} cannot be a catalogue; name a folder, or postgresql://...")
    if "://" in where and not where.startswith(SERVERS):
        raise UsageError(
            f"{where} cannot be a catalogue: a catalogue is a folder, or is in PostgreSQL (postgresql://...)"
        )
    check_url("place", where)
    return where


def _check_store(where: str, kept: str, store: str | None) -> None:
    if store is not None and store != kept:
        raise UsageError(
            f"the catalogue {where} has the store {kept}, not {store}, and cannot change it; create a new catalogue with the other store, "
            "export the products of this one (catalog export), and add them there (catalog add)"
        )
    check_named(kept, where, store)


def default_kind(where: str) -> str:
    """Return the default kind of store for a catalogue."""
    return "pgvector" if where.startswith(SERVERS) else "sqlite"


def _ledger(
    where: str, database: Database, declared: tuple[Field, ...] | None, store: str | None
) -> tuple[Ledger, str, OpenStore]:
    """Return the ledger in a database, and the kind of its stores with the function that opens them."""
    # All settings are read once, because a stranger's file could return different values for the same setting.
    settings: dict[str, str] = dict(database.read("SELECT name, value FROM setting"))
    with intact(database):
        fields = tuple(Field(*each) for each in json.loads(settings["fields"]))
        kind, token = settings["store"], settings["identity"]
    if declared is not None and declared != fields:
        raise UsageError(
            f"the catalogue {where} was created with the fields {_described(fields)}, "
            f"not {_described(declared)}; leave out the argument `fields` to open it, or create another catalogue"
        )
    _check_store(where, kind, store)

    def open_generation(number: int, embed_dim: int) -> Store:
        return open_store(kind, where, number, (*BUILT_IN, *fields), embed_dim, token)

    return Ledger(database, fields), kind, open_generation


def _described(fields: tuple[Field, ...]) -> str:
    return ", ".join(f"{field.name}:{field.kind}" for field in fields) or "(none)"


def is_catalog(where: str) -> bool:
    """Tell whether there is a catalogue at a place.

    Raises:
        DatabaseError: The place contains something else.
    """
    if where == MEMORY:
        return False
    if where.startswith(SERVERS):
        from .ledger.postgres import has_catalog  # imports psycopg, which only this kind of place needs

        return has_catalog(where)
    try:
        return _is_catalog(Path(where))
    except OSError as exc:
        raise DatabaseError(f"{where} cannot be read: {exc.strerror or exc}") from exc


def _is_catalog(folder: Path) -> bool:
    if folder.exists() and not folder.is_dir():
        raise DatabaseError(f"{folder} is a file; name a folder for the catalogue")
    if folder.is_dir() and not (folder / FILE).is_file() and any(not _is_left_over(path) for path in folder.iterdir()):
        raise DatabaseError(
            f"{folder} is a folder with other files in it, not a catalogue; name a catalogue, or a new folder to create one"
        )
    return (folder / FILE).is_file()


def _is_left_over(path: Path) -> bool:
    return path.name.startswith(f".{FILE}")  # left by a process that was killed while it created the catalogue


def _open(where: str) -> Database:
    if where.startswith(SERVERS):
        from .ledger.postgres import PostgresDatabase

        return PostgresDatabase(where)
    return SqliteDatabase(Path(where) / FILE)


def _make(where: str, fields: tuple[Field, ...], kind: str, identity: ModelIdentity) -> Database:
    """Create a catalogue that is complete when it appears, even if other processes create the same one."""
    if where.startswith(SERVERS):
        from .ledger.postgres import PostgresDatabase, make_catalog

        make_catalog(where, fields, lambda transaction: _begin(transaction, fields, kind, identity))
        return PostgresDatabase(where)
    if where == MEMORY:
        database = SqliteDatabase(MEMORY, fields)
        with database.write() as transaction:
            _begin(transaction, fields, kind, identity)
        return database
    place = Path(where) / FILE
    partial = place.with_name(f".{FILE}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with closing(SqliteDatabase(partial, fields)) as database, database.write() as transaction:
            _begin(transaction, fields, kind, identity)
        with suppress(FileExistsError):  # another process was faster
            os.link(partial, place)
    except OSError as exc:
        raise DatabaseError(f"the catalogue {where} cannot be created: {exc.strerror or exc}") from exc
    finally:
        for path in place.parent.glob(f"{partial.name}*"):
            path.unlink(missing_ok=True)
    return SqliteDatabase(place)


def _begin(transaction: Transaction, fields: tuple[Field, ...], kind: str, identity: ModelIdentity) -> None:
    """Record the description of a new catalogue."""
    listed = json.dumps([(field.name, field.kind) for field in fields])
    transaction.run_many(
        "INSERT INTO setting VALUES (?, ?)", [("fields", listed), ("store", kind), ("identity", secrets.token_hex(16))]
    )
    add_generation(transaction, identity, "live")
