"""What every match log does, whatever database it is in. MongoDB is mongomock here: no server was run."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from text_image_similarity.errors import InputTypeError, UsageError
from text_image_similarity.search.match_log import LogEntry, LogEvent, MatchLog, new_match_id

Open = Callable[[], MatchLog]
NOON = 1_795_867_200.0  # 28 November 2026
AWKWARD = "a\0b\1\"'%s ? $where . {} \\ \ud83d 😀\n" + "ж" * 10_000


def entry(seconds: float = 0.0, **values: object) -> LogEntry:
    time = NOON + seconds
    return LogEntry(**{"id": new_match_id(time), "time": time, "query": {"terms": [{"text": "bag", "weight": 1}]}} | values)  # type: ignore[arg-type]


def test_entries_come_back_as_they_were(opened: Open) -> None:
    full = entry(
        catalog=AWKWARD,
        route=AWKWARD,
        request_id=AWKWARD,
        tenant=AWKWARD,
        status=422,
        generation=3,
        query={"terms": [{"text": AWKWARD, "weight": -0.75}], AWKWARD: 2**70, "$set": {"a.b": None, "": [1.5, True]}},
        where={AWKWARD: {"in": [AWKWARD]}},
        results=({"id": AWKWARD, "similarity": 0.1, "score": 1 / 3}, {"id": "b", "similarity": None, "score": None}),
        total=2**40,
        plan=AWKWARD,
        milliseconds={"total": 1e-9, AWKWARD: 2.0},
        error=f"invalid_query: {AWKWARD}",
    )
    plain = entry(1, where="price < 5")
    opened().append([full, plain])
    log = opened()
    assert log.get(full.id) == full
    assert log.get(plain.id) == plain
    assert log.get(new_match_id(NOON)) is None
    assert list(log.entries()) == [full, plain]


def test_what_json_cannot_hold_is_kept_as_far_as_it_can_be(log: MatchLog) -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    given = entry(query={"top_k": np.int64(3), "vector": np.array([1.0, np.nan]), "sort": {"x"}, "n": float("inf")})
    log.append([given, nested := entry(1, query={"terms": deep}, total=5)])
    found, flat = log.entries()
    assert found.query == {"top_k": 3, "vector": [1.0, None], "sort": ["x"], "n": None}
    assert (flat.id, flat.query, flat.total) == (nested.id, {}, 5)


def test_a_group_that_is_appended_again_changes_nothing(log: MatchLog) -> None:
    first, second = entry(), entry(1)
    click = LogEvent(first.id, NOON + 5, "click", AWKWARD)
    log.append([first], [click])
    changed = LogEntry(first.id, first.time, catalog="changed")
    log.append([changed, second, second], [click, LogEvent(first.id, NOON + 6, "click", AWKWARD)])
    assert list(log.entries()) == [first, second]
    assert [event.time for event in log.events()] == [NOON + 5, NOON + 6]
    assert next(log.events()) == click


def test_entries_and_events_are_chosen_by_the_time_of_the_match(log: MatchLog) -> None:
    entries = [entry(seconds) for seconds in range(1300)]  # more than one page
    events = [LogEvent(each.id, NOON + 9999, "buy", "a") for each in entries]
    order = np.random.default_rng(0).permutation(len(entries))
    log.append([entries[at] for at in order], [events[at] for at in order])
    assert list(log.entries()) == entries
    assert list(log.entries(since=NOON + 100, until=NOON + 1200)) == entries[100:1200]
    assert list(log.events(since=NOON + 1299)) == events[1299:]
    assert list(log.events(until=NOON + 0.001)) == events[:1]
    assert list(log.entries(since=NOON + 0.001, until=NOON + 1.001)) == entries[1:2]
    assert list(log.entries(since=0.0, until=NOON)) == []
    assert log.latest(2) == [entries[-1], entries[-2]]


def test_prune_removes_matches_with_their_events(log: MatchLog) -> None:
    entries = [entry(seconds) for seconds in range(7)]
    log.append(entries, [LogEvent(each.id, NOON + 9999, "click", "a") for each in entries])
    assert log.prune(NOON + 5) == 5
    assert log.prune(NOON + 5) == 0
    assert list(log.entries()) == entries[5:]
    assert [event.match_id for event in log.events()] == [each.id for each in entries[5:]]


def test_writers_share_a_log(opened: Open) -> None:
    logs = [opened() for _ in range(3)]
    entries = [entry(seconds) for seconds in range(90)]
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda at: logs[at % 3].append(entries[at : at + 15]), range(0, 90, 15)))
    assert list(opened().entries()) == entries


def test_a_log_can_be_read_while_it_is_written(opened: Open) -> None:
    log = opened()
    log.append([entry(seconds) for seconds in range(600)])
    reading = log.entries()
    first = next(reading)
    opened().append([entry(1000)])
    opened().prune(NOON + 1)
    assert first.time == NOON
    assert len(list(reading)) == 600


def test_ids_sort_by_time_and_are_told_from_other_texts() -> None:
    ids = [new_match_id(NOON + step / 1000) for step in range(100)]
    assert ids == sorted(ids)
    assert int(ids[0][:12], 16) == NOON * 1000
    assert len({new_match_id(NOON) for _ in range(1000)}) == 1000
    for wrong in ("", ids[0].upper(), ids[0] + "0", ids[0][:-1] + "\n", None):
        with pytest.raises(UsageError, match="is not the id of a match"):
            LogEvent(wrong, NOON, "click", "a")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="is not the id of a match"):
        LogEntry("a", NOON)
    with pytest.raises(UsageError, match="click, cart, buy or wrong, not 'like'"):
        LogEvent(ids[0], NOON, "like", "a")  # type: ignore[arg-type]
    with pytest.raises(InputTypeError, match="a product's id"):
        LogEvent(ids[0], NOON, "click", "")


def test_members_are_given_as_json_has_them() -> None:
    found = entry(results=({"id": "a"},)).as_dict()
    assert json.loads(json.dumps(found)) == found
    assert LogEvent(found["id"], NOON, "cart", "a").as_dict()["kind"] == "cart"
