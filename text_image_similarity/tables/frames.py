"""Score a table that is in memory: a frame of pandas, polars or Arrow in, the same frame with two more columns out.

No library of frames is loaded that the caller has not loaded. Nothing is written, and nothing is kept to resume from: that is
what `score_table` is for.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import pyarrow as pa

from ..config import Config, pair_score, require_config
from ..encoders import Encoder
from ..errors import InputTypeError, UsageError
from ..formats import SCORE_FIELDS, check_columns, check_no_columns, check_types, each_value, score_arrays
from ..pipeline import Scorer
from ..pipeline.arrow import score_batches
from ..pipeline.loaders import closing_after
from ..records import OUT_COLUMNS, Record, ScoreResult
from .task import Task, scoring

Frame = TypeVar("Frame")
_PLACE = "the frame"
_FRAMES = "a DataFrame of pandas or polars, or an Arrow table"
_ROWS = 256  # of a data set of the hub, in memory


def score_frame(  # noqa: PLR0913 - columns, and how; settings are in Config
    df: Frame,
    config: Config,
    col_url: str = "url",
    col_text: str | Sequence[str] = "caption",
    *,
    encoder: Encoder | None = None,
    overwrite_column: bool = False,
    progress: bool | None = None,
) -> Frame:
    """Score every row of a frame, and return it with two more columns, `similarity` and `error`.

    `df` itself stays as it is. Its columns keep their types, and the frame of pandas its index.

    Args:
        df: A DataFrame of pandas or polars, a `Dataset` of Hugging Face, or a `Table`, `RecordBatch` or `RecordBatchReader` of Arrow;
            a reader is scored as its result is read. Anything else with `__arrow_c_stream__`, `__arrow_c_array__` or `__dataframe__`
            comes back as an Arrow `Table`.
        config: The settings of the run. Relative image paths start from the working folder unless `base_dir` is set.
        col_url: The column of images: references, the bytes of encoded files, or structs of `bytes` and `path`.
        col_text: The column of captions; of several, each has its own `similarity_<column>` and `error_<column>`. A reader takes one.
        encoder: A loaded encoder to use and share; None loads the one that `config` names.
        overwrite_column: Whether columns `similarity` and `error` of the frame are replaced; else they are refused.
        progress: Whether a bar shows how far the work is; None shows one in notebooks alone.

    Returns:
        A frame of the same kind. `similarity` is a 64-bit float, missing (in pandas NaN) for a row that failed; `error` is a text,
        missing for a row that has a score.

    Raises:
        InputTypeError: `df` is not such a frame.
        UsageError: A column is missing, occurs twice, would be overwritten, or, in Arrow, has a type that no row could be scored with.
        ConfigError, ModelError: The model cannot be used.

    Example:
        >>> import pandas as pd
        >>> from text_image_similarity.encoders.testing import ColourEncoder
        >>> dot = "data:image/gif;base64,R0lGODlhAQABAIAAAP8AAP///ywAAAAAAQABAAACAkQBADs="
        >>> df = pd.DataFrame({"url": [dot], "caption": ["a red dot"]}, index=["first"])
        >>> float(score_frame(df, Config(), encoder=ColourEncoder()).loc["first", "similarity"])
        1.0
    """
    require_config(config)
    pair_score(config, "score_frame")
    task = scoring(col_url, col_text)
    if isinstance(df, pa.RecordBatchReader):
        if task.further:
            raise UsageError(
                "a RecordBatchReader is scored with one column of captions; read_all() makes a table of it"
            )
        _check(df.schema.names, task, df.schema, overwrites=overwrite_column)
        return cast(Frame, _streamed(df, (col_url, task.captions[0]), Scorer(config, encoder=encoder)))
    frame = _opened(df)
    schema = frame.table.schema if isinstance(frame, _Arrow) else None
    images, *texts = (frame.cells(at) for at in _check(frame.names, task, schema, overwrites=overwrite_column))
    scorer, count = Scorer(config, encoder=encoder), len(texts)
    rows = (Record.of(image, text) for image, *captions in zip(images, *texts, strict=True) for text in captions)
    with closing(closing_after(scorer, scorer.score_pairs(rows))) as found:
        shown = _in_notebook() if progress is None else progress
        results = list(_watched(found, count * frame.count, shown=shown))
    scored: Any = df
    for number, names in enumerate(task.named()):
        scored, frame = (made := frame.with_scores(results[number::count], (names[0], names[1]))), _opened(made)
    return cast(Frame, scored)


class _Frame(Protocol):
    """A frame of one library."""

    @property
    def names(self) -> list[str]:
        """The names of its columns; for one that is not a text, what `repr` says of it."""

    @property
    def count(self) -> int:
        """How many rows it has."""

    def cells(self, place: int) -> Iterator[Any]:
        """Yield the values of a column."""

    def with_scores(self, results: Sequence[ScoreResult], added: tuple[str, str]) -> Any:
        """Return the frame with its scores, in the place of what has the names of these two columns."""


@dataclass(frozen=True, slots=True)
class _Pandas:
    df: Any

    @property
    def names(self) -> list[str]:
        return [name if isinstance(name, str) else repr(name) for name in self.df.columns]

    @property
    def count(self) -> int:
        return len(self.df)

    def cells(self, place: int) -> Iterator[Any]:
        return iter(self.df.iloc[:, place])

    def with_scores(self, results: Sequence[ScoreResult], added: tuple[str, str]) -> Any:
        import pandas as pd

        names = self.names
        kept = [place for place, name in enumerate(names) if name not in added]
        scored = self.df.copy(deep=False) if len(kept) == len(names) else self.df.iloc[:, kept].copy(deep=False)
        # Arrays, and not series: an index may hold a label several times.
        scored[added[0]] = pd.array([result.similarity for result in results], dtype="float64").to_numpy()
        errors = pd.Series(["", *(result.error for result in results)])  # of the type that this pandas has for texts
        scored[added[1]] = errors.array[1:]
        return scored


@dataclass(frozen=True, slots=True)
class _Polars:
    df: Any

    @property
    def names(self) -> list[str]:
        return list(self.df.columns)

    @property
    def count(self) -> int:
        return int(self.df.height)

    def cells(self, place: int) -> Iterator[Any]:
        return iter(self.df.to_series(place))

    def with_scores(self, results: Sequence[ScoreResult], added: tuple[str, str]) -> Any:
        import polars as pl

        scores = [None if result.error is not None else result.similarity for result in results]
        return self.df.drop(added, strict=False).with_columns(
            pl.Series(added[0], scores, pl.Float64),
            pl.Series(added[1], [result.error for result in results], pl.String),
        )


@dataclass(frozen=True, slots=True)
class _Arrow:
    table: Any  # or a record batch

    @property
    def names(self) -> list[str]:
        return list(self.table.schema.names)

    @property
    def count(self) -> int:
        return int(self.table.num_rows)

    def cells(self, place: int) -> Iterator[Any]:
        return each_value(self.table.column(place))

    def with_scores(self, results: Sequence[ScoreResult], added: tuple[str, str]) -> Any:
        scored = _without(self.table, added)
        for field, name, column in zip(SCORE_FIELDS, added, score_arrays(results), strict=True):
            scored = scored.append_column(field.with_name(name), column)
        return scored


@dataclass(frozen=True, slots=True)
class _Hub:
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

    def with_scores(self, results: Sequence[ScoreResult], added: tuple[str, str]) -> Any:
        scored = self.ds.remove_columns([name for name in self.ds.column_names if name in added])
        for name, column in zip(added, score_arrays(results), strict=True):
            scored = scored.add_column(name, column.to_pylist())
        return scored


def _opened(df: object) -> _Frame:
    """Return what reads and extends a frame.

    Raises:
        InputTypeError: It is none.
    """
    if isinstance(df, (pa.Table, pa.RecordBatch)):
        return _Arrow(df)
    if _is(df, "pandas", "DataFrame"):
        return _Pandas(df)
    if _is(df, "polars", "DataFrame"):
        return _Polars(df)
    if _is(df, "datasets", "Dataset"):
        return _Hub(df)
    if isinstance(df, type) or _is(df, "polars", "LazyFrame") or _is(df, "pandas", "Series"):
        raise InputTypeError.of(
            "df", _FRAMES, df, "collect() makes a DataFrame of it" if hasattr(df, "collect") else ""
        )
    if hasattr(df, "__arrow_c_stream__") or hasattr(df, "__arrow_c_array__"):
        return _Arrow(pa.table(df))
    if hasattr(df, "__dataframe__"):
        from pyarrow.interchange import from_dataframe

        return _Arrow(from_dataframe(df))
    hint = ""
    if hasattr(df, "mapInArrow") or hasattr(df, "map_batches"):
        hint = "Spark's are scored by spark.score_dataframe, Ray's by ray_data.score_dataset"
    elif isinstance(df, str) or hasattr(df, "__fspath__"):
        hint = "score_table reads files"
    raise InputTypeError.of("df", _FRAMES, df, hint)


def _is(df: object, library: str, name: str) -> bool:
    """Say whether something is of a class of a library; one that nobody has loaded has made nothing."""
    kind = getattr(sys.modules.get(library), name, None)
    return kind is not None and isinstance(df, kind)


def _check(names: Sequence[str], task: Task[Any], schema: pa.Schema | None, *, overwrites: bool) -> list[int]:
    """Check the columns of a frame, and return where those are that are read: that of images, and those of captions."""
    check_columns(names, task.read, _PLACE)
    if not overwrites:
        check_no_columns(names, task.added_names, _PLACE, "overwrite_column=True replaces it, or rename it")
    for text in task.captions if schema is not None else ():
        check_types(schema, (task.columns[0], text), _PLACE)
    return [names.index(name) for name in task.read]


def _streamed(reader: pa.RecordBatchReader, columns: tuple[str, str], scorer: Scorer) -> pa.RecordBatchReader:
    """Return a reader of the scored batches of another one; the session ends with it."""
    schema = pa.schema([*_without_scores(reader.schema.empty_table()).schema, *SCORE_FIELDS], reader.schema.metadata)
    scored = score_batches(map(_without_scores, reader), scorer, columns)
    return pa.RecordBatchReader.from_batches(schema, closing_after(scorer, scored))


def _without_scores(table: Any) -> Any:
    return _without(table, OUT_COLUMNS)


def _without(table: Any, dropped: Sequence[str]) -> Any:
    names = table.schema.names
    kept = [place for place, name in enumerate(names) if name not in dropped]
    return table if len(kept) == len(names) else table.select(kept)


def _watched(results: Iterable[ScoreResult], count: int, *, shown: bool) -> Generator[ScoreResult]:
    from tqdm.auto import tqdm

    with tqdm(total=count, unit=" pairs", dynamic_ncols=True, disable=not shown) as bar:
        for result in results:
            yield result
            bar.update()


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")
