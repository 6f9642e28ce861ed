"""The command line's engine on Spark, which scores every part of a table as one task."""

from __future__ import annotations

import json
import secrets
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial

from .. import errors
from ..config import Config
from ..encoders import ModelInfo
from ..errors import RowError, TableError
from ..pipeline import RunStats, ScoredPart, Tag, TaggedRows, portable, score_concurrently
from ..records import OUT_COLUMNS, Record, ScoreResult, parts_of
from .session import open_session

_MOST_PARTS = 256  # maximum number of parts in progress; each is in memory here, and a thread waits for it
_RESULT = "row int, similarity double, error string, captions_cut int"


class SparkEngine:
    """Engine that scores parts of a table on Spark, several at once.

    Args:
        conf: Spark's settings, such as `spark.master` or `spark.remote`.

    Attributes:
        at_once: Number of parts in progress, once the engine is started: two for each task that the cluster can run at
            once.

    Raises:
        UsageError: A name is not a Spark setting.
        MissingExtraError: PySpark is not installed.
        ConfigError: Spark cannot be started with these settings.
    """

    def __init__(self, conf: Mapping[str, str]) -> None:
        self._spark, self._ours = open_session(conf)
        self._tag = f"text-image-similarity-{secrets.token_hex(4)}"
        self._config: Config | None = None
        self.at_once = 1

    def __enter__(self) -> SparkEngine:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(Exception):  # a lost session has no jobs to end
            self._end_jobs()
        if self._ours:
            with suppress(Exception):  # the session may have been ended by the signal that ends this process
                self._spark.stop()

    def _end_jobs(self) -> None:
        from pyspark.sql.utils import is_remote

        if is_remote():
            self._spark.interruptTag(self._tag)
        else:  # if only the thread that set a session's tag can interrupt it
            self._spark.sparkContext.cancelJobsWithTag(self._tag)

    def start(self, config: Config) -> ModelInfo:
        """Load the model on one worker, and return its description.

        Raises:
            ConfigError, ModelError: From the worker.
            TableError: Spark failed.
        """
        from .worker import load_task

        self._config = portable(config)
        with self._job("the model cannot be loaded"):
            frame = self._spark.range(0, 1, 1, 1).mapInArrow(partial(load_task, config=self._config), "found string")
            found = json.loads(frame.toArrow().column("found")[0].as_py())
            self.at_once = _parts_at_once(self._cores(), self._spark.conf.get("spark.task.cpus", "1"))
        if "kind" in found:
            raise getattr(errors, found["kind"])(found["message"])
        return ModelInfo(**found["info"])

    def score_parts(self, parts: Iterable[TaggedRows[Tag]], stats: RunStats) -> Generator[tuple[Tag, ScoreResult]]:
        """Score enough parts concurrently to keep the cluster busy; see `Engine`."""
        return score_concurrently(self._scored, parts, stats, at_once=self.at_once)

    def score(self, records: Sequence[Record]) -> list[ScoreResult]:
        """Score a part as one task, which Spark runs again if its worker is lost; may be called from any thread.

        Raises:
            TableError: Spark gave up.
        """
        return self._scored(records)[0]

    def _scored(self, records: Sequence[Record]) -> ScoredPart:
        from .worker import packed, score_records

        assert self._config is not None, "call start() before score()"
        rows = [parts_of(record) for record in records]
        pairs = [row for row in rows if not isinstance(row, RowError)]
        part = packed(pairs)
        with self._job(f"a part of {len(records):,} rows could not be scored"):
            frame = self._spark.createDataFrame(part).coalesce(1)
            scored = frame.mapInArrow(partial(score_records, config=self._config), _RESULT)
            found = scored.toArrow().sort_by("row")
        if found.column("row").to_pylist() != list(range(len(pairs))):
            raise TableError(f"Spark returned {found.num_rows:,} rows for a part of {len(pairs):,}")
        columns = (found.column(name).to_pylist() for name in OUT_COLUMNS)
        results = (
            ScoreResult(s) if error is None else ScoreResult(error=error) for s, error in zip(*columns, strict=True)
        )
        whole = [ScoreResult.failed(row) if isinstance(row, RowError) else next(results) for row in rows]
        return whole, sum(found.column("captions_cut").to_pylist())

    def _cores(self) -> int:
        """Return Spark's default parallelism: its cores, unless a setting says otherwise."""
        from pyspark.sql.functions import spark_partition_id

        # Spark splits a range into this many partitions, with Spark Connect, too.
        return self._spark.range(1 << 20).select(spark_partition_id()).distinct().count()

    @contextmanager
    def _job(self, failure: str) -> Iterator[None]:
        """Tag the Spark jobs of a block as this engine's, and convert their exceptions.

        Raises:
            TableError: Spark failed.
        """
        from pyspark.sql.utils import is_remote

        try:
            if is_remote():  # tags of this thread
                self._spark.addTag(self._tag)
            else:
                self._spark.sparkContext.addJobTag(self._tag)
            yield
        except Exception as exc:  # exceptions of PySpark, py4j and gRPC, or a lost connection
            raise TableError(
                f"{failure} on Spark: {_reason(exc)}; {_advice(exc)}, and run the same command again"
            ) from exc


def _parts_at_once(cores: int, task_cpus: str | None) -> int:
    return min(2 * max(cores // int(task_cpus or 1), 1), _MOST_PARTS)


def _advice(exc: Exception) -> str:
    if "spark.rpc.message.maxSize" in str(exc):
        return "choose a smaller --chunk-size, or raise spark.rpc.message.maxSize (MiB)"
    return "fix the cause, or raise spark.task.maxFailures"


def _reason(exc: Exception) -> str:
    """Return the line of a long message that says what happened: Java's first cause, or a Python traceback's end."""
    lines = [line.strip() for line in str(exc).splitlines()]
    lines = [line for line in lines if line and not line.startswith("SQLSTATE")] or [type(exc).__name__]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    traceback = any(line.startswith("Traceback ") for line in lines)
    return (causes[0] if causes else lines[-1 if traceback else 0]).rstrip(".")
