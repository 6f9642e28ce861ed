"""What is done with each row of a table: which columns are read, what answers, and which columns its answer becomes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
        """Yield each row's tag with its result, in order; may be called again when it has ended."""


@dataclass(frozen=True, slots=True)
class Task(Generic[R]):
    """What is done with each row.

    Args:
        columns: Those of images and of texts; None where the rows have no such column.
        added: The columns that a result becomes; of several columns of captions each has its own, such as `similarity_caption`.
        cells: Turns a result into their values.
        identity: What results depend on besides the table, the model and the settings, in values that JSON holds.
        options: What the command line calls the options that name the columns.
        further: Columns of captions beside the first.
        references: Columns of captions that people wrote.
        choose: Finds the columns in a table where `columns` are not what was asked for; None if they are.
        models: How many of the columns that are added hold scores of single models; 0 where there is one model.
        score: Returns the score of a result without an error; None where a result has not just one.
        derived: How many of the columns that are added follow from the score, and stand between it and the error.
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
        """Return the task with the columns that a table has."""
        return self if self.choose is None else replace(self, columns=self.choose(table))

    @property
    def captions(self) -> tuple[str, ...]:
        """The columns of captions."""
        return () if self.columns[1] is None else (self.columns[1], *self.further)

    def named(self, names: Sequence[str] | None = None) -> list[tuple[str, ...]]:
        """Return for each column of captions what names become there, by default those of the columns that are added."""
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
    """Return the task of scoring rows with several models: a column for each of them, and for all together if that is asked for."""
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
    """Return the task of scoring rows; a column that is None is found by the table's kind.

    Raises:
        InputTypeError: Something is not the name of a column.
        UsageError: No column of captions is named, or one twice.
    """
    if not (col_url is None or isinstance(col_url, str)):
        raise InputTypeError.of("col_url", "the name of a column", col_url)
    texts, references = _names("col_text", col_text), _names("col_references", col_references)
    if len(set(texts)) < len(texts) or (col_text is not None and not texts):
        raise UsageError("col_text must name one or more columns of captions, each once")
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
        score=lambda result: result.similarity,
    )


def _names(parameter: str, given: object) -> tuple[str, ...]:
    names = () if given is None else (given,) if isinstance(given, str) else given
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise InputTypeError.of(parameter, "the name of a column, or a list of names", given)
    return tuple(names)
