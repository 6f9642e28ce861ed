"""Map a table's rows to records, and results to cells, for several captions and lists of captions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import Any, Generic, Protocol

import pyarrow as pa

from ..bounded_json import parse_json
from ..errors import ErrorCode, RowError, TableError
from ..formats import Rows, Table, list_columns_of
from ..pipeline import PlainColumns, TaggedRows
from ..records import MOST_LISTED, Record, ScoreResult, is_plain, references_of
from .task import R, Task


class Cells(Protocol):
    """Some rows of a table or a frame."""

    def column(self, name: str) -> list[Any]:
        """Return the values of a column."""

    def __len__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class RowLayout(Generic[R]):
    """The mapping of a task's rows to records, and of their results to cells.

    Args:
        task: Task for each row.
        listed: Columns of captions whose cells contain lists.
    """

    task: Task[R]
    listed: frozenset[str]

    @classmethod
    def of(cls, task: Task[R], table: Table) -> RowLayout[R]:
        """Return the layout of a table that has been scanned."""
        return cls(task, frozenset(list_columns_of(table)) & frozenset(task.captions))

    @property
    def added(self) -> list[pa.Field]:
        """The columns for results; for lists of captions, these are columns of lists."""
        return [
            pa.field(name, pa.list_(each.type) if column in self.listed else each.type)
            for column, names in zip(self._columns, self.task.named(), strict=True)
            for each, name in zip(self.task.added, names, strict=True)
        ]

    @property
    def _columns(self) -> tuple[str | None, ...]:
        return self.task.captions or (None,)

    def records(self, rows: Cells) -> list[Record | ScoreResult]:
        """Return the records of all rows in order (see `counts`); a failed record is replaced by its result."""
        url = self.task.columns[0]
        images = [""] * len(rows) if url is None else rows.column(url)
        references = self._references(rows)
        return [
            Record(image, text, known) if is_plain(image) and is_plain(text) else _record(image, text, known)
            for image, texts, known in zip(images, self._texts(rows), references, strict=True)
            for text in texts
        ]

    def part(self, rows: Rows) -> TaggedRows[Rows]:
        """Return the records of all rows, each tagged with `rows`."""
        url, captions = self.task.columns[0], self.task.captions
        if url is not None and len(captions) == 1 and not self.listed and not self.task.references:
            columns = PlainColumns.of(rows, rows.column(url), rows.column(captions[0]))
            if columns is not None:
                return columns
        return zip(repeat(rows), self.records(rows))

    def counts(self, rows: Cells) -> list[list[int]]:
        """Return the number of records of each row for each column of captions; a row's records are consecutive."""
        if not self.listed:
            return [[1] * len(self._columns)] * len(rows)
        return [[len(column) for column in texts] for texts in self._lists(rows)]

    def outcomes(self, results: Sequence[R], counts: Sequence[Sequence[int]]) -> Sequence[R]:
        """Return one result for each row; a row has failed if one of its captions has no score."""
        if len(results) == len(counts):
            return results
        rest = iter(results)
        rows = (list(islice(rest, sum(each))) for each in counts)
        return [next((one for one in row if one.error is not None), row[0]) for row in rows]

    def cells(self, results: Sequence[R], counts: Sequence[Sequence[int]]) -> list[Sequence[Any]]:
        """Return the results of all rows as the columns of `added`."""
        if self.listed:
            rest = iter(results)
            return list(zip(*(self._row(rest, each) for each in counts), strict=True))
        columns = len(self._columns)
        by_column = (zip(*map(self.task.cells, results[at::columns]), strict=True) for at in range(columns))
        return list(chain.from_iterable(by_column))

    def _row(self, results: Iterator[R], counts: Sequence[int]) -> list[Any]:
        """Collect a row's results, and return them as the values of `added`."""
        found = list[Any]()
        for column, count in zip(self._columns, counts, strict=True):
            values = [self.task.cells(result) for result in islice(results, count)]
            found += map(list, zip(*values, strict=True)) if column in self.listed else values[0]
        return found

    def earlier(self, rows: Rows) -> Iterator[tuple[Any, ...]]:
        """Yield the cells of each row of an earlier output, for `kept`."""
        return zip(*map(rows.column, self.task.added_names), strict=True)

    def kept(self, cells: Sequence[Any], counts: Sequence[int]) -> list[ScoreResult | None]:
        """Return the results of a row of an earlier output, with None for each that must be scored again.

        Raises:
            TableError: The output contains a result that this package did not write.
        """
        width = len(self.task.added)
        groups = [cells[at : at + width] for at in range(0, len(cells), width)]
        return [
            _still_valid(each, self.task.models, self.task.derived)
            for column, count, group in zip(self._columns, counts, groups, strict=True)
            for each in (_listed(group, count) if column in self.listed else [group])
        ]

    def _texts(self, rows: Cells) -> Sequence[Sequence[Any]]:
        """Return the captions of each row, beginning with those of the first column."""
        if not self.task.captions:
            return [("",)] * len(rows)
        if not self.listed:
            return self._cells(rows, self.task.captions)
        return [[text for column in texts for text in column] for texts in self._lists(rows)]

    def _lists(self, rows: Cells) -> Iterator[list[list[Any]]]:
        """Yield for each row the captions of each column, or the error of a list that is too long."""
        for cells in self._cells(rows, self.task.captions):
            yield [
                _captions_in(cell) if column in self.listed and isinstance(cell, (list, tuple)) else [cell]
                for column, cell in zip(self.task.captions, cells, strict=True)
            ]

    def _references(self, rows: Cells) -> list[tuple[str, ...]]:
        if not self.task.references:
            return [()] * len(rows)
        return [references_of(*cells) for cells in self._cells(rows, self.task.references)]

    @staticmethod
    def _cells(rows: Cells, names: Sequence[str]) -> list[tuple[Any, ...]]:
        return list(zip(*map(rows.column, names), strict=True))


def _record(image: object, text: object, references: tuple[str, ...]) -> Record | ScoreResult:
    for each in (image, text):
        if isinstance(each, RowError):
            return ScoreResult.failed(each)
    return Record.of(image, text, references)


def _captions_in(cell: Sequence[Any]) -> list[Any]:
    """Return the captions in a list; an empty list becomes one missing caption, and a list that is too long fails."""
    if len(cell) <= MOST_LISTED:
        return list(cell) or [None]
    reason = f"the cell has {len(cell):,} captions, but at most {MOST_LISTED:,} are accepted"
    return [RowError(ErrorCode.TOO_MANY_BYTES, reason)]


def _listed(cells: Sequence[Any], count: int) -> list[Sequence[Any]]:
    """Return the values for each caption of a list; a list of another length is treated as missing values."""
    try:
        lists = [parse_json(cell or "[]") if isinstance(cell, str) else cell or [] for cell in cells]
    except (ValueError, RecursionError) as exc:
        raise _strange(cells) from exc
    if any(len(values) != count for values in lists):
        return [[None] * len(cells)] * count
    return list(zip(*lists, strict=True))


def _still_valid(cells: Sequence[Any], models: int, derived: int) -> ScoreResult | None:
    """Return an earlier result, or None if it must be scored again."""
    scores, error = cells[: len(cells) - 1 - derived], cells[-1]
    try:
        if not error:
            if all(score is None for score in scores):
                return None
            values = [float(str(score)) for score in scores]
            return ScoreResult(values[-1], by_model=tuple(values[:models]))
        if not ErrorCode(str(error).partition(":")[0]).retryable:
            return ScoreResult(error=str(error))
    except ValueError as exc:
        raise _strange(cells) from exc
    return None


def _strange(cells: Sequence[Any]) -> TableError:
    said = ", ".join(map(repr, cells))
    return TableError(f"the earlier output contains the result {said}, which this package did not write")
