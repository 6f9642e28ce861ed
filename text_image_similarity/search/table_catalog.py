"""Read a table of products into a catalogue in memory, for one command or one process."""

from __future__ import annotations

from ..config import Config
from ..records import Progress
from .answer import check_fields
from .catalog import Catalog, open_catalog
from .ingest import AddReport
from .ledger import MEMORY
from .product_columns import ProductColumns
from .product_sources import open_source
from .query import Query


def open_table_catalog(
    table: str,
    columns: ProductColumns | None = None,
    *,
    config: Config | None = None,
    progress: Progress | None = None,
    query: Query | None = None,
) -> tuple[Catalog, AddReport]:
    """Read a table into a catalogue in memory, with the fields that its columns suggest.

    Args:
        table: A table of any format that `score_table` reads, or `mongodb://host/database/collection`.
        columns: Names of the columns.
        config: Settings, as for `open_catalog`.
        progress: As for `Catalog.add_table`.
        query: Query that will be sent; its fields are checked before the model is loaded and the table is read.

    Returns:
        The catalogue, and the result of adding the rows.

    Raises:
        UsageError, TableError, ModelError: As for `Catalog.add_table`; or a field of `query` does not exist.
    """
    config = config or Config(model="mini")
    fields = open_source(table, columns, config.dialect).guess_fields()
    if query is not None:
        check_fields(query, fields)
    catalog = open_catalog(MEMORY, fields=fields, config=config)
    try:
        return catalog, catalog.add_table(table, columns, progress=progress)
    except BaseException:
        catalog.close()
        raise
