"""The generations of a catalogue: the models whose vectors it has, and which of them is in use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ...bounded_json import parse_json
from ...errors import DatabaseError
from ..database import ModelIdentity
from .database import Database, Row, Transaction, advance, intact

# `building` lacks vectors, `ready` has all of them, `live` is in use, `kept` was in use before and can be again.
State = Literal["building", "ready", "live", "kept"]


@dataclass(frozen=True, slots=True, eq=False)
class Generation:
    """The vectors of one model.

    Args:
        number: Number of the generation, from 1; never reused.
        identity: The model, with its embeddings of four probes.
        state: `building`, `ready`, `live` or `kept`.
        calibration: Calibration of the model's cosines in this catalogue, as JSON; None if there is none.
    """

    number: int
    identity: ModelIdentity
    state: State
    calibration: str | None = None


# Products with images that a generation has not processed.
UNSEEN = (
    "images <> '[]' AND NOT EXISTS (SELECT 1 FROM picture WHERE generation = ? AND picture.number = product.number)"
)
# The field `_error`: the first error of a product's images in a generation.
_FIRST_ERROR = (
    "(SELECT error FROM picture WHERE generation = ? AND picture.number = product.number AND error IS NOT NULL "
    "ORDER BY slot LIMIT 1)"
)


class Generations:
    """The generations in a ledger's database. Exactly one generation is live once the first has been added."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[Generation]:
        """Return all generations, the oldest first."""
        query = "SELECT number, model, revision, probes, dimension, state, calibration FROM generation ORDER BY number"
        with intact(self._database):
            return [_generation(row) for row in self._database.read(query)]

    def live(self) -> Generation:
        """Return the generation that is in use."""
        found = next((found for found in self.all() if found.state == "live"), None)
        with intact(self._database):
            if found is None:
                raise ValueError("no generation is live")
        return found

    def add(self, identity: ModelIdentity, state: State) -> Generation:
        """Begin a generation; see `add_generation`."""
        with self._database.write() as transaction:
            return add_generation(transaction, identity, state)

    def set_ready(self, number: int) -> None:
        """Mark a generation as having all vectors.

        Raises:
            DatabaseError: The generation was dropped in the meantime.
        """
        with self._database.write() as transaction:
            check_there(transaction, number)
            transaction.run("UPDATE generation SET state = 'ready' WHERE number = ? AND state = 'building'", (number,))

    def forget_failures(self, number: int) -> None:
        """Discard a generation's outcomes for products with a failed image, so that they are processed again."""
        failed = "SELECT number FROM picture WHERE generation = ? AND error IS NOT NULL"
        with self._database.write() as transaction:
            transaction.run(f"DELETE FROM picture WHERE generation = ? AND number IN ({failed})", (number, number))

    def switch(self, number: int) -> bool:
        """Switch to another generation, between one query and the next; the previous one is kept.

        Returns:
            Whether the catalogue has switched; False if the generation lacks outcomes for images of products that were
            added while it was built.

        Raises:
            DatabaseError: The generation is neither ready nor kept.
        """
        with self._database.write() as transaction:
            found = transaction.run("SELECT state FROM generation WHERE number = ?", (number,))
            if not found or found[0][0] not in ("ready", "kept"):
                said = f"its state is {found[0][0]}" if found else "it does not exist"
                raise DatabaseError(f"generation {number} cannot be used: {said}")
            if transaction.run(f"SELECT 1 FROM product WHERE {UNSEEN} LIMIT 1", (number,)):
                return False
            transaction.run("UPDATE generation SET state = 'kept' WHERE state = 'live'")
            transaction.run("UPDATE generation SET state = 'live' WHERE number = ?", (number,))
            version = advance(transaction, "version")
            sql = f"UPDATE product SET version = ?, f2 = {_FIRST_ERROR} WHERE coalesce(f2, '') <> coalesce({_FIRST_ERROR}, '')"
            transaction.run(sql, (version, number, number))
        return True

    def calibrate(self, number: int, calibration: str) -> None:
        """Save the calibration of a generation."""
        with self._database.write() as transaction:
            transaction.run("UPDATE generation SET calibration = ? WHERE number = ?", (calibration, number))
            advance(transaction, "version")  # the same query has other results now, with probabilities

    def set_model(self, number: int, model: str, revision: str | None) -> None:
        """Record where a generation's model is now.

        Raises:
            DatabaseError: The generation has been dropped by another process.
        """
        with self._database.write() as transaction:
            check_there(transaction, number)
            transaction.run("UPDATE generation SET model = ?, revision = ? WHERE number = ?", (model, revision, number))

    def drop(self, numbers: Sequence[int]) -> None:
        """Remove generations and their vectors.

        Raises:
            DatabaseError: One of the generations is live.
        """
        with self._database.write() as transaction:
            for number in numbers:
                live = transaction.run("SELECT 1 FROM generation WHERE number = ? AND state = 'live'", (number,))
                if live:
                    raise DatabaseError(f"generation {number} is live; switch to another one first")
                transaction.run("DELETE FROM picture WHERE generation = ?", (number,))
                transaction.run("DELETE FROM generation WHERE number = ?", (number,))


def check_there(transaction: Transaction, number: int) -> None:
    """Raise a `DatabaseError` unless a generation exists."""
    if not transaction.run("SELECT 1 FROM generation WHERE number = ?", (number,)):
        raise DatabaseError(f"generation {number} has been dropped by another process")


def add_generation(transaction: Transaction, identity: ModelIdentity, state: State) -> Generation:
    """Begin a generation.

    Raises:
        DatabaseError: Another generation is being built, or is ready.
    """
    waiting = transaction.run("SELECT number FROM generation WHERE state IN ('building', 'ready')")
    if waiting:
        raise DatabaseError(f"generation {waiting[0][0]} is being built or is ready; switch to it or drop it first")
    sql = "UPDATE counter SET value = value + 1 WHERE name = 'generation' RETURNING value"
    number = int(transaction.run(sql)[0][0])
    probes = np.ascontiguousarray(identity.probes, "<f4").tobytes()
    transaction.run(
        "INSERT INTO generation VALUES (?, ?, ?, ?, ?, ?, NULL)",
        (number, identity.model, identity.revision, probes, identity.embed_dim, state),
    )
    return Generation(number, identity, state)


def _generation(row: Row) -> Generation:
    number, model, revision, probes, dimension, state, calibration = row
    for kind, each in parse_json(calibration or "{}").items():
        _check_calibration(kind, each)
    vectors = np.frombuffer(memoryview(probes), "<f4").astype(np.float32, copy=False).reshape(-1, dimension)  # (4, d)
    return Generation(int(number), ModelIdentity(model, revision, vectors), state, calibration)


def _check_calibration(kind: str, given: Any) -> None:
    """Raise a `ValueError` unless a saved calibration is one that `calibrate` has written."""
    from ...metrics.calibration import Calibration  # which a catalogue without a calibration does not need

    Calibration.of(given["curve"])
    if not 0 < given["prevalence"] < 1:
        raise ValueError(f"the share of matching pairs for {kind} queries is not between 0 and 1")
