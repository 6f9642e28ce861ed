"""Judged queries from a table: what somebody looked for, a product, and whether it was that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..config import Dialect
from ..dataset.read import resolve_reference
from ..errors import UsageError
from ..formats import check_columns, columns_of, folder_of, open_table, read_rows
from .calibrate import Judgement
from .product_columns import cell_text
from .query import Term

_ANSWERS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def read_judgements(
    place: str,
    columns: tuple[str | None, str | None],
    *,
    product: str = "product",
    match: str = "match",
    dialect: Dialect | None = None,
    base_dir: Path | None = None,
) -> Iterator[Judgement]:
    """Yield the judgements of a table; each row has a text or a picture.

    Args:
        place: A table of any format that `score_table` reads.
        columns: Those of texts and of references to pictures; None where there is none.
        product: The column of the products' ids.
        match: The column that says whether they match: true or false, yes or no, 1 or 0.
        dialect: How CSV and TSV files are written.
        base_dir: Where relative references start; None is the table's folder.

    Raises:
        UsageError: A column is missing, or a row cannot be read; the message names the row.
        TableError: The table cannot be read.
    """
    text, image = columns
    table = open_table(place, dialect=dialect)
    names = [name for name in (text, image, product, match) if name is not None]
    if text is None and image is None:
        raise UsageError(f"{place}: which column holds the queries? Name it with --text-col or --image-col")
    check_columns(columns_of(table), names, place)
    base = base_dir or folder_of(place) or "."
    for where, values in read_rows(table, names):
        row = dict(zip(names, values, strict=True))
        words, reference = (str(row.get(name) or "") if name is not None else "" for name in columns)
        try:
            if bool(words.strip()) == bool(reference.strip()):
                raise UsageError("a judgement needs a text or a picture, and not both")
            term = Term(words) if words.strip() else Term(image=resolve_reference(reference, base))
            yield Judgement(term, cell_text(row[product], product), _is_match(match, row[match]))
        except UsageError as problem:
            raise UsageError(f"{where}: {problem}") from None


def _is_match(column: str, value: object) -> bool:
    answer = str(value) if isinstance(value, bool) else cell_text(value, column)
    if (found := _ANSWERS.get(answer.strip().lower())) is None:
        raise UsageError(f"{column!r} must be true or false, not {value!r:.100}")
    return found
