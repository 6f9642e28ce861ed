"""Embed a table of images or captions, adding their vectors for any vector store."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa

from ..config import Config
from ..encoders import Encoder, ModelInfo
from ..errors import ConfigError, ErrorCode, RowError, UsageError
from ..formats import Rows, Table, choose_columns
from ..pipeline import Outcome, RunStats, Scorer, Sessions, TaggedRows
from ..records import Progress, Record, ScoreResult, caption_of, image_of
from .options import TableOptions
from .score import run_table
from .summary import Summary
from .task import Task

EmbeddedSide = Literal["images", "captions"]
EMBEDDING_FIELDS = (pa.field("embedding", pa.list_(pa.float32())), pa.field("error", pa.string()))


@dataclass(frozen=True, slots=True)
class EmbeddingResult:
    """The vector of a row, or the reason why it has none.

    Args:
        embedding: The unit vector, shape (embed_dim,) float32; None if the row failed.
        error: `"<code>: <detail>"` if the row failed, otherwise None.
    """

    embedding: np.ndarray[Any, np.dtype[np.float32]] | None
    error: str | None = None

    @property
    def code(self) -> ErrorCode | None:
        """The error code of the failure, or None."""
        return None if self.error is None else ErrorCode(self.error.partition(":")[0])

    def cells(self) -> tuple[list[float] | None, str | None]:
        """Return the values of `EMBEDDING_FIELDS`."""
        return None if self.embedding is None else self.embedding.tolist(), self.error


class EmbeddingEngine:
    """Engine that encodes rows in this process.

    Args:
        side: Whether to encode images or captions.
        encoder: A loaded encoder to use and share; None loads the model of the run's `Config`.
    """

    def __init__(self, side: EmbeddedSide, *, encoder: Encoder | None = None) -> None:
        self._side, self._encoder = side, encoder
        self._sessions: Sessions | None = None

    def start(self, config: Config) -> ModelInfo:
        """Load the model, and return its description."""
        scorer = Scorer(config, encoder=self._encoder)
        self._sessions = Sessions(scorer)
        return scorer.encoder.info

    def score_parts(
        self, parts: Iterable[TaggedRows[Rows]], stats: RunStats
    ) -> Generator[tuple[Rows, EmbeddingResult]]:
        """Yield each row's tag with its vector, in order, while the next parts are fetched."""
        if self._sessions is None:
            raise UsageError("call start() before score_parts()")
        waiting: deque[tuple[Rows, RowError | None]] = deque()

        def sources() -> Iterator[Any]:
            for part in parts:
                for tag, row in part:
                    source = self._source_of(row)
                    waiting.append((tag, source if isinstance(source, RowError) else None))
                    if not isinstance(source, RowError):
                        yield source

        with self._sessions.next() as scorer:
            encode: Callable[[Iterable[Any]], Generator[Outcome]]
            encode = scorer.embed_images if self._side == "images" else scorer.embed_texts
            for outcome in encode(sources()):
                yield from _failed(waiting)
                yield waiting.popleft()[0], _result(outcome)
            yield from _failed(waiting)

    def _source_of(self, row: Record | ScoreResult) -> Any:
        """Return the item of a row to encode, or the reason why there is none."""
        if isinstance(row, ScoreResult):  # a shard's sample without an image
            code, _, detail = (row.error or "").partition(": ")
            return RowError(ErrorCode(code), detail)
        return image_of(row.url) if self._side == "images" else caption_of(row.text)


def _failed(waiting: deque[tuple[Rows, RowError | None]]) -> Iterator[tuple[Rows, EmbeddingResult]]:
    """Yield the results of rows with nothing to encode, up to the next row to encode."""
    while waiting and (problem := waiting[0][1]) is not None:
        yield waiting.popleft()[0], _result(problem)


def _result(outcome: Outcome) -> EmbeddingResult:
    if isinstance(outcome, RowError):
        return EmbeddingResult(None, ScoreResult.failed(outcome).error)
    return EmbeddingResult(outcome)


def embed_table(  # noqa: PLR0913 - as `score_table`
    in_path: str | PathLike[str],
    out_path: str | PathLike[str],
    config: Config,
    col: str | None = None,
    *,
    side: EmbeddedSide = "images",
    options: TableOptions | None = None,
    encoder: Encoder | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Summary:
    """Encode the image or caption of every row, and write the table with two more columns, `embedding` and `error`.

    The vectors are the same as those that `score_table` compares: float32 unit vectors, whose dot product is the
    cosine. In Parquet, the vectors are lists of floats. The same call resumes a run that was stopped.

    Args:
        in_path, out_path, config, progress, stop: As for `score_table`.
        col: Column of images or captions; None finds it as `score_table` does.
        side: Whether to encode `images` or `captions`.
        options: How the run begins, what it replaces and writes, and when it ends early; `retry_failed` is not
            supported, and `probability` is refused.
        encoder: A loaded encoder to use; None loads the model of `config`.

    Returns:
        The summary, which is also written as JSON; `scored` counts the rows that have a vector.

    Raises:
        UsageError, TableError, BusyError, StoppedError, TooManyFailuresError, ConfigError, ModelError: As from
        `score_table`.
    """
    if side not in get_args(EmbeddedSide):
        raise ConfigError(f"side={side!r} is not one of {', '.join(get_args(EmbeddedSide))}")
    if options is not None and options.start == "retry_failed":
        raise UsageError(
            "embeddings cannot be retried one by one; encode the whole table again with --restart (start='restart')"
        )
    if options is not None and options.probability:
        raise UsageError("probability=True is for scores; embed_table writes none")

    def choose(table: Table) -> tuple[str | None, str | None]:
        images, captions = choose_columns(table, col if side == "images" else None, col if side == "captions" else None)
        return (images, None) if side == "images" else (None, captions)

    columns = (col or "url", None) if side == "images" else (None, col or "caption")
    task = Task(columns, EMBEDDING_FIELDS, EmbeddingResult.cells, {"embedded": side}, ("--col", "--col"), choose=choose)
    engine = EmbeddingEngine(side, encoder=encoder)
    return run_table((in_path, out_path), config, task, engine, options=options, progress=progress, stop=stop)
