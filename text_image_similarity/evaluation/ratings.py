"""Compare a model's scores with people's ratings of the same pairs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from os import PathLike

from ..checks import settings_in_config
from ..config import ConfigLike, as_config
from ..encoders import Encoder
from ..errors import TableError, UsageError
from ..files import path_text
from ..formats import (
    Table,
    check_columns,
    check_images,
    check_types,
    choose_columns,
    columns_of,
    open_table,
    read_rows,
    with_base_dir,
)
from ..metrics import agreement
from ..pipeline import RunStats, Scorer
from ..records import Progress, Record
from .report import RatingEvaluation, count_failure, list_failures, sort_failures


@settings_in_config
def evaluate_ratings(  # noqa: PLR0913 - the table, its columns and what a caller may inject; settings are in Config
    table: str | PathLike[str],
    config: ConfigLike = None,
    col_rating: str | Sequence[str] = "rating",
    *,
    col_url: str | None = None,
    col_text: str = "caption",
    encoder: Encoder | None = None,
    progress: Progress | None = None,
) -> RatingEvaluation:
    """Compare a model's cosines with people's ratings of the same pairs.

    The table is read twice, so that a wrong rating is found before the model is loaded.

    Args:
        table: A table of any format that `score_csv` reads, with one pair per row.
        config: Settings of the run, including those for fetching, or a model's name; None means `Config()`. The score
            is always the cosine, regardless of `config.score`. Relative references start from the table's folder unless
            `base_dir` is set.
        col_rating: One or several columns of ratings, where higher is better. Each rating of a row counts as a separate
            pair, as papers count the three experts of Flickr8k-Expert. Empty cells are left out.
        col_url: Column of images or of references to them; None means the one that `score_csv` uses by default.
        col_text: Column of captions.
        encoder: A loaded encoder to use; None loads the model of `config`.
        progress: Called before the first rated row and after every rated row with the numbers of rows done, failed, and
            in total.

    Raises:
        UsageError: There is no such table or column.
        TableError: The table cannot be read, a rating is not a number, or no rated row could be scored.
        ConfigError, ModelError: The model cannot be used.
    """
    names = (col_rating,) if isinstance(col_rating, str) else tuple(col_rating)
    if not names:
        raise UsageError("col_rating is empty; name at least one column")
    config = as_config(config)
    place = path_text(table, "table")
    opened = open_table(place, dialect=config.dialect)
    col_url, col_text = choose_columns(opened, col_url, col_text)
    columns = (col_url, col_text, *names)
    check_columns(columns_of(opened), (col_url, col_text), place)
    check_columns(columns_of(opened), names, place, options="--rating-col (col_rating)")
    check_types(opened.schema, (col_url, col_text), place)
    check_images(opened, col_url, place)
    rated = Counter(bool(given) for given, _ in _rated_records(opened, columns))
    failures = Counter(no_rating=rated[False])
    config = with_base_dir(replace(config, score="cosine"), place)
    stats = RunStats()
    scores: list[float] = []
    judged: list[float] = []
    if progress is not None:
        progress(0, 0, rated[True])
    with Scorer(config, encoder=encoder) as scorer:
        rows = ((given, pair) for given, pair in _rated_records(opened, columns) if given)
        for done, (given, result) in enumerate(scorer.score_tagged(rows, stats=stats), 1):
            if result.error is not None:
                count_failure(failures, result.error)
            else:
                scores += [result.similarity] * len(given)
                judged += given
            if progress is not None:
                progress(done, failures.total() - rated[False], rated[True])
    if not scores:
        raise TableError(f"no row of {table} has both a rating and a score: {list_failures(failures)}")
    return RatingEvaluation(
        source=str(table),
        ratings=names,
        info=scorer.encoder.info,
        rows=rated.total(),
        captions_cut=stats.captions_cut or 0,
        failures=sort_failures(failures),
        agreement=agreement(scores, judged),
    )


def _rated_records(table: Table, columns: Sequence[str]) -> Iterator[tuple[list[float], Record]]:
    """Yield the ratings of each row, if any, and its pair."""
    for where, (url, text, *ratings) in read_rows(table, columns):
        given = [_read_rating(value, where, name) for value, name in zip(ratings, columns[2:], strict=True)]
        yield [rating for rating in given if rating is not None], Record.of(url, text)


def _read_rating(value: object, where: str, column: str) -> float | None:
    """Return a cell's rating, or None for an empty cell."""
    text = "" if value is None else str(value).strip()
    try:
        rating = float(text or "nan")
    except ValueError:
        rating = math.inf
    if math.isinf(rating):
        raise TableError(
            f"{where} has {text[:40]!r} in {column!r}, which is not a rating; write a number, or leave the cell empty"
        )
    return None if math.isnan(rating) else rating
