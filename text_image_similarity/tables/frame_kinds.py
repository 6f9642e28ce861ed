"""The kinds of frames that `score_frame` supports, with functions that read columns and add scores for each library.

Frame libraries are used only if the caller has already loaded them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import pyarrow as pa

from ..errors import InputTypeError
from ..formats import SCORE_FIELDS, each_value, score_arrays
from ..records import ScoreResult

Result = ScoreResult | list[ScoreResult]  # a list for a list of captions

_FRAMES = "a DataFrame of pandas or polars, a data set of the library datasets, or an Arrow table"
_ROWS = 256  # rows of a data set in memory


class AnyFrame(Protocol):
    """The interface to a frame of one library."""

    @property
    def names(self) -> list[str]:
        """The names of the columns; those that are not text are given as their `repr`."""

    @property
    def count(self) -> int:
        """The number of rows."""

    def cells(self, place: int) -> Iterator[Any]:
        """Yield the values of a column."""

    def with_scores(self, results: Sequence[Result], added: tuple[str, str]) -> Any:
        """Return the frame with scores, replacing columns of the same names; lists of captions have lists of scores."""


@dataclass(frozen=True, slots=True)
class PandasFrame:
    """A pandas DataFrame."""

    df: Any

    @property
    def names(self) -> list[str]:
        return [name if isinstance(name, str) else repr(name) for name in self.df.columns]

    @property
    def count(self) -> int:
        return len(self.df)

    def cells(self, place: int) -> Iterator[Any]:
        return iter(self.df.iloc[:, place])

    def with_scores(self, results: Sequence[Result], added: tuple[str, str]) -> Any:
        import pandas as pd

        names = self.names
        kept = [place for place, name in enumerate(names) if name not in added]
        scored = self.df.copy(deep=False) if len(kept) == len(names) else self.df.iloc[:, kept].copy(deep=False)
        # Arrays instead of series, because an index may contain duplicate labels.
        scores, errors = _values(results, missing=float("nan"))
        if _are_lists(results):
            for name, values in zip(added, (scores, errors), strict=True):
                scored[name] = pd.Series([*values, ""], dtype=object).array[
                    :-1
                ]  # pandas would turn lists into a matrix
            return scored
        scored[added[0]] = pd.array(scores, dtype="float64").to_numpy()
        scored[added[1]] = pd.Series(["", *errors]).array[1:]  # in the string type of this version of pandas
        return scored


@dataclass(frozen=True, slots=True)
class PolarsFrame:
    """A polars DataFrame."""

    df: Any

    @property
    def names(self) -> list[str]:
        return list(self.df.columns)

    @property
    def count(self) -> int:
        return int(self.df.height)

    def cells(self, place: int) -> Iterator[Any]:
        return iter(self.df.to_series(place))

    def with_scores(self, results: Sequence[Result], added: tuple[str, str]) -> Any:
        import polars as pl

        lists = _are_lists(results)
        scores, errors = _values(results)
        return self.df.drop(added, strict=False).with_columns(
            pl.Series(added[0], scores, pl.List(pl.Float64) if lists else pl.Float64),
            pl.Series(added[1], errors, pl.List(pl.String) if lists else pl.String),
        )


@dataclass(frozen=True, slots=True)
class ArrowFrame:
    """An Arrow table or record batch."""

    table: Any  # or a record batch

    @property
    def names(self) -> list[str]:
        return list(self.table.schema.names)

    @property
    def count(self) -> int:
        return int(self.table.num_rows)

    def cells(self, place: int) -> Iterator[Any]:
        return each_value(self.table.column(place))

    def with_scores(self, results: Sequence[Result], added: tuple[str, str]) -> Any:
        scored = without(self.table, added)
        for field, name, column in zip(SCORE_FIELDS, added, _arrays(results), strict=True):
            scored = scored.append_column(pa.field(name, column.type, field.nullable), column)
        return scored


@dataclass(frozen=True, slots=True)
class HubFrame:
    """A data set of the library `datasets`."""

    ds: Any

    @property
    def names(self) -> list[str]:
        return list(self.ds.column_names)

    @property
    def count(self) -> int:
        return int(self.ds.num_rows)

    def cells(self, place: int) -> Iterator[Any]:
        stored = self.ds.select_columns([self.ds.column_names[place]]).with_format("arrow")  # images as they are stored
        for table in stored.iter(_ROWS):
            yield from each_value(table.column(0))

    def with_scores(self, results: Sequence[Result], added: tuple[str, str]) -> Any:
        scored = self.ds.remove_columns([name for name in self.ds.column_names if name in added])
        for name, column in zip(added, _arrays(results), strict=True):
            scored = scored.add_column(name, column.to_pylist())
        return scored


def open_frame(df: object) -> AnyFrame:
    """Return the interface to a frame.

    Raises:
        InputTypeError: The value is not a supported frame.
    """
    if isinstance(df, (pa.Table, pa.RecordBatch)):
        return ArrowFrame(df)
    if _is(df, "pandas", "DataFrame"):
        return PandasFrame(df)
    if _is(df, "polars", "DataFrame"):
        return PolarsFrame(df)
    if _is(df, "datasets", "Dataset"):
        return HubFrame(df)
    if isinstance(df, type) or _is(df, "polars", "LazyFrame") or _is(df, "pandas", "Series"):
        raise InputTypeError.of(
            "df", _FRAMES, df, "call collect() to get a DataFrame" if hasattr(df, "collect") else ""
        )
    if hasattr(df, "__arrow_c_stream__") or hasattr(df, "__arrow_c_array__"):
        return ArrowFrame(pa.table(df))
    if hasattr(df, "__dataframe__"):
        from pyarrow.interchange import from_dataframe

        return ArrowFrame(from_dataframe(df))
    hint = ""
    if hasattr(df, "mapInArrow") or hasattr(df, "map_batches"):
        hint = "for Spark use spark.score_dataframe, and for Ray ray_data.score_dataset"
    elif isinstance(df, str) or hasattr(df, "__fspath__"):
        hint = "for files, use score_table"
    raise InputTypeError.of("df", _FRAMES, df, hint)


def plain_list(cell: Any) -> Any:
    """Return a NumPy array or a polars series in a cell as a list; any other value unchanged."""
    if isinstance(cell, str | bytes | list | tuple):
        return cell
    make = getattr(cell, "to_list", None) or getattr(cell, "tolist", None)
    made = cell if make is None else make()
    return made if isinstance(made, list) else cell


def _is(df: object, library: str, name: str) -> bool:
    """Tell whether a value is an instance of a library's class, without loading the library."""
    kind = getattr(sys.modules.get(library), name, None)
    return kind is not None and isinstance(df, kind)


def _are_lists(results: Sequence[Result]) -> TypeGuard[Sequence[list[ScoreResult]]]:
    return bool(results) and isinstance(results[0], list)


def _values(results: Sequence[Result], missing: float | None = None) -> tuple[list[Any], list[Any]]:
    """Return the scores and the errors of results, or lists of them."""

    def score(result: ScoreResult) -> float | None:
        return missing if result.error is not None else result.similarity

    if _are_lists(results):
        return [list(map(score, each)) for each in results], [[one.error for one in each] for each in results]
    return [score(one) for one in results], [one.error for one in results]  # type: ignore[union-attr, arg-type]


def _arrays(results: Sequence[Result]) -> list[pa.Array]:
    if not _are_lists(results):
        return list(score_arrays(results))  # type: ignore[arg-type]
    return [
        pa.array(values, pa.list_(field.type)) for values, field in zip(_values(results), SCORE_FIELDS, strict=True)
    ]


def without(table: Any, dropped: Sequence[str]) -> Any:
    """Return an Arrow table without some of its columns."""
    names = table.schema.names
    kept = [place for place, name in enumerate(names) if name not in dropped]
    return table if len(kept) == len(names) else table.select(kept)
