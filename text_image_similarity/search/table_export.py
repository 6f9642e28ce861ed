"""Export a catalogue's products as a table that `add_table` can read."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from types import NoneType
from typing import Any

import pyarrow as pa

from ..checks import true_or_false
from ..errors import TableError, UsageError
from ..files import whole_file
from ..formats import (
    ArrowRows,
    JsonRows,
    Rows,
    TableKind,
    dump,
    format_of,
    is_ambiguous,
    is_url,
    local_path,
    writer_for,
)
from ..records import is_missing
from .arguments import check_type
from .fields import Field, FieldKind, number_text
from .product_columns import ProductColumns
from .products import Product

logger = logging.getLogger("text_image_similarity")

_AT_ONCE = 1000  # products in memory
_QUOTE = re.compile(r'\\(["\\])')
_TYPES: dict[FieldKind, pa.DataType] = {
    "text": pa.string(),
    "number": pa.float64(),
    "bool": pa.bool_(),
    "date": pa.string(),
    "texts": pa.list_(pa.string()),
}

_Column = tuple[str, FieldKind, int]  # name, kind, and place in what `_values` returns


def export_table(
    products: Iterable[Product],
    declared: Sequence[Field],
    out: str,
    columns: ProductColumns | None = None,
    *,
    force: bool = False,
) -> int:
    """Write products to a table, which appears complete or not at all, and return their number.

    Args:
        products: The products.
        declared: Declared fields of their catalogue.
        out: The file to write.
        columns: Names of the file's columns.
        force: Whether to replace an existing file.

    Raises:
        UsageError: The file exists, its suffix does not name a format, or two columns would have the same name.
        TableError: The file cannot be written.
    """
    check_type("columns", columns, (ProductColumns, NoneType), "a ProductColumns")
    true_or_false("force", force)
    kind = format_of(out).kind
    shape = _shape(ProductColumns() if columns is None else columns, declared)
    schema = pa.schema([(name, _TYPES[kind]) for name, kind, _ in shape])
    return write_rows(out, schema, _parts(products, shape, declared, kind, schema), force=force)


def write_rows(out: str, schema: pa.Schema, parts: Iterable[Rows], *, force: bool = False) -> int:
    """Write rows to a table, which appears complete or not at all, and return their number.

    Args:
        out: File to write, in the format given by its suffix.
        schema: Schema of the rows.
        parts: Batches of rows, as the format represents them.
        force: Whether to replace an existing file.

    Raises:
        UsageError: The file exists, or its suffix does not name a format that can hold the columns.
        TableError: The file cannot be written.
    """
    if is_url(out):
        raise UsageError(f"{out} is a URL; export to a file on this machine, and copy it from there")
    path, kind = local_path(out), format_of(out).kind
    if path.exists() and not force:
        raise UsageError(f"{out} already exists; name another file, or replace it with --force (force=True)")
    writer = writer_for(out, schema)
    count, ambiguous = 0, False

    def encoded() -> Iterator[bytes | memoryview]:
        nonlocal count, ambiguous
        for rows in parts:
            count += len(rows)
            if kind in ("csv", "tsv"):
                ambiguous = ambiguous or any(is_ambiguous(row, kind) for row in (schema.names, *rows.fields()))
            yield writer.part(rows, ())

    try:
        with whole_file(path) as whole, whole.open("wb") as file:
            writer.join(encoded(), file)
    except OSError as exc:
        raise TableError(f"{out} cannot be written: {exc.strerror or exc}") from exc
    if ambiguous:
        logger.warning(
            "%s has quoted fields that contain line ends, tabs or quotation marks; to read the file again, add "
            "--quoting minimal (Config(dialect=Dialect(quoting='minimal')))",
            out,
        )
    return count


def _shape(chosen: ProductColumns, declared: Sequence[Field]) -> list[_Column]:
    """Return the columns that have a name."""
    names: list[tuple[str, FieldKind]] = [
        (chosen.id, "text"),
        ("name" if chosen.name is None else chosen.name, "text"),
        ("description" if chosen.description is None else chosen.description, "text"),
        ("group" if chosen.group is None else chosen.group, "text"),
        (next(iter(chosen.images), "images"), "texts"),
        *((chosen.fields.get(each.name, each.name), each.kind) for each in declared),
    ]
    given = [name for name, _ in names if name]
    if twice := next((name for name in given if given.count(name) > 1), None):
        raise UsageError(
            f"two columns would be called {twice!r}, because a field has that name; rename one with --field-col {twice}=COLUMN"
        )
    return [(name, kind, place) for place, (name, kind) in enumerate(names) if name]


def _parts(
    products: Iterable[Product],
    shape: Sequence[_Column],
    declared: Sequence[Field],
    kind: TableKind,
    schema: pa.Schema,
) -> Iterator[Rows]:
    """Yield products as rows, with values as Parquet or JSON represents them, or as text."""
    names = [name for name, *_ in shape]
    source, first = iter(products), 1
    while chunk := list(islice(source, _AT_ONCE)):
        found = [_values(product, declared, stored=kind == "parquet") for product in chunk]
        rows = [[values[place] for *_, place in shape] for values in found]
        if kind == "parquet":
            columns = [pa.array(column, at.type) for column, at in zip(zip(*rows, strict=True), schema, strict=True)]
            yield ArrowRows(pa.record_batch(columns, schema=schema))
        else:
            if kind != "jsonl":
                rows = [[_list_as_text(value) if isinstance(value, list) else value for value in row] for row in rows]
            values = [dict(zip(names, row, strict=True)) for row in rows]
            numbers = range(first, first + len(chunk))
            yield JsonRows(numbers, dict.fromkeys(names, "json"), [dump(row) for row in values], values)
        first += len(chunk)


def _list_as_text(texts: list[str]) -> str:
    """Return a list as JSON without backslashes before quotation marks, which CSV dialects interpret differently."""
    return _QUOTE.sub(lambda found: f"\\u{ord(found[1]):04x}", dump(texts))


def _values(product: Product, declared: Sequence[Field], *, stored: bool) -> list[Any]:
    given = [_value(each, product.fields.get(each.name), stored=stored) for each in declared]
    return [product.id, product.name, product.description, product.group, list(product.images), *given]


def _value(declared: Field, value: Any, *, stored: bool) -> Any:
    """Return a field's value for a cell, as given or converted to one type for all rows."""
    if is_missing(value) or declared.stored(value) is None:
        return None
    if declared.kind == "texts":
        texts = value if isinstance(value, (list, tuple)) else [value]
        return [each if isinstance(each, str) else number_text(each) for each in texts]
    if declared.kind == "text":
        return value if isinstance(value, str) else number_text(value)
    return declared.stored(value) if stored and declared.kind != "date" else value
