"""Tasks for each row of a table: the columns to read, the engine's result, and the columns to write."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from os import PathLike
from typing import Any, Generic, Protocol, TypeVar

import pyarrow as pa

from ..config import Config
from ..encoders import Ensemble, ModelInfo, column_names
from ..errors import ErrorCode, InputTypeError, UsageError
from ..formats import SCORE_FIELDS, Rows, Table, choose_columns, score_cells
from ..pipeline import RunStats, TaggedRows
from ..records import ScoreResult


class RowResult(Protocol):
    """The result of a row."""

    @property
    def error(self) -> str | None:
        """`"<code>: <detail>"` if the row failed."""

    @property
    def code(self) -> ErrorCode | None:
        """The error code of the failure, or None."""


R = TypeVar("R", bound=RowResult)
R_co = TypeVar("R_co", bound=RowResult, covariant=True)


class TableEngine(Protocol[R_co]):
    """Computes results for the parts of a table, as `pipeline.Engine` computes scores."""

    def start(self, config: Config) -> ModelInfo:
        """Load the model, and return its description."""

    def score_parts(self, parts: Iterable[TaggedRows[Rows]], stats: RunStats) -> Generator[tuple[Rows, R_co]]:
        """Yield each row's tag with its result, in order; may be called again after it has ended."""


@dataclass(frozen=True, slots=True)
class Task(Generic[R]):
    """A task for each row of a table.

    Args:
        columns: Columns of images and of texts; None if the rows have no such column.
        added: Columns for a result; each of several columns of captions has its own, such as `similarity_caption`.
        cells: Function that turns a result into the values of these columns.
        identity: Everything that results depend on apart from the table, the model and the settings, as JSON values.
        options: Names of the command line's options for the columns.
        further: More columns of captions.
        references: Columns of reference captions.
        choose: Function that finds the columns in a table; None if `columns` are final.
        models: Number of added columns with the scores of individual models; 0 if there is only one model.
        score: Function that returns the score of a successful result; None if results do not have exactly one score.
        derived: Number of added columns that are derived from the score; they are between the score and the error.
    """

    columns: tuple[str | None, str | None]
    added: Sequence[pa.Field]
    cells: Callable[[R], Sequence[Any]]
    identity: Mapping[str, Any] = field(default_factory=dict)
    options: tuple[str, str] = ("--url-col", "--caption-col")
    further: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    choose: Callable[[Table], tuple[str | None, str | None]] | None = None
    models: int = 0
    score: Callable[[R], float] | None = None
    derived: int = 0

    def of_table(self, table: Table) -> Task[R]:
        """Return the task for the columns of a table."""
        return self if self.choose is None else replace(self, columns=self.choose(table))

    @property
    def captions(self) -> tuple[str, ...]:
        """The columns of captions."""
        return () if self.columns[1] is None else (self.columns[1], *self.further)

    def named(self, names: Sequence[str] | None = None) -> list[tuple[str, ...]]:
        """Return the names of the added columns, or other names, for each column of captions."""
        names = [each.name for each in self.added] if names is None else names
        if not self.further:
            return [tuple(names)]
        return [tuple(f"{name}_{column}" for name in names) for column in self.captions]

    @property
    def added_names(self) -> tuple[str, ...]:
        """The names of the columns that are added."""
        return tuple(name for names in self.named() for name in names)

    @property
    def read(self) -> tuple[str, ...]:
        """The columns that are read."""
        return tuple(name for name in (*self.columns, *self.further, *self.references) if name is not None)


def by_several(
    task: Task[ScoreResult], models: Sequence[str | PathLike[str]], ensemble: Ensemble | None
) -> Task[ScoreResult]:
    """Return the task of scoring rows with several models: a column for each, and a combined one if requested."""
    names = [f"similarity_{name}" for name in column_names(models)]
    fields = [pa.field(name, SCORE_FIELDS[0].type) for name in names]

    def cells(result: ScoreResult) -> tuple[float | str | None, ...]:
        similarity, error = score_cells(result)
        each = result.by_model or (None,) * len(names)
        return (*each, similarity, error) if ensemble else (*each, error)

    return replace(
        task,
        added=(*fields, *SCORE_FIELDS) if ensemble else (*fields, SCORE_FIELDS[1]),
        cells=cells,
        identity={**task.identity, "models": [str(model) for model in models], "ensemble": ensemble},
        models=len(names),
        score=task.score if ensemble else None,
    )


def scoring(
    col_url: str | None,
    col_text: str | Sequence[str] | None,
    col_references: str | Sequence[str] | None = None,
) -> Task[ScoreResult]:
    """Return the task of scoring rows; a column that is None is chosen when the table is known.

    Raises:
        InputTypeError: A value is not the name of a column.
        UsageError: No column of captions is named, or one is named twice.
    """
    if not (col_url is None or isinstance(col_url, str)):
        raise InputTypeError.of("col_url", "the name of a column", col_url)
    texts, references = _names("col_text", col_text), _names("col_references", col_references)
    if len(set(texts)) < len(texts) or (col_text is not None and not texts):
        raise UsageError("col_text must name one or more columns of captions, without duplicates")
    first = texts[0] if texts else None

    def choose(table: Table) -> tuple[str, str]:
        return choose_columns(table, col_url, first)

    more = {name: list(given) for name, given in (("captions", texts[1:]), ("references", references)) if given}
    return Task(
        (col_url or "url", first or "caption"),
        SCORE_FIELDS,
        score_cells,
        more,
        further=texts[1:],
        references=references,
        choose=choose,
        score=attrgetter("similarity"),
    )


def _names(parameter: str, given: object) -> tuple[str, ...]:
    names = () if given is None else (given,) if isinstance(given, str) else given
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise InputTypeError.of(parameter, "the name of a column, or a list of names", given)
    return tuple(names)
