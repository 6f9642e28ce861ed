"""A table's parts scored by an engine: same bytes as here, in order, so many at once, and to be gone on with."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from threading import Barrier, Event, Lock
from typing import Any

import pytest

from tests.support.clock import HANG_S
from tests.support.images import make_png
from text_image_similarity import (
    Config,
    LocalEngine,
    ModelInfo,
    Record,
    ScoreResult,
    TableError,
    score_csv,
    score_pairs,
)
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.errors import ModelUnavailableError, StoppedError
from text_image_similarity.formats import Rows
from text_image_similarity.formats.delimited import DelimitedTable
from text_image_similarity.pipeline import RunStats, Tag, TaggedRows, score_concurrently
from text_image_similarity.tables import TableOptions, job

CONFIG = Config(batch_size=4, io_workers=4, retries=0, chunk_size=10)
ENCODER = ColourEncoder()


class Pool:
    """An engine whose workers are threads of this process."""

    def __init__(self, at_once: int = 3) -> None:
        self.at_once = at_once
        self.parts: list[int] = []
        self.started: list[str] = []
        self.unavailable: set[object] = set()
        self._lock = Lock()

    def start(self, config: Config) -> ModelInfo:
        self.started.append(str(config.model))
        if config.model in self.unavailable:
            raise ModelUnavailableError(f"{config.model} is nowhere")
        self.config = config
        return ENCODER.info

    def score_parts(self, parts: Iterable[TaggedRows[Tag]], stats: RunStats) -> Generator[tuple[Tag, ScoreResult]]:
        return score_concurrently(lambda records: (self.score(records), None), parts, stats, at_once=self.at_once)

    def score(self, records: Sequence[Record]) -> list[ScoreResult]:
        with self._lock:
            self.parts.append(len(records))
        return list(score_pairs(records, self.config, encoder=ENCODER))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for colour in ("red", "blue", "lime"):
        (tmp_path / f"{colour}.png").write_bytes(make_png(colour))
    lines = [f"{i},{['red', 'none', 'blue', 'lime'][i % 4]}.png,{['red', 'lime', ''][i % 3]}" for i in range(95)]
    (tmp_path / "in.csv").write_text("id,url,caption\n" + "\n".join(lines) + "\n")
    score_csv(tmp_path / "in.csv", tmp_path / "here.csv", CONFIG, engine=LocalEngine(encoder=ENCODER))
    return tmp_path


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_an_engine_writes_the_same_bytes(folder: Path, at_once: int) -> None:
    pool = Pool(at_once)
    summary = score_csv(folder / "in.csv", folder / "out.csv", CONFIG, engine=pool)
    assert (folder / "out.csv").read_bytes() == (folder / "here.csv").read_bytes()
    assert sorted(pool.parts, reverse=True) == [10] * 9 + [5]
    assert (summary.rows, summary.scored, summary.info.model) == (
        95,
        sum(summary.failures.values()) * -1 + 95,
        "colour",
    )


def test_as_many_parts_are_in_work_as_keep_it_busy(folder: Path) -> None:
    together = Barrier(3)

    class Busy(Pool):
        def score(self, records: Sequence[Record]) -> list[ScoreResult]:
            if len(self.parts) < 9:  # nine parts come in threes; the tenth would wait alone
                together.wait(HANG_S)
            return super().score(records)

    assert score_csv(folder / "in.csv", folder / "out.csv", CONFIG, engine=Busy(3)).rows == 95


@pytest.mark.parametrize("local", [True, False])
def test_an_engine_has_so_many_bytes_at_once(folder: Path, local: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of parts of about 350 bytes, it gets the third when the first is kept."""
    monkeypatch.setattr(job, "_UNDER_WAY", 500)
    under_way: set[int] = set()
    most: list[int] = []

    def watched(kept: Callable[..., Generator[tuple[Rows, ScoreResult]]]) -> Any:
        def score_parts(engine: Any, parts: Iterable[TaggedRows[Rows]], stats: RunStats) -> Any:
            def noted() -> Iterator[TaggedRows[Rows]]:
                for part in parts:
                    rows = list(part)
                    under_way.add(id(rows[0][0]))
                    most.append(len(under_way))
                    yield rows

            for rows, result in kept(engine, noted(), stats):
                yield rows, result
                under_way.discard(id(rows))

        return score_parts

    engine = LocalEngine(encoder=ENCODER) if local else Pool(9)
    monkeypatch.setattr(type(engine), "score_parts", watched(type(engine).score_parts))
    score_csv(folder / "in.csv", folder / "out.csv", CONFIG, engine=engine)
    assert (folder / "out.csv").read_bytes() == (folder / "here.csv").read_bytes()
    assert len(most) == 10
    assert max(most) == 2


def test_a_part_is_read_while_the_one_before_it_is_scored(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, second = DelimitedTable.read, Event()

    def watched(table: DelimitedTable, start: int, most: int) -> Generator[object]:
        for number, rows in enumerate(read(table, start, most)):
            if number == 1:
                second.set()
            yield rows

    class Waiting(Pool):
        def score_parts(self, parts: Iterable[TaggedRows[Tag]], stats: RunStats) -> Generator[tuple[Tag, ScoreResult]]:
            for part in parts:
                assert second.wait(HANG_S)
                for tag, record in part:
                    assert isinstance(record, Record)
                    yield tag, self.score([record])[0]

    monkeypatch.setattr(DelimitedTable, "read", watched)
    score_csv(folder / "in.csv", folder / "out.csv", CONFIG, engine=Waiting())
    assert (folder / "out.csv").read_bytes() == (folder / "here.csv").read_bytes()


def test_what_an_engine_cannot_get_over_keeps_the_parts_before_it(folder: Path) -> None:
    class Breaking(Pool):
        def score(self, records: Sequence[Record]) -> list[ScoreResult]:
            if str(records[0].url).startswith("blue") and len(self.parts) >= 4:
                raise TableError("the cluster is gone")
            return super().score(records)

    with pytest.raises(TableError, match="the cluster is gone"):
        score_csv(folder / "in.csv", folder / "out.csv", CONFIG, engine=Breaking(1))
    kept = len(list((folder / "out.csv.parts").glob("part-*.csv")))
    assert kept >= 4
    rest = Pool()
    score_csv(folder / "in.csv", folder / "out.csv", CONFIG, engine=rest)
    assert len(rest.parts) == 10 - kept
    assert (folder / "out.csv").read_bytes() == (folder / "here.csv").read_bytes()


def test_a_run_goes_on_with_another_engine(folder: Path) -> None:
    asked = iter([False, False, True])
    with pytest.raises(StoppedError):
        score_csv(folder / "in.csv", folder / "out.csv", CONFIG, engine=Pool(2), stop=lambda: next(asked))
    score_csv(folder / "in.csv", folder / "out.csv", CONFIG, engine=LocalEngine(encoder=ENCODER))
    assert (folder / "out.csv").read_bytes() == (folder / "here.csv").read_bytes()


def test_stopping_does_not_wait_for_parts_in_work(folder: Path) -> None:
    gone = Event()

    class Stuck(Pool):
        def score(self, records: Sequence[Record]) -> list[ScoreResult]:
            if self.parts:
                assert gone.wait(HANG_S)
            return super().score(records)

    asked = iter([False, True])
    try:
        with pytest.raises(StoppedError):
            score_csv(folder / "in.csv", folder / "out.csv", CONFIG, engine=Stuck(2), stop=lambda: next(asked))
        assert not gone.is_set()
    finally:
        gone.set()


def test_an_engine_that_is_ended_together_with_the_run_is_no_failure(folder: Path) -> None:
    asked = Event()

    class Ended(Pool):
        def score(self, records: Sequence[Record]) -> list[ScoreResult]:
            if len(self.parts) == 3:
                asked.set()  # SIGTERM went to the whole process group
                raise TableError("the cluster is gone")
            return super().score(records)

    with pytest.raises(StoppedError, match="30 of 95 rows kept; the same command resumes") as raised:
        score_csv(folder / "in.csv", folder / "out.csv", CONFIG, engine=Ended(1), stop=asked.is_set)
    assert str(raised.value.__cause__) == "the cluster is gone"
    rest = Pool()
    score_csv(folder / "in.csv", folder / "out.csv", CONFIG, engine=rest)
    assert len(rest.parts) == 7
    assert (folder / "out.csv").read_bytes() == (folder / "here.csv").read_bytes()


def test_only_failures_that_may_pass_go_to_the_engine_again(folder: Path) -> None:
    pool = Pool()
    score_csv(folder / "in.csv", folder / "out.csv", CONFIG, engine=pool)
    again = Pool()
    score_csv(folder / "in.csv", folder / "out.csv", CONFIG, engine=again, options=TableOptions(start="retry_failed"))
    assert again.parts == []  # a missing file stays missing
    assert (folder / "out.csv").read_bytes() == (folder / "here.csv").read_bytes()


def test_an_engine_falls_back_as_this_process_does(folder: Path) -> None:
    pool = Pool()
    pool.unavailable = {CONFIG.model}
    with pytest.raises(ModelUnavailableError):
        score_csv(folder / "in.csv", folder / "out.csv", CONFIG, engine=pool)
    summary = score_csv(
        folder / "in.csv", folder / "out.csv", CONFIG, engine=pool, options=TableOptions(fallback_model="mini")
    )
    assert pool.started[-1] == "mini"
    assert "scored with mini instead" in summary.warnings[0]
