"""Mapping of a table's rows to records, and of results to cells, for several captions and lists of captions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Protocol

import pyarrow as pa

from ..bounded_json import parse_json
from ..errors import ErrorCode, RowError, TableError
from ..formats import Rows, Table, list_columns_of
from ..records import Record, ScoreResult, references_of
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
        listed: Columns of captions whose cells hold lists.
    """

    task: Task[R]
    listed: frozenset[str]

    @classmethod
    def of(cls, task: Task[R], table: Table) -> RowLayout[R]:
        """Return the layout of a table that has been scanned."""
        return cls(task, frozenset(list_columns_of(table)) & frozenset(task.captions))

    @property
    def added(self) -> list[pa.Field]:
        """The columns for results; lists of captions get columns of lists."""
        return [
            pa.field(name, pa.list_(each.type) if column in self.listed else each.type)
            for column, names in zip(self._columns, self.task.named(), strict=True)
            for each, name in zip(self.task.added, names, strict=True)
        ]

    @property
    def _columns(self) -> tuple[str | None, ...]:
        return self.task.captions or (None,)

    def records(self, rows: Cells) -> list[list[Record | ScoreResult]]:
        """Return the records of each row, those of one image consecutively, or results for rows without an image."""
        url = self.task.columns[0]
        images = [""] * len(rows) if url is None else rows.column(url)
        references = [references_of(*cells) for cells in self._cells(rows, self.task.references)]
        return [
            [_record(image, text, known) for column in texts for text in column]
            for image, texts, known in zip(images, self._texts(rows), references, strict=True)
        ]

    def counts(self, rows: Cells) -> list[list[int]]:
        """Return how many records each row has for each column of captions."""
        if not self.listed:
            return [[1] * len(self._columns)] * len(rows)
        return [[len(column) for column in texts] for texts in self._texts(rows)]

    def cells(self, results: Sequence[R], counts: Sequence[int]) -> list[Any]:
        """Return a row's results as the values of `added`."""
        rest, found = iter(results), list[Any]()
        for column, count in zip(self._columns, counts, strict=True):
            values = [self.task.cells(result) for result in islice(rest, count)]
            found += map(list, zip(*values, strict=True)) if column in self.listed else values[0]
        return found

    def earlier(self, rows: Rows) -> Iterator[tuple[Any, ...]]:
        """Yield the cells of each row of an earlier output, for `kept`."""
        return zip(*map(rows.column, self.task.added_names), strict=True)

    def kept(self, cells: Sequence[Any], counts: Sequence[int]) -> list[ScoreResult | None]:
        """Return the results of a row of an earlier output, with None for each that must be scored again.

        Raises:
            TableError: The output holds a result that this package did not write.
        """
        width = len(self.task.added)
        groups = [cells[at : at + width] for at in range(0, len(cells), width)]
        return [
            _still_valid(each, self.task.models, self.task.derived)
            for column, count, group in zip(self._columns, counts, groups, strict=True)
            for each in (_listed(group, count) if column in self.listed else [group])
        ]

    def _texts(self, rows: Cells) -> Iterator[list[list[Any]]]:
        """Yield for each row the captions of each column; an empty list counts as one missing caption."""
        if not self.task.captions:
            yield from [[[""]]] * len(rows)
            return
        for cells in self._cells(rows, self.task.captions):
            yield [
                (list(cell) or [None]) if column in self.listed and isinstance(cell, (list, tuple)) else [cell]
                for column, cell in zip(self.task.captions, cells, strict=True)
            ]

    @staticmethod
    def _cells(rows: Cells, names: Sequence[str]) -> list[tuple[Any, ...]]:
        return list(zip(*map(rows.column, names), strict=True)) if names else [()] * len(rows)


def _record(image: Any, text: Any, references: tuple[str, ...]) -> Record | ScoreResult:
    return ScoreResult.failed(image) if isinstance(image, RowError) else Record.of(image, text, references)


def _listed(cells: Sequence[Any], count: int) -> list[Sequence[Any]]:
    """Return the values for each caption of a list; values of a list of another length count as missing."""
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
    return TableError(f"the earlier output holds the result {said}, which this package did not write")
