"""Score tables in memory: add two columns to pandas, polars or Arrow frames, or to data sets of the library `datasets`.

Frame libraries are used only if the caller has already loaded them. Nothing is written to disk, and a run cannot be
resumed; `score_table` writes to disk and resumes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar, cast

import pyarrow as pa

from ..checks import settings_in_config
from ..config import ConfigLike, as_config, pair_score
from ..encoders import Encoder
from ..errors import ConfigError, UsageError
from ..formats import SCORE_FIELDS, check_columns, check_no_columns, check_types, holds_texts
from ..pipeline import Scorer
from ..pipeline.arrow import score_batches
from ..pipeline.loaders import closing_after
from ..pipeline.progress import watched
from ..records import OUT_COLUMNS, Record, ScoreResult
from .frame_kinds import AnyFrame, ArrowFrame, open_frame, plain_list, without
from .layout import RowLayout
from .task import Task, scoring

Frame = TypeVar("Frame")
_PLACE = "the frame"
_ROWS = 256  # rows whose cells are in memory as Python values


@settings_in_config
def score_frame(  # noqa: PLR0913 - columns, and how; settings are in Config
    df: Frame,
    config: ConfigLike = None,
    col_url: str = "url",
    col_text: str | Sequence[str] = "caption",
    *,
    col_references: str | Sequence[str] | None = None,
    encoder: Encoder | None = None,
    overwrite_column: bool = False,
    progress: bool | None = None,
) -> Frame:
    """Score every row of a frame, and return it with two more columns, `similarity` and `error`.

    `df` itself is not changed. Columns keep their types, and a pandas DataFrame keeps its index.

    Args:
        df: A pandas or polars DataFrame, a Hugging Face `Dataset`, or an Arrow `Table`, `RecordBatch` or
            `RecordBatchReader`; a reader is scored as its result is read. Any other object with `__arrow_c_stream__`,
            `__arrow_c_array__` or `__dataframe__` is returned as an Arrow `Table`.
        config: The settings of the run, or a model's name; None is `Config()`. Relative image paths start from the
            working folder unless `base_dir` is set.
        col_url: Column of images: references, the bytes of encoded files, or structs of `bytes` and `path`.
        col_text: Column of captions, or several, each of which gets its own `similarity_<column>` and `error_<column>`.
            A reader supports only one column of captions. For a list of captions in a cell, the result is a list.
        col_references: One or more columns of reference captions, for `score="ref_clipscore"`: lists of texts, or
            single texts. Readers do not support reference captions.
        encoder: A loaded encoder to use and share; None loads the model of `config`.
        overwrite_column: Whether to replace existing columns `similarity` and `error`; otherwise they cause an error.
        progress: Whether to show a progress bar; None shows one only in notebooks.

    Returns:
        A frame of the same kind. `similarity` is a 64-bit float, missing (in pandas NaN) for a row that failed; `error`
        is text, missing for a row that has a score.

    Raises:
        InputTypeError: `df` is not a supported frame.
        UsageError: A column is missing, occurs twice, would be overwritten, or, in Arrow, has a type that cannot be
            scored.
        ConfigError, ModelError: The model cannot be used.

    Example:
        >>> import pandas as pd
        >>> from text_image_similarity.encoders.testing import ColourEncoder
        >>> dot = "data:image/gif;base64,R0lGODlhAQABAIAAAP8AAP///ywAAAAAAQABAAACAkQBADs="
        >>> df = pd.DataFrame({"url": [dot], "caption": ["a red dot"]}, index=["first"])
        >>> float(score_frame(df, encoder=ColourEncoder()).loc["first", "similarity"])
        1.0
    """
    task, config = scoring(col_url, col_text, col_references), as_config(config)
    if not task.references:
        pair_score(config, "score_frame without col_references")
    elif config.score != "ref_clipscore":
        raise ConfigError("col_references works only with score='ref_clipscore'")
    if isinstance(df, pa.RecordBatchReader):
        if task.further or task.references:
            raise UsageError(
                "a RecordBatchReader can be scored with one column of captions only; turn it into a table with read_all()"
            )
        _check(df.schema.names, task, df.schema, overwrites=overwrite_column, streamed=True)
        return cast(Frame, _streamed(df, (col_url, task.captions[0]), Scorer(config, encoder=encoder)))
    frame = open_frame(df)
    schema = frame.table.schema if isinstance(frame, ArrowFrame) else None
    _check(frame.names, task, schema, overwrites=overwrite_column)
    layout = RowLayout(task, _listed(frame, task))
    counts: list[list[int]] = []  # numbers of results, for each column of captions of each row
    scorer = Scorer(config, encoder=encoder)
    with closing(closing_after(scorer, scorer.score_pairs(_records(frame, layout, counts)))) as found:
        total = None if layout.listed else len(task.captions) * frame.count
        results = iter(list(watched(found, total, progress=progress)))
    rows = [[list(islice(results, count)) for count in row] for row in counts]
    scored: Any = df
    for place, (column, names) in enumerate(zip(task.captions, task.named(), strict=True)):
        answers = [row[place] if column in layout.listed else row[place][0] for row in rows]
        scored, frame = (made := frame.with_scores(answers, (names[0], names[1]))), open_frame(made)
    return cast(Frame, scored)


@dataclass(frozen=True, slots=True)
class _Cells:
    """Some rows of a frame, with only the columns that are read."""

    cells: Mapping[str, list[Any]]
    count: int

    def __len__(self) -> int:
        return self.count

    def column(self, name: str) -> list[Any]:
        return self.cells[name]


def _records(frame: AnyFrame, layout: RowLayout[ScoreResult], counts: list[list[int]]) -> Iterator[Record]:
    """Yield the records of a frame, and append their number for each row and column to `counts`."""
    names = list(dict.fromkeys(layout.task.read))
    columns = [frame.cells(frame.names.index(name)) for name in names]
    while part := list(islice(zip(*columns, strict=True), _ROWS)):
        values = [
            list(map(plain_list, column)) if name != names[0] else list(column)
            for name, column in zip(names, zip(*part, strict=True), strict=True)
        ]
        rows = _Cells(dict(zip(names, values, strict=True)), len(part))
        counts += layout.counts(rows)
        yield from cast(list[Record], layout.records(rows))  # images of a frame have not failed yet


def _listed(frame: AnyFrame, task: Task[Any]) -> frozenset[str]:
    """Return the columns of captions that contain lists."""
    return frozenset(
        name
        for name in task.captions
        if any(isinstance(plain_list(cell), list | tuple) for cell in frame.cells(frame.names.index(name)))
    )


def _check(
    names: Sequence[str], task: Task[Any], schema: pa.Schema | None, *, overwrites: bool, streamed: bool = False
) -> None:
    """Check the columns of a frame that are read."""
    check_columns(names, task.read, _PLACE)
    if not overwrites:
        check_no_columns(names, task.added_names, _PLACE, "replace it with overwrite_column=True, or rename it")
    if schema is not None:
        check_types(schema, (task.columns[0], None), _PLACE)
        for text in (*task.captions, *task.references):
            if streamed or not holds_texts(schema.field(text).type):
                check_types(schema, (None, text), _PLACE)


def _streamed(reader: pa.RecordBatchReader, columns: tuple[str, str], scorer: Scorer) -> pa.RecordBatchReader:
    """Return a reader that adds scores to another reader's batches, and closes the session at the end."""
    schema = pa.schema([*_without_scores(reader.schema.empty_table()).schema, *SCORE_FIELDS], reader.schema.metadata)
    scored = score_batches(map(_without_scores, reader), scorer, columns)
    return pa.RecordBatchReader.from_batches(schema, closing_after(scorer, scored))


def _without_scores(table: Any) -> Any:
    return without(table, OUT_COLUMNS)
