"""Answer queries in steps, for callers that encode elsewhere, such as a service with shared models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager

from ..encoders import Encoder
from ..errors import RowError
from ..pipeline import Outcome
from .answer import Checked, answer, check
from .arguments import check_type
from .ingest import AddReport, Check, Ingest
from .ledger import Generation
from .product_images import check_again, kept_roots
from .products import Product
from .query import Matches, Query
from .session import Session
from .vectors import Encoded, encode, join


class Searcher:
    """The steps of `Catalog.match_many`. Safe to share between threads.

    Args:
        session: Session of the catalogue.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def version(self) -> int:
        """A number that increases with every write; while it is unchanged, the same query has the same results."""
        return self._session.ledger.version

    def live(self) -> Generation:
        """Return the generation that is currently in use."""
        return self._session.generations.live()

    def has_followed(self, generation: Generation, version: int) -> bool:
        """Tell whether a generation's store has all changes up to a version; other processes may be applying them."""
        return self._session.opened(generation).version >= version

    def open(self, generation: Generation) -> None:
        """Open the store of a generation, so that the first query does not wait for the store."""
        self._session.store(generation)

    def check_file(self, reference: str) -> None:
        """Make sure that an image of a product may be read again, if it is a local file.

        Raises:
            RowError: The file is now a link to a place outside the folder that its table's files must be in.
        """
        check_again(reference, self._session.config, kept_roots(self._session.ledger.database))

    def dropped(self) -> frozenset[int]:
        """Return the numbers of generations that are still open here although other processes have dropped them."""
        return self._session.held - {each.number for each in self._session.generations.all()}

    def forget(self, number: int) -> None:
        """Close a dropped generation that is no longer used by any query."""
        self._session.forget(number)

    @contextmanager
    def checking(self) -> Iterator[None]:
        """Hold an inter-process lock during a block that checks data and then writes.

        Raises:
            DatabaseError: The database fails.
        """
        with self._session.ledger.database.exclusive("check", wait=True):
            yield

    def add(self, products: Sequence[Product], check: Check, *, ends: Callable[[], bool]) -> AddReport:
        """Add products as `Catalog.add` does, calling `check` with those of each transaction under `checking`'s lock.

        Images are fetched and encoded without the lock. `ends` is called after each transaction; if it returns True, no
        further transaction begins. The report counts the products that are done, which are always the first ones.

        Raises:
            DatabaseError: The database fails; products written so far are kept, even if `check` raises an error.
        """
        ingest = Ingest(self._session, check=check)
        with closing(ingest.add(products)) as transactions:
            for _ in transactions:
                if ends():
                    break
        return ingest.report

    def end_additions(self) -> None:
        """Stop fetching and encoding images for good: `add` raises a `UsageError` after its current transaction.

        No product is written unless all its images are done.
        """
        self._session.end_scorers()

    def lend(self, generation: Generation, encoder: Encoder) -> None:
        """Use a loaded encoder of a generation's model for that generation.

        Raises:
            DatabaseError: The encoder is for another model, whose vectors cannot be compared with those of the
                generation.
        """
        self._session.lend(generation, encoder)

    def check(self, query: Query, generation: Generation, name: str = "") -> Checked:
        """Check that a generation can answer a query, whose `contents` need not be encoded yet; return it for `answer`.

        Args:
            query: The query.
            generation: The generation.
            name: Name of the query in messages.

        Raises:
            UsageError: The query cannot be answered; the message says what to change.
        """
        return check(self._session, generation, query, name)

    def answer(
        self, asked: Sequence[Checked], texts: Sequence[Outcome], images: Sequence[Outcome], most: int | None = None
    ) -> Iterator[Matches | RowError | None]:
        """Answer queries to one generation.

        Args:
            asked: The queries.
            texts: Outcomes of the generation's model for the texts of all queries, in order: unit vectors (embed_dim,)
                or errors.
            images: The same for the images of all queries.
            most: Maximum number of characters of a query's products; None for any number.

        Returns:
            For each query, in order and as soon as it is answered, its matches, the reason why a term has no vector, or
            None if its products have more than `most` characters.

        Raises:
            UsageError: A query names a product that does not exist, or a cursor that is not valid.
        """
        if not asked:
            return iter(())
        queries, names = [one.query for one in asked], [one.name for one in asked]
        generation = asked[0].generation
        encoded = join(queries, (texts, images), self._session.ledger, generation, names=names)
        return answer(self._session, asked, encoded, most)

    def match_many(self, queries: Iterable[str | Query], names: Sequence[str]) -> list[Matches | RowError]:
        """Answer queries as `Catalog.match_many` does; `names` are names of the queries in messages."""
        given = [Query(query) if isinstance(query, str) else query for query in queries]
        for name, query in zip(names, given, strict=True):
            check_type(name or "query", query, Query, "a string or a Query")
        generation = self.live()
        asked = [self.check(query, generation, name) for name, query in zip(names, given, strict=True)]
        encoded: Sequence[Encoded | RowError] = [Encoded.empty(query) for query in given]
        if any(query.parts for query in given):
            scorer = self._session.scorer(generation)
            encoded = encode(given, scorer, self._session.ledger, generation, names=names)
        return [found for found in answer(self._session, asked, encoded) if found is not None]
