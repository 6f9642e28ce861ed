"""A catalogue: products that are found by image, by text or by both, under filters on their fields.

with open_catalog("shop.catalog", fields=[Field("price", "number")]) as catalog:
    catalog.add([Product("boots-7", "Brown boots", "boots.jpg", fields={"price": 79.99})])
    print([match.product.name for match in catalog.match(Query("brown boots", where="price <= 90"))])
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

from ..checks import at_least
from ..config import Config
from ..encoders import Encoder
from ..errors import RowError
from ..files import path_text
from ..records import Progress
from .arguments import check_calls, check_encoder, several
from .calibrate import CatalogCalibration, Judgement, calibrate
from .description import describe, every_product, failures
from .fields import Field
from .filters import Filter, parse_filter
from .ingest import AddReport, Ingest, retry_failures
from .ledger import Generation
from .opening import open_session
from .product_columns import ProductColumns
from .product_sources import open_source
from .products import Product, checked_id, checked_ids, checked_products
from .query import Matches, Query
from .recall import RecallReport, measure_recall
from .reindex import ReindexReport, reindex, switch_to
from .searcher import Searcher
from .session import Session
from .table_export import export_table
from .table_ingest import add_table

Where = Filter | Mapping[str, object] | str | None


def open_catalog(
    place: str | PathLike[str],
    *,
    fields: Sequence[Field] | None = None,
    store: str | None = None,
    model: str | PathLike[str] | None = None,
    config: Config | None = None,
    encoder: Encoder | None = None,
) -> Catalog:
    """Open a catalogue, or make one.

    Args:
        place: A folder, `postgresql://...` for a database, or `:memory:` for one that ends with this object.
        fields: What products carry besides names and images; makes the catalogue if it does not exist, and has to be what it was
            made with if it is. None only opens.
        store: What searches, of a new catalogue: `sqlite`, `lancedb`, `lancedb:<URI>`, `qdrant://host:port` or `pgvector`; see
            docs/catalog.md#stores. None takes `sqlite` in a folder and `pgvector` in PostgreSQL, and of one that is there its own.
        model: A hub id, a folder or an alias; for a new catalogue by default that of `config`, else `mini`. An existing one
            knows its model, whatever `config` says: name it only where its folder has moved.
        config: The other settings, as for `score_pairs`: device, batch size, limits, where relative references start.
        encoder: A loaded encoder to use and share instead; no model is loaded then.

    Returns:
        A catalogue that threads may share; a context manager.

    Raises:
        UsageError: There is no catalogue and no `fields`, or one with other fields or another store; a setting cannot be used.
        DatabaseError: It cannot be read or written, or is something else.
        ModelError: The model cannot be loaded; of an existing catalogue only once something is to be encoded.

    Example:
        >>> from text_image_similarity.encoders.testing import ColourEncoder
        >>> with open_catalog(":memory:", fields=[Field("price", "number")], encoder=ColourEncoder()) as catalog:
        ...     report = catalog.add([Product("mug", "A red mug", fields={"price": 8})])
        ...     [match.product.id for match in catalog.match(Query(where="price < 10"))]
        ['mug']
    """
    return Catalog(open_session(place, fields=fields, store=store, model=model, config=config, encoder=encoder))


class Catalog:
    """Products and what finds them; `open_catalog` makes one. Threads may share it, and processes may open the same one.

    Args:
        session: Its open parts; they are closed with the catalogue.

    Attributes:
        searcher: The steps of `match_many`, for callers that encode elsewhere.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.searcher = Searcher(session)

    def __enter__(self) -> Catalog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._session.ledger.count(None)

    def __repr__(self) -> str:
        return f"Catalog(fields={[field.name for field in self.fields]})"

    @property
    def fields(self) -> tuple[Field, ...]:
        """The declared fields."""
        return self._session.ledger.fields

    @property
    def generations(self) -> list[Generation]:
        """The models that the catalogue has vectors of, the oldest first."""
        return self._session.generations.all()

    def describe(self) -> dict[str, Any]:
        """Return what the catalogue is and holds, in values that JSON holds; `failures` counts products by their first error."""
        return describe(self._session)

    def close(self) -> None:
        """Close files, connections and threads."""
        self._session.close()

    def add(
        self, products: Product | Iterable[Product], *, progress: Progress | None = None, total: int = 0
    ) -> AddReport:
        """Add products, or replace those with the same id. Others see what is written within a second.

        Images whose content is known are not encoded again. One that cannot be read keeps no product out: that is found by its
        words and fields, its error is in the field `_error`, and `retry` tries again.

        Args:
            products: Products, taken lazily and written in batches.
            progress: Called after each batch with (products done, of these failed or refused, `total`).
            total: Products in all, where that is known.

        Raises:
            InputTypeError: One is not a `Product`; those before it are in.
            ModelError, DatabaseError: The model or the catalogue fails; what was written before is kept.
        """
        check_calls(progress=progress)
        at_least("total", total, 0)
        ingest = Ingest(self._session, progress=progress, total=total)
        for _ in ingest.add(checked_products(products)):
            pass
        return ingest.report

    def add_table(
        self,
        table: str | PathLike[str],
        columns: ProductColumns | None = None,
        *,
        progress: Progress | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> AddReport:
        """Add the products of a table or of a MongoDB collection, one a row, as `add` does.

        The same call resumes where one was interrupted, or killed; after one that ended it looks at every row again. Relative
        references start from `Config.base_dir`, else from the table's folder.

        Args:
            table: A table of any format that `score_table` reads, or `mongodb://host/database/collection`.
            columns: Which column holds what, and which are called otherwise; see `ProductColumns`.
            progress: Called first and after each batch with (rows done, of these failed or refused, rows in all).
            stop: Asked after each batch whether to stop; the same call resumes later.

        Raises:
            UsageError: There is no such table, or a column is missing.
            TableError: The table cannot be read, or was changed meanwhile.
            StoppedError, ModelError, DatabaseError: `stop` said yes, or as for `add`.
        """
        check_calls(progress=progress, stop=stop)
        source = open_source(path_text(table, "table"), columns, self._session.config.dialect)
        return add_table(self._session, source, progress=progress, stop=stop)

    def export(
        self,
        out: str | PathLike[str],
        columns: ProductColumns | None = None,
        *,
        where: Where = None,
        force: bool = False,
    ) -> int:
        """Write products as a table, which `add_table` reads again, and return how many there are.

        Args:
            out: A file; its name says the format.
            columns: What its columns are to be called.
            where: Which products; None is all of them.
            force: Whether a file that is there is replaced.

        Raises:
            UsageError: The file is there, the name says no format, or two columns would have one name.
            TableError: It cannot be written.
        """
        return export_table(self.products(where), self.fields, path_text(out, "out"), columns, force=force)

    def retry(self, *, progress: Progress | None = None) -> AddReport:
        """Read the images again of all products with one that failed."""
        check_calls(progress=progress)
        return retry_failures(self._session, progress=progress)

    def delete(self, ids: str | Iterable[str]) -> int:
        """Remove products, and return how many were there; none of them is found from then on, in any process."""
        return self._session.delete(checked_ids(ids))

    def get(self, id: str) -> Product | None:
        """Return a product, or None."""
        return next((each.product for each in self._session.ledger.get([checked_id(id, "id")]).values()), None)

    def products(self, where: Where = None) -> Iterator[Product]:
        """Yield the products that pass a filter, in the order of their ids."""
        return every_product(self._session, parse_filter(where, self.fields))

    def failures(self) -> Iterator[tuple[Product, str]]:
        """Yield the products with an image that failed, by id, each with the first one's `"<code>: <detail>"`."""
        return failures(self._session)

    def match(self, query: str | Query) -> Matches:
        """Find products.

        Args:
            query: Words, or a query.

        Returns:
            A page of products with the total, facets and where the next page begins.

        Raises:
            UsageError: The query cannot be answered as it is; the message says what to change.
            RowError: One of its images or texts cannot be read or encoded.
        """
        (found,) = self.searcher.match_many([query], [""])
        if isinstance(found, RowError):
            raise found
        return found

    def match_many(self, queries: Iterable[str | Query]) -> list[Matches | RowError]:
        """Answer several queries, with one pass of the model and one of the vectors where they allow it.

        Returns:
            For each query, in order, its answer, or why one of its terms has no vector.

        Raises:
            UsageError: One cannot be answered as it is; the message says which.
        """
        given = list(several("queries", queries, "a list of texts and Query"))
        return self.searcher.match_many(given, [f"queries[{number}]" for number in range(len(given))])

    def optimize(self) -> None:
        """Give back space, and build what makes searches fast, after many changes; others search and add meanwhile."""
        self._session.optimize()

    def reindex(
        self,
        model: str | PathLike[str],
        *,
        encoder: Encoder | None = None,
        progress: Progress | None = None,
        stop: Callable[[], bool] = lambda: False,
        allow_lost: int = 0,
    ) -> ReindexReport:
        """Build the vectors of another model beside those that answer, or continue building them; then `switch` can be called.

        The generation that could be rolled back to is dropped first.

        Args:
            model: A hub id, a folder or an alias.
            encoder: That model, loaded; None loads it.
            progress: Called after each batch with (products of this call, images of them that failed, products to do).
            stop: Asked after each batch whether to stop; the same call resumes later.
            allow_lost: How many images with a vector in the live generation may lack one in the new generation.

        Raises:
            ModelError: The model cannot be loaded.
            DatabaseError: The catalogue answers with it already, another generation is being built, the new one's store finds too
                little, or more images are lost; the same call then tries these again.
            StoppedError: `stop` said yes.
        """
        place = path_text(model, "model")
        check_calls(progress=progress, stop=stop)
        check_encoder(encoder)
        at_least("allow_lost", allow_lost, 0)
        return reindex(self._session, place, encoder=encoder, progress=progress, stop=stop, allow_lost=allow_lost)

    def switch(self) -> Generation:
        """Let the generation answer that `reindex` built, from one query to the next, in every process.

        Raises:
            DatabaseError: There is none that is ready.
        """
        return switch_to(self._session, "ready", "there is no generation to switch to; build one with reindex")

    def rollback(self) -> Generation:
        """Let the generation answer again that did so before the last `switch`.

        Raises:
            DatabaseError: There is none.
        """
        return switch_to(self._session, "kept", "there is no generation to go back to")

    def drop(self) -> list[int]:
        """Remove all generations but the one that answers, and return their numbers."""
        return self._session.drop_others()

    def check(self, *, queries: int = 100, filters: Sequence[Where] = (None,)) -> RecallReport:
        """Measure how much of what is nearest the store finds for some queries, under filters that users have."""
        at_least("queries", queries, 1)
        given = [
            parse_filter(where, self.fields) for where in several("filters", filters, "a list of filters") or [None]
        ]
        return measure_recall(self._session, self._session.generations.live(), queries=queries, filters=given)

    def calibrate(self, judgements: Iterable[Judgement]) -> dict[str, CatalogCalibration]:
        """Learn from judged pairs what a similarity means here, so that matches have a probability.

        The share of matching pairs among the judgements is taken for that among all pairs that will be asked about: judge what
        searches find, not a choice of good ones.

        Args:
            judgements: Queries of one text or one image, each with a product and whether it is what was looked for.

        Returns:
            For each kind of query that there is, `text` and `image`, its calibration, which is kept with the generation.

        Raises:
            UsageError: There are too few judgements of a kind, or they all have one score.
        """
        return calibrate(self._session, judgements)
