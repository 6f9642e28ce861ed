"""Catalogues: products that can be searched by image, by text or by both, with filters on their fields.

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
    """Open a catalogue, or create one.

    Args:
        place: A folder, `postgresql://...`, or `:memory:` for a catalogue that lasts as long as the returned object.
        fields: Fields of products in addition to names and images, to create a catalogue that does not exist; an
            existing one must have the same fields. None only opens an existing catalogue.
        store: Store of a new catalogue: `sqlite`, `lancedb`, `lancedb:<URI>`, `qdrant://host:port/name` or `pgvector`;
            see docs/catalog.md#stores. None means `pgvector` in PostgreSQL, and `sqlite` elsewhere.
        model: A hub id, a folder or an alias; by default, a new catalogue uses the model of `config`, or `mini` without
            a `config`. An existing catalogue has its own model; name it only if the model's folder has moved.
        config: Other settings, as for `score_pairs`: device, batch size, limits, folder of relative references.
        encoder: A loaded encoder to use and share; no model is then loaded.

    Returns:
        A catalogue, which is a context manager and safe to share between threads.

    Raises:
        UsageError: A new catalogue lacks `fields`, an existing one has others or another store, or a value is invalid.
        DatabaseError: The catalogue cannot be read or written, or the place contains something else.
        ModelError: The model cannot be loaded; for an existing catalogue, this is raised only when the model is needed.

    Example:
        >>> from text_image_similarity.encoders.testing import ColourEncoder
        >>> with open_catalog(":memory:", fields=[Field("price", "number")], encoder=ColourEncoder()) as catalog:
        ...     report = catalog.add([Product("mug", "A red mug", fields={"price": 8})])
        ...     [match.product.id for match in catalog.match(Query(where="price < 10"))]
        ['mug']
    """
    return Catalog(open_session(place, fields=fields, store=store, model=model, config=config, encoder=encoder))


class Catalog:
    """A catalogue of products; see `open_catalog`. Threads may share it, and several processes may open the same one.

    Args:
        session: Open resources of the catalogue, which are closed with it.

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
        """The models whose vectors the catalogue has, the oldest first."""
        return self._session.generations.all()

    def describe(self) -> dict[str, Any]:
        """Return a description of the catalogue as JSON values; `failures` counts products by their first error."""
        return describe(self._session)

    def close(self) -> None:
        """Close files, connections and threads."""
        self._session.close()

    def add(
        self, products: Product | Iterable[Product], *, progress: Progress | None = None, total: int = 0
    ) -> AddReport:
        """Add products, or replace those with the same id. Other processes see changes within a second.

        Images with known content are not encoded again. A product with an image that cannot be read is found by its
        words and fields, the error is in the field `_error`, and `retry` tries the image again.

        Args:
            products: Products, which are read lazily and written in batches.
            progress: Called after each batch with (products done, failed or refused among these, `total`).
            total: Total number of products; 0 if unknown.

        Raises:
            InputTypeError: An item is not a `Product`; earlier products have been added.
            ModelError, DatabaseError: The model or the catalogue fails; products written so far are kept.
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
        """Add the products of a table or of a MongoDB collection, one per row, as `add` does.

        The same call resumes where an earlier one was interrupted or killed; after one that finished, it processes
        every row again. Relative references start from `Config.base_dir`, or else from the table's folder.

        Args:
            table: A table of any format that `score_table` reads, or `mongodb://host/database/collection`.
            columns: Names of the columns; see `ProductColumns`.
            progress: Called at once and after each batch with (rows done, failed or refused of these, rows in total).
            stop: Called at once and after each batch; True stops the call, and the same call resumes later.

        Raises:
            UsageError: There is no such table, or a column is missing.
            TableError: The table cannot be read, or was changed in the meantime.
            StoppedError, ModelError, DatabaseError: `stop` returned True, or the products cannot be added; see `add`.
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
        """Write products as a table that `add_table` can read, and return their number.

        Args:
            out: File to write, in the format given by its suffix.
            columns: Names of the file's columns.
            where: Filter for products; None means all of them.
            force: Whether to replace an existing file.

        Raises:
            UsageError: The file exists, its suffix does not name a format, or two columns would have the same name.
            TableError: The file cannot be written.
        """
        return export_table(self.products(where), self.fields, path_text(out, "out"), columns, force=force)

    def retry(self, *, progress: Progress | None = None) -> AddReport:
        """Retry the images of all products with an image that failed; `updated` counts those whose images now work."""
        check_calls(progress=progress)
        return retry_failures(self._session, progress=progress)

    def delete(self, ids: str | Iterable[str]) -> int:
        """Remove products, and return how many existed; from then on, no process finds them."""
        return self._session.delete(checked_ids(ids))

    def get(self, id: str) -> Product | None:
        """Return the product with an id; None if there is none."""
        return next((each.product for each in self._session.ledger.get([checked_id(id, "id")]).values()), None)

    def products(self, where: Where = None) -> Iterator[Product]:
        """Yield the products that pass a filter, ordered by id."""
        return every_product(self._session, parse_filter(where, self.fields))

    def failures(self) -> Iterator[tuple[Product, str]]:
        """Yield the products with a failed image, ordered by id, each with its first error, `"<code>: <detail>"`."""
        return failures(self._session)

    def match(self, query: str | Query) -> Matches:
        """Find products.

        Args:
            query: Words, or a query.

        Returns:
            A page of products, with the total, facets and the cursor of the next page.

        Raises:
            UsageError: The query cannot be answered; the message says what to change.
            RowError: An image or text of the query cannot be read or encoded.
        """
        (found,) = self.searcher.match_many([query], [""])
        if isinstance(found, RowError):
            raise found
        return found

    def match_many(self, queries: Iterable[str | Query]) -> list[Matches | RowError]:
        """Answer several queries, if possible with one pass of the model and one pass over the vectors.

        Returns:
            For each query, in order, its matches, or the reason why a term has no vector.

        Raises:
            UsageError: A query cannot be answered; the message says which one.
        """
        given = list(several("queries", queries, "a list of texts and Query objects"))
        return self.searcher.match_many(given, [f"queries[{number}]" for number in range(len(given))])

    def optimize(self) -> None:
        """Reclaim space and rebuild search indexes after many changes, without blocking searches and additions."""
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
        """Build another model's vectors, or resume building them, while the current ones stay in use; see `switch`.

        Before a new generation is begun, the one kept for `rollback` is dropped.

        Args:
            model: A hub id, a folder or an alias.
            encoder: A loaded encoder of that model; None loads the model.
            progress: Called after each batch with (products of this call, their images that failed, products in total).
            stop: Called after each batch; True stops the call, and the same call resumes later.
            allow_lost: Number of images with a vector in the live generation that may lack one in the new generation.

        Raises:
            ModelError: The model cannot be loaded.
            DatabaseError: The catalogue already uses this model, another generation is being built, the recall of the
                new store is too low, or more images are lost than `allow_lost` permits; the same call retries these.
            StoppedError: `stop` returned True.
        """
        place = path_text(model, "model")
        check_calls(progress=progress, stop=stop)
        check_encoder(encoder)
        at_least("allow_lost", allow_lost, 0)
        return reindex(self._session, place, encoder=encoder, progress=progress, stop=stop, allow_lost=allow_lost)

    def switch(self) -> Generation:
        """Switch every process to the generation that `reindex` built, between one query and the next, and return it.

        Raises:
            DatabaseError: No generation is ready.
        """
        return switch_to(self._session, "ready", "there is no generation to switch to; build one with reindex")

    def rollback(self) -> Generation:
        """Go back to the generation that was in use before the last `switch`, and return it.

        Raises:
            DatabaseError: There is no such generation.
        """
        return switch_to(self._session, "kept", "there is no generation to go back to")

    def drop(self) -> list[int]:
        """Remove all generations except the one in use, and return their numbers."""
        return self._session.drop_others()

    def check(self, *, queries: int = 100, filters: Sequence[Where] = (None,)) -> RecallReport:
        """Measure the store's recall, the share of the nearest images found, with each filter; None filters nothing."""
        at_least("queries", queries, 1)
        given = [
            parse_filter(where, self.fields) for where in several("filters", filters, "a list of filters") or [None]
        ]
        return measure_recall(self._session, self._session.generations.live(), queries=queries, filters=given)

    def calibrate(self, judgements: Iterable[Judgement]) -> dict[str, CatalogCalibration]:
        """Fit a calibration to judged pairs, so that matches have a probability.

        The share of matching pairs among the judgements is assumed to hold for future queries, so judge the products
        that searches find, not only good matches.

        Args:
            judgements: Queries of one text or one image, each with a product and whether it matches.

        Returns:
            The calibration of each kind of query that occurs, `text` and `image`, which is saved with the generation.

        Raises:
            UsageError: There are too few judgements of a kind, or all have the same score.
        """
        return calibrate(self._session, judgements)
