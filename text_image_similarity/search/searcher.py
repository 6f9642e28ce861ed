"""Queries in, answers out, in steps: for callers that encode elsewhere, as a service does whose models are shared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from ..encoders import Encoder
from ..errors import RowError
from ..pipeline import Outcome
from .answer import Checked, answer, check
from .arguments import check_type
from .ledger import Generation
from .query import Matches, Query
from .session import Session
from .vectors import Encoded, encode, join


class Searcher:
    """What `Catalog.match_many` does, one step after the other. Threads may share it.

    Args:
        session: The open parts of the catalogue.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def version(self) -> int:
        """A number that goes up with everything that is written: the same query has the same answer until then."""
        return self._session.ledger.version

    def live(self) -> Generation:
        """Return the generation that answers now."""
        return self._session.generations.live()

    def has_followed(self, generation: Generation, version: int) -> bool:
        """Say whether what a generation searches has everything up to a version: others may be putting it there just now."""
        return self._session.opened(generation).version >= version

    def open(self, generation: Generation) -> None:
        """Open what a generation searches, so that its first query need not wait for that."""
        self._session.store(generation)

    def dropped(self) -> frozenset[int]:
        """Return the numbers of the generations that are gone and of which something is still open: others may drop some."""
        return self._session.held - {each.number for each in self._session.generations.all()}

    def forget(self, number: int) -> None:
        """Close what is open of a generation that is gone and that no query uses any longer."""
        self._session.forget(number)

    @contextmanager
    def checking(self) -> Iterator[None]:
        """Keep other processes from doing the same while the block looks at what is there, and then writes.

        Raises:
            DatabaseError: The database fails.
        """
        with self._session.ledger.database.exclusive("check", wait=True):
            yield

    def lend(self, generation: Generation, encoder: Encoder) -> None:
        """Use a loaded encoder for a generation, whose model it has to be.

        Raises:
            DatabaseError: It is another model: its vectors cannot be compared with the generation's.
        """
        self._session.lend(generation, encoder)

    def check(self, query: Query, generation: Generation, name: str = "") -> Checked:
        """Make sure that a generation can answer a query once its terms are encoded; `contents` says what that takes.

        Args:
            query: The query.
            generation: The generation.
            name: What messages call the query.

        Raises:
            UsageError: It cannot; the message says what to change.
        """
        return check(self._session, generation, query, name)

    def answer(
        self, asked: Sequence[Checked], texts: Sequence[Outcome], images: Sequence[Outcome]
    ) -> list[Matches | RowError]:
        """Answer queries of one generation.

        Args:
            asked: The queries.
            texts: What the generation's model made of the texts of all of them, in order, unit vectors (embed_dim,) or errors.
            images: The same of their images.

        Returns:
            For each query, in order, its answer, or why one of its terms has no vector.

        Raises:
            UsageError: A query names a product that does not exist, or a page that cannot be continued.
        """
        if not asked:
            return []
        queries, names = [one.query for one in asked], [one.name for one in asked]
        generation = asked[0].generation
        encoded = join(queries, (texts, images), self._session.ledger, generation, names=names)
        return answer(self._session, asked, encoded)

    def match_many(self, queries: Iterable[str | Query], names: Sequence[str]) -> list[Matches | RowError]:
        """See `Catalog.match_many`; `names` is what messages call each query."""
        given = [Query(query) if isinstance(query, str) else query for query in queries]
        for name, query in zip(names, given, strict=True):
            check_type(name or "query", query, Query, "a text or a Query")
        generation = self.live()
        asked = [self.check(query, generation, name) for name, query in zip(names, given, strict=True)]
        encoded: Sequence[Encoded | RowError] = [Encoded.empty(query) for query in given]
        if any(query.parts for query in given):
            scorer = self._session.scorer(generation)
            encoded = encode(given, scorer, self._session.ledger, generation, names=names)
        return answer(self._session, asked, encoded)
