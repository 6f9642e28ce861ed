"""Engines, which score the parts of a table: the protocol of Spark, Ray and the service's client, and the local engine.

A part goes to an engine as tagged rows and comes back as tagged results, so callers do not have to match them up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Protocol

import httpx

from ..config import Config, is_redis, require_config
from ..encoders import Encoder, ModelInfo, model_folder
from ..errors import TableError, UsageError
from ..records import Record, ScoreResult
from .rows import DeferredErrors, Tag
from .scorer import Scorer
from .session import Sessions
from .stats import RunStats

# Rows of a part: each is a tag with a record, or a tag with a result that is already known.
TaggedRows = Iterable[tuple[Tag, Record | ScoreResult]]


class Engine(Protocol):
    """Scores the parts of a table, in this process or elsewhere."""

    def start(self, config: Config) -> ModelInfo:
        """Load the model where rows will be scored, and return its description.

        Raises:
            ConfigError, ModelError: The model cannot be loaded where rows are scored.
        """

    def score_parts(self, parts: Iterable[TaggedRows[Tag]], stats: RunStats) -> Generator[tuple[Tag, ScoreResult]]:
        """Score parts and yield each row's tag with its result, in order; may be called again after it has ended.

        Args:
            parts: Parts, each of which must be consumed before the next one is requested.
            stats: Counters to update, as far as the engine can count.

        Raises:
            TableError: A part could not be scored, even after retries.
        """


class LocalEngine:
    """Engine that scores in this process.

    Args:
        encoder: A loaded encoder to use and share; None loads the one that the run's `Config` names.
        transport: Transport for HTTP requests, for tests; None is the network.
    """

    def __init__(self, *, encoder: Encoder | None = None, transport: httpx.BaseTransport | None = None) -> None:
        self._encoder, self._transport = encoder, transport
        self._sessions: Sessions | None = None

    def start(self, config: Config) -> ModelInfo:
        """Load the model, or keep the model of an earlier table with the same settings; see `Engine`."""
        encoder = self._encoder
        if self._sessions is not None:  # the session of an earlier table
            earlier = self._sessions.latest
            earlier.close()
            encoder = encoder or (earlier.encoder if earlier.config == config else None)
        scorer = Scorer(config, encoder=encoder, transport=self._transport)
        self._sessions = Sessions(scorer, transport=self._transport)
        encoder = scorer.encoder
        # Without a fingerprint, at least its class distinguishes an encoder from others.
        known = encoder.info.fingerprint or type(encoder).__qualname__
        return replace(encoder.info, fingerprint=known)

    def score_parts(self, parts: Iterable[TaggedRows[Tag]], stats: RunStats) -> Generator[tuple[Tag, ScoreResult]]:
        """Score parts, downloading the next one while the current one is encoded; see `Engine`."""
        if self._sessions is None:
            raise UsageError("call start() before score_parts()")
        with self._sessions.next() as scorer:
            yield from scorer.score_parts(parts, stats=stats)


# The results of a part, and how many of its captions were cut, or None if unknown.
ScoredPart = tuple[list[ScoreResult], int | None]


def score_concurrently(
    score: Callable[[Sequence[Record]], ScoredPart], parts: Iterable[TaggedRows[Tag]], stats: RunStats, *, at_once: int
) -> Generator[tuple[Tag, ScoreResult]]:
    """Score parts with several concurrent calls, and yield each row's tag with its result, in order.

    Args:
        score: Function that returns one result for each record of a part, in order; called on several threads.
        parts: As for `Engine.score_parts`.
        stats: Counters that receive the number of cut captions.
        at_once: Number of parts in progress at a time.
    """
    work: deque[tuple[list[tuple[Tag, Record | ScoreResult]], Future[ScoredPart]]] = deque()
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="score-engine")
    try:
        source = DeferredErrors(list(part) for part in parts)
        while (rows := source.next()) is not None:
            records = [row for _, row in rows if isinstance(row, Record)]
            work.append((rows, pool.submit(score, records) if records else pool.submit(lambda: ([], 0))))
            if len(work) >= at_once:
                yield from _answered(*work.popleft(), stats)
        while work:
            yield from _answered(*work.popleft(), stats)
        if source.problem is not None:
            raise source.problem
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # closing the engine ends the calls in progress


def _answered(
    rows: list[tuple[Tag, Record | ScoreResult]], scored: Future[ScoredPart], stats: RunStats
) -> Generator[tuple[Tag, ScoreResult]]:
    found, cut = scored.result()
    stats.captions_cut = None if cut is None or stats.captions_cut is None else stats.captions_cut + cut
    if len(found) != (wanted := sum(isinstance(row, Record) for _, row in rows)):
        raise TableError(f"the engine returned {len(found):,} results for {wanted:,} records")
    results = iter(found)
    for tag, row in rows:
        yield tag, row if isinstance(row, ScoreResult) else next(results)


def portable(config: Config) -> Config:
    """Return settings that mean the same in a process with another working folder, by making paths absolute."""
    require_config(config)

    def absolute(path: str | PathLike[str] | None) -> Path | None:
        return None if path is None else Path(path).expanduser().absolute()

    folder = model_folder(config.model).absolute()
    return replace(
        config,
        model=str(folder) if folder.is_dir() and str(config.model) != "mini" else config.model,
        base_dir=Path(config.base_dir or "").absolute(),
        files_under=absolute(config.files_under),
        ca_file=absolute(config.ca_file),
        headers_file=absolute(config.headers_file),
        model_cache=absolute(config.model_cache),
        embedding_cache=(
            config.embedding_cache if is_redis(config.embedding_cache) else absolute(config.embedding_cache)
        ),
    )
