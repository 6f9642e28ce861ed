"""Read judged queries from a table: a query, a product, and whether they match."""

from __future__ import annotations

from collections.abc import Iterator

from ..config import Config
from ..errors import RowError, UsageError
from ..fetch import locate
from ..formats import check_columns, columns_of, open_table, read_rows, with_base_dir
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
    config: Config | None = None,
) -> Iterator[Judgement]:
    """Yield the judgements of a table; each row has a text or an image.

    Args:
        place: A table of any format that `score_table` reads.
        columns: Column of texts and column of image references; one of them may be None.
        product: Column of the products' ids.
        match: Column that tells whether a query and a product match: true or false, yes or no, 1 or 0.
        config: Settings; only `base_dir`, `files_under` (both are the table's folder by default) and `dialect` are
            used. None means the defaults.

    Raises:
        UsageError: A column is missing, or a row cannot be read; the message names the row.
        TableError: The table cannot be read.
    """
    text, image = columns
    config = with_base_dir(config or Config(), place)
    table = open_table(place, dialect=config.dialect)
    names = [name for name in (text, image, product, match) if name is not None]
    if text is None and image is None:
        raise UsageError(f"{place}: name the column of queries with --text-col or --image-col")
    check_columns(columns_of(table), names, place)
    for where, values in read_rows(table, names):
        row = dict(zip(names, values, strict=True))
        words, reference = (str(row.get(name) or "") if name is not None else "" for name in columns)
        try:
            if bool(words.strip()) == bool(reference.strip()):
                raise UsageError("a judgement needs either a text or an image")
            term = Term(words) if words.strip() else Term(image=locate(reference, config))
            yield Judgement(term, cell_text(row[product], product), _is_match(match, row[match]))
        except (UsageError, RowError) as problem:
            raise UsageError(f"{where}: {problem}") from None


def _is_match(column: str, value: object) -> bool:
    answer = str(value) if isinstance(value, bool) else cell_text(value, column)
    if (found := _ANSWERS.get(answer.strip().lower())) is None:
        raise UsageError(f"{column!r} must be true or false, not {value!r:.100}")
    return found
