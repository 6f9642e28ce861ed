"""Score Arrow batches, for the tasks of Spark and Ray Data."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from itertools import islice

import pyarrow as pa

from ..formats import SCORE_FIELDS, each_value, score_arrays
from ..records import Record, ScoreResult
from .scorer import Scorer


def score_batches(
    batches: Iterable[pa.RecordBatch], scorer: Scorer, columns: tuple[str, str]
) -> Generator[pa.RecordBatch]:
    """Score the rows of Arrow batches as one stream: downloads and encoding do not stop at the end of a batch.

    Args:
        batches: Rows, in batches of any size; a batch is held until its last row is scored.
        scorer: Session that scores the rows.
        columns: Columns of references and of captions.

    Returns:
        Each batch with two more columns, `similarity` (null for a failed row) and `error`, in order; batches without
        rows come last.
    """
    empty: list[pa.RecordBatch] = []

    def rows() -> Iterator[tuple[pa.RecordBatch, Record]]:
        for batch in batches:
            if not batch.num_rows:
                empty.append(batch)
            for row in zip(*(each_value(batch.column(name)) for name in columns), strict=True):
                yield batch, Record.of(*row)

    with closing(scorer.score_tagged(rows())) as results:
        for batch, first in results:
            others = islice(results, batch.num_rows - 1)
            yield _extended(batch, [first, *(result for _, result in others)])
    # If all batches are empty, one of them must provide the columns.
    yield from (_extended(batch, []) for batch in empty)


def _extended(batch: pa.RecordBatch, results: list[ScoreResult]) -> pa.RecordBatch:
    schema = pa.schema([*batch.schema, *SCORE_FIELDS], batch.schema.metadata)
    return pa.RecordBatch.from_arrays([*batch.columns, *score_arrays(results)], schema=schema)
