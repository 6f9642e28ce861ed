"""The writer beside the answers: nothing that was acknowledged is lost, and nothing waits for the database."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any

import psycopg
import pytest

from tests.support.paths import ROOT
from text_image_similarity.errors import DatabaseError
from text_image_similarity.search.match_log import (
    LogEntry,
    LogEvent,
    LogWriter,
    MatchLog,
    new_match_id,
    open_match_log,
)
from text_image_similarity.search.match_log.sqlite import MEMORY, SqliteStorage
from text_image_similarity.search.match_log.storage import StoredRow, Table


class Faulty(SqliteStorage):
    """A log that can be away, or slow."""

    def __init__(self) -> None:
        super().__init__(MEMORY)
        self.away = False
        self.begun, self.free = Event(), Event()
        self.free.set()
        self.groups: list[int] = []

    def insert(self, rows: Mapping[Table, Sequence[StoredRow]]) -> None:
        self.groups.append(sum(map(len, rows.values())))
        self.begun.set()
        self.free.wait()
        if self.away:
            raise DatabaseError("the server is away")
        super().insert(rows)


@pytest.fixture
def storage() -> Iterator[Faulty]:
    with closing(Faulty()) as found:
        yield found


@pytest.fixture
def log(storage: Faulty) -> MatchLog:
    return MatchLog(storage)


def entry(**values: Any) -> LogEntry:
    return LogEntry(new_match_id(), 0.0, **values)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_everything_put_by_many_threads_is_there_after_close(log: MatchLog) -> None:
    writer = LogWriter(log)
    entries = [entry(tenant=str(number)) for number in range(3000)]
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(writer.put, entries))
    writer.put(LogEvent(entries[0].id, 1.0, "click", "a"))
    writer.close()
    assert (writer.written, writer.dropped, writer.depth) == (3001, 0, 0)
    assert {each.tenant for each in log.entries()} == {str(number) for number in range(3000)}
    assert [event.product for event in log.events()] == ["a"]


def test_what_waits_is_written_in_groups(storage: Faulty, log: MatchLog) -> None:
    storage.free.clear()
    with closing(LogWriter(log)) as writer:
        for _ in range(1201):
            writer.put(entry())
        storage.begun.wait()
        assert writer.depth == 1201
        storage.free.set()
        assert writer.flush()
        assert writer.depth == 0
    assert sum(storage.groups) == 1201
    assert max(storage.groups) == 500
    assert len(storage.groups) <= 4


def test_write_tells_when_an_entry_is_durable(storage: Faulty, log: MatchLog) -> None:
    storage.free.clear()
    with closing(LogWriter(log)) as writer:
        given = entry()
        future = writer.write(given)
        storage.begun.wait()
        assert not future.done()
        assert not future.cancel()
        assert log.get(given.id) is None
        assert writer.find(given.id) == given
        storage.free.set()
        assert future.result(60) is None
        assert log.get(given.id) == writer.find(given.id) == given


def test_a_database_that_is_away_is_waited_for(
    storage: Faulty, log: MatchLog, caplog: pytest.LogCaptureFixture
) -> None:
    storage.away = True
    with closing(LogWriter(log, most=600, retry_s=3600)) as writer:
        assert all(writer.put(entry(total=number)) for number in range(550))
        assert not writer.flush()
        assert not writer.flush()
        for _ in range(3):
            with pytest.raises(DatabaseError, match="the server is away"):
                writer.write(entry(total=-1)).result(60)
        assert [writer.put(entry(total=number)) for number in range(550, 610)] == [True] * 50 + [False] * 10
        assert (writer.written, writer.dropped, writer.depth) == (0, 10, 600)
        storage.away = False
        assert writer.flush()
        assert writer.write(entry(total=600)).result(60) is None
        assert (writer.written, writer.dropped, writer.depth) == (601, 10, 0)
    assert sorted(each.total or 0 for each in log.entries()) == list(range(601))
    assert warnings(caplog) == [
        "the match log cannot be written: the server is away; up to 600 records will be retried",
        "the match log is full: 600 records are waiting; any more are dropped and counted",
        "the match log can be written again; 10 records have been dropped so far",
    ]


def test_required_entries_fail_with_their_group_and_are_not_tried_again(storage: Faulty, log: MatchLog) -> None:
    storage.free.clear()
    with closing(LogWriter(log, retry_s=0.0)) as writer:
        writer.put(entry(total=0))
        storage.begun.wait()
        futures = [writer.write(entry(total=1)), writer.write(entry(total=2))]
        writer.put(entry(total=3))
        storage.away = True
        storage.free.set()
        for future in futures:
            with pytest.raises(DatabaseError, match="the server is away"):
                future.result(60)
        storage.away = False
        assert writer.flush()
    assert [each.total for each in sorted(log.entries(), key=lambda each: each.total or 0)] == [0, 3]
    assert writer.dropped == 0


def test_a_writer_that_closes_while_the_database_is_away_says_what_is_lost(
    storage: Faulty, log: MatchLog, caplog: pytest.LogCaptureFixture
) -> None:
    storage.away = True
    writer = LogWriter(log, retry_s=3600)
    writer.put(entry())
    writer.flush()
    writer.put(entry())
    writer.close()
    writer.close()
    assert (writer.written, writer.dropped, writer.depth) == (0, 2, 0)
    assert warnings(caplog)[1:] == ["the match log was closed with 2 records that could not be written"]
    assert not writer.put(entry())
    assert writer.dropped == 3
    with pytest.raises(DatabaseError, match="the match log is closed"):
        writer.write(entry()).result(60)


def test_a_full_queue_refuses_what_is_required(storage: Faulty, log: MatchLog) -> None:
    storage.free.clear()
    with closing(LogWriter(log, most=1)) as writer:
        writer.put(entry())
        with pytest.raises(DatabaseError, match="is full: 1 records are waiting"):
            writer.write(entry()).result(60)
        assert writer.dropped == 0
        storage.free.set()


def test_a_record_that_cannot_be_written_keeps_no_other_from_it(
    storage: Faulty, log: MatchLog, caplog: pytest.LogCaptureFixture
) -> None:
    class Unreadable(dict[str, Any]):
        def items(self) -> Any:
            raise RuntimeError("unreadable")

    storage.free.clear()
    with closing(LogWriter(log)) as writer:
        writer.put(entry())
        storage.begun.wait()
        bad = writer.write(entry(query=Unreadable(a=1)))
        writer.put(entry(query=Unreadable(a=1)))
        good = writer.write(entry())
        storage.free.set()
        assert good.result(60) is None
        with pytest.raises(DatabaseError, match="unreadable"):
            bad.result(60)
        assert writer.flush()
    assert (writer.written, writer.dropped) == (2, 1)
    assert len(warnings(caplog)) == 2


_WRITING = """
import sys
from text_image_similarity.search.match_log import LogEntry, LogWriter, new_match_id, open_match_log

writer = LogWriter(open_match_log(sys.argv[1]))
while True:
    entries = [LogEntry(new_match_id(), 0.0) for _ in range(7)]
    for entry, future in [(entry, writer.write(entry)) for entry in entries]:
        future.result()
        print(entry.id, flush=True)
"""


def test_what_was_acknowledged_outlasts_a_kill(tmp_path: Path) -> None:
    place = tmp_path / "log.sqlite"
    arguments = [sys.executable, "-c", _WRITING, str(place)]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(100)]
        process.kill()
        told += process.stdout.readlines()
    acknowledged = {line.strip() for line in told if line.endswith("\n")}
    assert len(acknowledged) >= 100
    with open_match_log(place) as log:
        kept = [each.id for each in log.entries()]
    assert len(kept) == len(set(kept)) <= len(acknowledged) + 7
    assert acknowledged <= set(kept)


def test_postgres_that_drops_its_connections_is_connected_to_again(postgres_url: str) -> None:
    with open_match_log(postgres_url) as log, closing(LogWriter(log)) as writer:
        assert writer.write(entry()).result(60) is None
        with psycopg.connect(postgres_url.partition("&")[0], autocommit=True) as administrator:
            administrator.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
        assert writer.write(entry()).result(60) is None
        assert len(list(log.entries())) == 2


def test_the_memory_of_waiting_records_is_limited_and_one_client_may_take_half_of_it(
    storage: Faulty, log: MatchLog
) -> None:
    storage.away = True
    with closing(LogWriter(log, most_bytes=1000, retry_s=3600)) as writer:
        assert not writer.put(entry(), size=501, client="bad")
        assert [writer.put(entry(), size=100, client="bad") for _ in range(6)] == [True] * 5 + [False]
        assert writer.put(entry(), size=300, client="good")
        assert writer.put(entry(), size=200)
        assert not writer.put(entry(), size=1, client="good")
        assert not writer.flush()
        with pytest.raises(DatabaseError):
            writer.write(entry(), size=1, client="good").result(60)
        assert (writer.depth, writer.dropped) == (7, 3)
        storage.away = False
        assert writer.flush()
        writer.write(entry(), size=500, client="bad").result(60)
        storage.free.clear()
        assert writer.put(entry(), size=500, client="bad")
        with pytest.raises(DatabaseError, match="the match log is full"):
            writer.write(entry(), size=1, client="bad").result(60)
        storage.free.set()
        assert writer.flush()
        assert not writer._held, "all memory is free again"
