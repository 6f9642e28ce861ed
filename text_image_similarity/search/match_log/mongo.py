"""The match log in MongoDB: a collection of entries, and one of events.

A document consists of an id and the entry or event as JSON, because a query may contain names and numbers that BSON
cannot represent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from ...errors import DatabaseError, UsageError
from ...system import require
from .storage import StoredRow, Table

SCHEMES = ("mongodb://", "mongodb+srv://")
_PATIENCE_MS = 10_000  # timeout for a server that does not respond
_IS_THERE = 11000  # MongoDB's code for an id that already exists


class MongoStorage:
    """A log's collections; see `LogStorage`.

    Args:
        url: `mongodb://host/database/collection`, with MongoDB's options after `?`. Events are in
            `<collection>_events`.

    Raises:
        UsageError: The URL does not name a collection.
        MissingExtraError: pymongo is not installed.
        DatabaseError: The server cannot be reached.
    """

    def __init__(self, url: str) -> None:
        require("a log in MongoDB", "pymongo", extra="search")
        parts = urlsplit(url)
        database, _, name = parts.path.strip("/").partition("/")
        if not (database and name):
            raise UsageError("the place of a log in MongoDB must be mongodb://HOST/DATABASE/COLLECTION")
        self._place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"  # without a password
        with self._failing():
            from pymongo import MongoClient, WriteConcern

            self._client: Any = MongoClient(parts._replace(path="/").geturl(), serverSelectionTimeoutMS=_PATIENCE_MS)
            # Writes are acknowledged once a majority of the servers have them in their journals.
            durable = WriteConcern("majority", j=True)
            opened = self._client.get_database(database, write_concern=durable)
            self._collections: Mapping[Table, Any] = {"entry": opened[name], "event": opened[f"{name}_events"]}
            self._client.admin.command("ping")

    def insert(self, rows: Mapping[Table, Sequence[StoredRow]]) -> None:
        from pymongo.errors import BulkWriteError

        with self._failing():
            for table, each in rows.items():
                if not each:
                    continue
                documents = [{"_id": id, "body": body} for id, body in each]
                try:
                    self._collections[table].insert_many(documents, ordered=False)
                except BulkWriteError as problem:
                    details = problem.details
                    if details.get("writeConcernErrors") or any(
                        error["code"] != _IS_THERE for error in details["writeErrors"]
                    ):
                        raise

    def get(self, table: Table, id: str) -> str | None:
        with self._failing():
            found = self._collections[table].find_one({"_id": id})
        return None if found is None else str(found["body"])

    def page(self, table: Table, after: str, before: str, most: int, *, newest: bool = False) -> list[StoredRow]:
        between = {"_id": {"$gt": after, "$lt": before}}
        with self._failing():
            found = self._collections[table].find(between).sort("_id", -1 if newest else 1).limit(most)
            return [(document["_id"], document["body"]) for document in found]

    def delete(self, table: Table, before: str, most: int) -> int:
        ids = [id for id, _ in self.page(table, "", before, most)]
        if not ids:
            return 0
        with self._failing():
            return int(self._collections[table].delete_many({"_id": {"$lte": ids[-1]}}).deleted_count)

    def close(self) -> None:
        self._client.close()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Convert MongoDB's errors into a `DatabaseError` about the log."""
        from pymongo.errors import PyMongoError

        try:
            yield
        except PyMongoError as exc:
            raise DatabaseError(
                f"the log {self._place} cannot be used: {exc}; check the address, user and password, and that the "
                "server is running; acknowledged records are kept"
            ) from exc
