"""Embeddings in Redis: found by all who share them, and never an error or a wrong vector, whatever happens to Redis."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.clock import HANG_S, FakeClock
from tests.support.embeddings import key, vector
from tests.support.faults import Certificates
from tests.support.images import make_png
from tests.support.processes import free_port
from tests.support.redis import RedisServer, redis_server
from tests.support.services import MINI, mini_settings
from text_image_similarity import Config, ConfigError, Record, score_pairs
from text_image_similarity.embeddings import Event, SharedEmbeddings
from text_image_similarity.embeddings import breaker as breaker_module
from text_image_similarity.embeddings import shared as shared_module
from text_image_similarity.embeddings.breaker import CircuitBreaker
from text_image_similarity.embeddings.shared import hide_password
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.pipeline import portable
from text_image_similarity.service.inference.local import LocalModelPool
from text_image_similarity.service.jobs import Pair
from text_image_similarity.service.telemetry.metrics import Metrics

pytestmark = pytest.mark.server
NAME = b"tis:1:"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Wait for a Redis on a busy machine; return what makes waiting end after so many seconds again."""

    def wait(seconds: float) -> None:
        for module, name in ((shared_module, "_ANSWER_S"), (shared_module, "_CONNECT_S"), (breaker_module, "_START_S")):
            monkeypatch.setattr(module, name, seconds)

    wait(HANG_S)
    return wait


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(running: RedisServer) -> RedisServer:
    """Return an empty Redis that runs."""
    running.client.flushdb()
    return running


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what failed be tried again at once."""
    monkeypatch.setattr(breaker_module, "_FIRST_PAUSE_S", 0.0)


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


WRITER = """
import sys
from tests.support.embeddings import key, vector
from tests.support.faults import Certificates
from text_image_similarity.embeddings import SharedEmbeddings, breaker, shared
breaker._START_S = shared._ANSWER_S = shared._CONNECT_S = 300.0
cache = SharedEmbeddings(sys.argv[1], 7)
cache.put({key(number): vector(number) for number in range(600)})
cache.close()
"""


def test_what_one_process_puts_in_another_finds_to_the_bit(server: RedisServer) -> None:
    subprocess.run([sys.executable, "-c", WRITER, server.url], check=True)
    cache = SharedEmbeddings(server.url, 7)
    found = cache.get_many([key(number) for number in range(601)])
    assert list(found) == [key(number) for number in range(600)]
    for number in range(600):
        np.testing.assert_array_equal(found[key(number)], vector(number))
    assert cache.get(key(600)) is None
    np.testing.assert_array_equal(cache.get(key(7)), vector(7))
    assert cache.get(key(7, "another model")) is None
    assert SharedEmbeddings(server.url, 3).get(key(7)) is None  # of another width
    assert server.client.strlen(NAME + key(7)) == 4 * 7 + 8
    assert 0 < server.client.ttl(NAME + key(7)) <= 30 * 86_400
    cache.close()


def test_a_damaged_a_moved_and_a_foreign_value_count_as_missing_and_are_replaced(server: RedisServer) -> None:
    cache, redis = SharedEmbeddings(server.url, 7), server.client
    cache.put({key(number): vector(number) for number in range(6)})
    good = redis.get(NAME + key(0))
    redis.set(NAME + key(1), bytes([good[0] ^ 1]) + good[1:])
    redis.set(NAME + key(2), good)
    redis.set(NAME + key(3), b"something else")
    redis.delete(NAME + key(4))
    redis.rpush(NAME + key(4), "a list")
    redis.set(NAME + key(5), b"")
    assert list(cache.get_many([key(number) for number in range(6)])) == [key(0)]
    cache.put({key(number): vector(number) for number in range(6)})
    assert len(cache.get_many([key(number) for number in range(6)])) == 6
    cache.put({key(9): np.full(7, np.nan, np.float32)})
    assert cache.get(key(9)) is None
    cache.close()


def test_a_redis_that_is_killed_in_the_middle_and_comes_back(
    server: RedisServer, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[Event] = []
    cache = SharedEmbeddings(server.url, 7, watch=events.append)
    problems: list[BaseException] = []
    stop, used = threading.Event(), threading.Barrier(5)

    def use(first: int) -> None:
        try:
            for number in range(first, first + 1_000_000):
                cache.put({key(number): vector(number)})
                found = cache.get(key(number))
                assert found is None or found.tolist() == vector(number).tolist()
                if number == first + 20:
                    used.wait(HANG_S)
                if stop.is_set():
                    return
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=use, args=(1_000_000 * number,)) for number in range(4)]
    with caplog.at_level(logging.INFO, "text_image_similarity"):
        for thread in threads:
            thread.start()
        used.wait(HANG_S)
        server.kill()
        until(lambda: "off" in events)
        server.start()
        until(lambda: "on" in events)
        until(lambda: server.client.dbsize() > 0)
        stop.set()
        for thread in threads:
            thread.join(HANG_S)
    assert problems == []
    assert events.count("failure") >= 3
    changes = [event for event in events if event != "failure"]
    assert changes[:2] == ["off", "on"]
    assert len(caplog.records) == len(changes)
    assert f"redis://:***@127.0.0.1:{server.port}/3 is temporarily not used" in caplog.text
    assert "s3cr" not in caplog.text
    cache.close()


def test_a_redis_that_does_not_answer_is_asked_three_times_and_used_again_later(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, patient: Callable[[float], None]
) -> None:
    clock = FakeClock(monkeypatch, breaker_module)
    events: list[Event] = []
    cache = SharedEmbeddings(server.url, 7, watch=events.append)
    cache.put({key(1): vector(1)})
    cache.close()
    patient(0.5)
    cache = SharedEmbeddings(server.url, 7, watch=events.append)
    server.send(signal.SIGSTOP)
    try:
        assert [cache.get(key(1)) for _ in range(5)] == [None] * 5
        cache.put({key(2): vector(2)})
        assert events == ["failure"] * 3 + ["off"]
    finally:
        server.send(signal.SIGCONT)
    assert cache.get(key(1)) is None, "not before its time"
    clock.move_on(5.0)
    assert cache.get(key(1)) is None  # which begins a probe, and does not wait for it
    until(lambda: events[-1] == "on")
    np.testing.assert_array_equal(cache.get(key(1)), vector(1))
    cache.close()


@pytest.mark.parametrize("trouble", ["nobody listens", "wrong password", "no password", "another protocol"])
def test_what_cannot_be_used_from_the_start_is_told_once_and_left_aside(
    server: RedisServer, trouble: str, patient: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    patient(1.0)
    places = {
        "nobody listens": f"redis://:pa55word@127.0.0.1:{free_port()}",
        "wrong password": f"redis://:pa55word@127.0.0.1:{server.port}/3",
        "no password": f"redis://127.0.0.1:{server.port}/3",
        "another protocol": f"rediss://:pa55word@127.0.0.1:{server.port}/3",
    }
    cache = SharedEmbeddings(places[trouble], 7)
    for number in range(5):
        cache.put({key(number): vector(number)})
        assert cache.get(key(number)) is None
    cache.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert hide_password(places[trouble]) in caplog.text
    assert "pa55word" not in caplog.text


@pytest.mark.parametrize("shown", ["good", "stranger", "expired"])
def test_over_tls_only_a_trusted_server_is_used(tmp_path: Path, shown: str, caplog: pytest.LogCaptureFixture) -> None:
    certificates = Certificates(tmp_path)
    certificates.server(shown)
    trusted = tmp_path / "authority.pem"
    trusted.write_text(certificates.authority, encoding="ascii")
    with redis_server(tmp_path, tmp_path / f"{shown}.pem") as server:
        place = server.url.replace("redis://", "rediss://").replace(str(server.port), str(server.tls_port))
        cache = SharedEmbeddings(place, 7, ca_file=str(trusted))
        cache.put({key(1): vector(1)})
        assert (cache.get(key(1)) is not None) == (shown == "good")
        assert ("CERTIFICATE_VERIFY_FAILED" in caplog.text) == (shown != "good")
        cache.close()


def test_the_pauses_between_probes_grow_to_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(monkeypatch, breaker_module)
    monkeypatch.setattr(breaker_module, "start_daemon", lambda function, name: function())
    probes: list[float] = []
    told: list[Exception | None] = []
    well = False

    def probe() -> None:
        probes.append(clock.now)
        if not well:
            raise ConnectionError("gone")

    breaker = CircuitBreaker(probe, told.append)
    for _ in range(2):
        breaker.fail(ConnectionError("gone"))
        assert breaker.allows()
    breaker.succeed()  # so that these two are forgotten
    for _ in range(3):
        assert breaker.allows()
        breaker.fail(ConnectionError("gone"))
    began = clock.now
    for _ in range(200):
        clock.move_on(1.0)
        assert not breaker.allows()
    assert [at - began for at in probes] == [5, 15, 35, 75, 135, 195]
    well = True
    clock.move_on(60.0)
    assert not breaker.allows()  # the probe's success counts from the next time
    assert breaker.allows()
    assert [type(exc) for exc in told] == [ConnectionError, type(None)]


@pytest.mark.parametrize(
    "place",
    [
        "redis://",
        "redis://:pa55word@",
        "redis://:pa55word@host:0",
        "redis://u:pa55@word@host",
        "redis://h/db?x=pa55word",
    ],
)
def test_a_wrong_address_is_told_without_its_password(place: str) -> None:
    with pytest.raises(ConfigError, match="embedding_cache must look like redis://") as found:
        Config(embedding_cache=place)
    assert "pa55" not in str(found.value)


def test_an_address_stays_one_on_clusters_and_is_not_shown() -> None:
    config = Config(model="mini", embedding_cache="rediss://me:pa55word@cache.internal:6380/2")
    assert portable(config).embedding_cache == config.embedding_cache
    assert "pa55word" not in repr(config)


# ---- where it is used


class Counting(ColourEncoder):
    """Counts what it encodes."""

    __setattr__ = object.__setattr__

    def __init__(self) -> None:
        super().__init__()
        self.encoded = 0

    def encode_pixels(self, pixels: Sequence[Any]) -> Any:
        self.encoded += len(pixels)
        return super().encode_pixels(pixels)

    def encode_text(self, texts: Sequence[str]) -> Any:
        self.encoded += len(texts)
        return super().encode_text(texts)


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    for colour in ("red", "green"):
        (tmp_path / f"{colour}.png").write_bytes(make_png(colour, (16, 16)))
    return [
        Record(str(tmp_path / f"{colour}.png"), caption) for colour in ("red", "green") for caption in ("red", "yellow")
    ]


def test_a_run_finds_what_another_one_encoded_and_goes_on_without_redis(
    server: RedisServer, records: list[Record], patient: Callable[[float], None]
) -> None:
    config = replace(MINI, embedding_cache=server.url)
    plain = [result.similarity for result in score_pairs(records, MINI, encoder=ColourEncoder())]
    encoded = []
    for stopped in (False, False, True):
        encoder = Counting()
        if stopped:
            patient(0.1)
            server.send(signal.SIGSTOP)
        try:
            assert [result.similarity for result in score_pairs(records, config, encoder=encoder)] == plain
        finally:
            server.send(signal.SIGCONT)
        encoded.append(encoder.encoded)
    assert encoded == [4, 0, 4]


def test_services_share_what_they_encode_and_answer_without_redis(server: RedisServer) -> None:
    given = mini_settings(models={"mini": replace(MINI, embedding_cache=server.url)})
    pairs = [Pair(make_png(colour, (16, 16)), caption) for colour in ("red", "green") for caption in ("red", "yellow")]
    asked: list[tuple[int, list[float | None]]] = []

    async def ask(encoder: Counting) -> Metrics:
        metrics = Metrics()
        pool = LocalModelPool(given, metrics, load=lambda config: encoder)
        await pool.start()
        begun = encoder.encoded  # a test of itself
        for _ in range(2):
            answer = await pool.score(None, pairs, "cosine")
        asked.append((encoder.encoded - begun, [result.similarity for result in answer.results]))
        await pool.close()
        return metrics

    for _ in range(2):
        asyncio.run(ask(Counting()))
    server.kill()
    try:
        metrics = asyncio.run(ask(Counting()))
    finally:
        server.start()
    first, second, alone = (encoded for encoded, _ in asked)
    assert second == 0
    assert min(first, alone) >= 4  # more where pairs of one image come in batches of their own
    assert asked[0][1] == asked[1][1] == asked[2][1] == pytest.approx([1, 0.5**0.5, 0, 0.5**0.5])
    value = metrics.registry.get_sample_value
    assert value("tis_shared_cache_off", {"model": "mini"}) == 1
    assert value("tis_shared_cache_failures_total", {"model": "mini"}) == 0
