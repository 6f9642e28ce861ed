"""What is done with each row of a table: which columns are read, what answers, and which columns its answer becomes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

import pyarrow as pa

from ..config import Config
from ..encoders import ModelInfo
from ..errors import ErrorCode
from ..formats import SCORE_FIELDS, Rows, Table, choose_columns, score_cells
from ..pipeline import RunStats, TaggedRows
from ..records import ScoreResult


class RowResult(Protocol):
    """What became of a row."""

    @property
    def error(self) -> str | None:
        """`"<code>: <detail>"` if it failed."""

    @property
    def code(self) -> ErrorCode | None:
        """The category of the failure, or None."""


R = TypeVar("R", bound=RowResult)
R_co = TypeVar("R_co", bound=RowResult, covariant=True)


class TableEngine(Protocol[R_co]):
    """Answers the parts of a table, as `pipeline.Engine` does with scores."""

    def start(self, config: Config) -> ModelInfo:
        """Load the model, and say what it is."""

    def score_parts(self, parts: Iterable[TaggedRows[Rows]], stats: RunStats) -> Generator[tuple[Rows, R_co]]:
        """Yield each row's tag with its result, in order."""


@dataclass(frozen=True, slots=True)
class Task(Generic[R]):
    """What is done with each row.

    Args:
        columns: Those of images and of texts; None where the rows have no such column.
        added: The columns that a result becomes.
        cells: Turns a result into their values.
        identity: What results depend on besides the table, the model and the settings, in values that JSON holds.
        options: What the command line calls the options that name the columns.
        choose: Finds the columns in a table where `columns` are not what was asked for; None if they are.
    """

    columns: tuple[str | None, str | None]
    added: Sequence[pa.Field]
    cells: Callable[[R], Sequence[Any]]
    identity: Mapping[str, Any] = field(default_factory=dict)
    options: tuple[str, str] = ("--url-col", "--caption-col")
    choose: Callable[[Table], tuple[str, str]] | None = None

    def of_table(self, table: Table) -> Task[R]:
        """Return the task with the columns that a table has."""
        return self if self.choose is None else replace(self, columns=self.choose(table))

    @property
    def added_names(self) -> tuple[str, ...]:
        """The names of the columns that are added."""
        return tuple(each.name for each in self.added)

    @property
    def read(self) -> tuple[str, ...]:
        """The columns that are read."""
        return tuple(name for name in self.columns if name is not None)


def scoring(col_url: str | None, col_text: str | None) -> Task[ScoreResult]:
    """Return the task of scoring rows; a column that is None is found by the table's kind."""

    def choose(table: Table) -> tuple[str, str]:
        return choose_columns(table, col_url, col_text)

    return Task((col_url or "url", col_text or "caption"), SCORE_FIELDS, score_cells, choose=choose)
