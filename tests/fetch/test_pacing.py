"""How the fetcher spares hosts and its own time: patience, a budget of retries, connections in turns, closing."""

from __future__ import annotations

import errno
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from tests.support.clock import HANG_S, FakeClock, stop_fetchers_clock, wait_for
from tests.support.server import Server, response
from text_image_similarity import Config, Limits, RowError
from text_image_similarity.fetch import Fetcher, pacing
from text_image_similarity.fetch import dial as dial_module
from text_image_similarity.fetch.dial import STAGGER_S, dial, in_turns
from text_image_similarity.fetch.pacing import EARNED, FREE_RETRIES, Hosts
from text_image_similarity.fetch.stream import GuardedStream
from text_image_similarity.fetch.transport import GuardedTransport

pytestmark = pytest.mark.usefixtures("few_authorities")

LOOPBACK = Limits(allow_private_addresses=True, connect_s=600.0, total_s=600.0)
PATIENT = Config(timeout_s=600.0, retries=0, limits=LOOPBACK)


def fetching(config: Config = PATIENT, **given: Any) -> closing[Fetcher]:
    return closing(Fetcher(config, **given))


def failure(fetcher: Fetcher, url: str) -> RowError:
    with pytest.raises(RowError) as caught:
        fetcher.fetch(url)
    return caught.value


def asking(seconds: str) -> Callable[[socket.socket, str], None]:
    """Answer a first request with a plea for patience, later ones with a picture."""
    first = iter([response(status="503 Busy", retry_after=seconds)])
    return lambda connection, _: connection.sendall(next(first, response(b"picture")))


# Patience


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """The fetcher's clock, which stands still but for the waits that are passed over."""
    return stop_fetchers_clock(monkeypatch)


@contextmanager
def passing_over_waits(clock: FakeClock, config: Config = PATIENT, **given: object) -> Iterator[Fetcher]:
    with fetching(config, **given) as fetcher:
        clock.pass_over(fetcher._hosts._patience)
        yield fetcher


def test_other_rows_wait_too_when_a_host_asks_for_it(server: Server, clock: FakeClock) -> None:
    """Their clocks stand still: the wait is longer than all the time they have."""
    server.routes["/x"] = asking("25")
    config = replace(PATIENT, limits=replace(LOOPBACK, total_s=20.0))
    with passing_over_waits(clock, config) as fetcher:
        assert failure(fetcher, server.url("/x?1")).code == "http_5xx"
        assert clock.waits == []
        assert fetcher.fetch(server.url("/x?2")) == b"picture"
        assert sum(clock.waits) == pytest.approx(25)
        clock.waits.clear()
        assert fetcher.fetch(server.url("/x?3")) == b"picture"
        assert clock.waits == []


def test_what_one_client_is_asked_for_makes_no_other_wait(server: Server, clock: FakeClock) -> None:
    server.routes["/x"] = asking("25")
    with passing_over_waits(clock) as fetcher:
        with pytest.raises(RowError):
            fetcher.fetch(server.url("/x?1"), "one")
        assert fetcher.fetch(server.url("/x?2"), "other") == b"picture"
        assert clock.waits == []
        assert fetcher.fetch(server.url("/x?3"), "one") == b"picture"
        assert sum(clock.waits) == pytest.approx(25)


def test_only_the_host_that_asked_is_waited_for(server: Server, clock: FakeClock) -> None:
    server.routes["/x"] = asking("9")
    server.routes["/y"] = response(b"picture")
    with passing_over_waits(clock, resolve=lambda host, port: ["127.0.0.1"]) as fetcher:
        assert failure(fetcher, f"http://busy.test:{server.port}/x").code == "http_5xx"
        assert fetcher.fetch(f"http://free.test:{server.port}/y") == b"picture"
        assert clock.waits == []


def test_patience_has_an_end(server: Server, clock: FakeClock) -> None:
    """A host that keeps asking for patience is asked all the same once a row has waited as long as the longest `Retry-After`."""
    server.routes["/x"] = response(status="503 Busy", retry_after="1")
    with passing_over_waits(clock) as fetcher:
        failure(fetcher, server.url("/x?1"))
        fetcher._hosts.be_patient("127.0.0.1", 60.0)
        assert failure(fetcher, server.url("/x?2")).code == "http_5xx"
        assert sum(clock.waits) == pytest.approx(pacing.LONGEST_RETRY_AFTER_S)


def test_a_plea_that_is_too_long_keeps_nobody(server: Server, clock: FakeClock) -> None:
    server.routes["/x"] = asking("31")
    with passing_over_waits(clock) as fetcher:
        failure(fetcher, server.url("/x?1"))
        assert fetcher.fetch(server.url("/x?2")) == b"picture"
        assert clock.waits == []


def test_patience_ends_with_the_run(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.routes["/x"] = asking("20")
    with fetching() as fetcher, ThreadPoolExecutor(1) as pool:
        failure(fetcher, server.url("/x?1"))
        waiting, wait = threading.Event(), fetcher._hosts._patience.wait

        def wait_and_tell(seconds: float) -> bool:
            waiting.set()
            return wait(seconds)

        monkeypatch.setattr(fetcher._hosts._patience, "wait", wait_and_tell)
        row = pool.submit(failure, fetcher, server.url("/x?2"))
        assert waiting.wait(HANG_S)
        fetcher.close()
        assert str(row.result(HANG_S)) == "connect_error: the run was closed"
    assert server.hits.total() == 1


def test_waiting_for_a_place_costs_no_time_of_the_row(
    server: Server, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it is a redirect that leads the row to the busy host."""
    server.routes["/door"] = response(b"", "302 Found", location=f"http://busy.test:{server.port}/x")
    server.routes["/x"] = response(b"picture")
    limits = replace(LOOPBACK, per_host=1, total_s=20.0)
    config = replace(PATIENT, limits=limits)
    waited_long = threading.Event()
    with fetching(config, resolve=lambda *_: ["127.0.0.1"]) as fetcher, ThreadPoolExecutor(1) as pool:

        def pass_over(seconds: float) -> bool:
            if clock.now > began + 3 * limits.total_s:
                waited_long.set()
                return wait(seconds)
            return clock.wait(seconds)

        began = clock.now
        with fetcher._hosts.slot("busy.test", pacing.Clock(limits)):
            freed = fetcher._hosts._known["busy.test"].freed = threading.Condition(fetcher._hosts._lock)
            wait = freed.wait
            monkeypatch.setattr(freed, "wait", pass_over)
            row = pool.submit(fetcher.fetch, f"http://door.test:{server.port}/door")
            assert waited_long.wait(HANG_S)
            assert not row.done()
        assert row.result(HANG_S) == b"picture"


def test_a_place_that_is_freed_wakes_one_row_of_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """They wait as long as it takes here, so that a wake that goes astray would be seen as a hang."""
    waits: list[float | None] = []
    woken: list[int] = []

    class Patient(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout)
            return super().wait(HANG_S)

        def notify(self, n: int = 1) -> None:
            woken.append(n)
            super().notify(n)

    monkeypatch.setattr(pacing, "Condition", Patient)
    hosts = Hosts(1, threading.Event())

    def hold(host: str) -> None:
        with hosts.slot(host, pacing.Clock(LOOPBACK)):
            pass

    with ThreadPoolExecutor(4) as pool:
        with hosts.slot("one.test", pacing.Clock(LOOPBACK)), hosts.slot("other.test", pacing.Clock(LOOPBACK)):
            rows = [pool.submit(hold, host) for host in ("one.test", "one.test", "other.test", "one.test")]
            wait_for(lambda: len(waits) == 4)
        for row in rows:
            row.result(HANG_S)
    assert woken == [1] * 4


# The budget of retries


def test_a_dead_host_is_not_asked_three_times_for_each_row(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text_image_similarity.system.random.random", lambda: 0.0)
    server.routes["/x"] = response(status="500 Broken")
    server.routes["/y"] = response(status="500 Broken")
    with fetching(replace(PATIENT, retries=2), resolve=lambda host, port: ["127.0.0.1"]) as fetcher:
        for i in range(100):
            assert failure(fetcher, server.url(f"/x?{i}")).code == "http_5xx"
        requests = server.hits.total()
        assert FREE_RETRIES < requests - 100 <= FREE_RETRIES + EARNED * requests
        failure(fetcher, f"http://other.test:{server.port}/y")
        assert server.hits["/y"] == 3  # another host has a budget of its own


def test_a_budget_is_charged_to_the_host_that_failed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text_image_similarity.system.random.random", lambda: 0.0)
    server.routes["/door"] = response(b"", "302 Found", location=f"http://dead.test:{server.port}/x")
    server.routes["/x"] = response(status="500 Broken")
    with fetching(replace(PATIENT, retries=2), resolve=lambda host, port: ["127.0.0.1"]) as fetcher:
        for i in range(50):
            failure(fetcher, f"http://door.test:{server.port}/door?{i}")
        assert fetcher._hosts._known.keys() == {"dead.test"}
        assert server.hits["/x"] - 50 <= FREE_RETRIES + EARNED * server.hits["/x"]


def test_working_requests_earn_retries_up_to_the_allowance() -> None:
    hosts = Hosts(8, threading.Event())
    fetcher = Fetcher(PATIENT, transport=httpx.MockTransport(lambda request: httpx.Response(200, content=b"x")))
    fetcher._hosts = hosts
    while hosts.may_retry("photos.test"):
        pass
    for _ in range(round(1 / EARNED)):
        assert not hosts.may_retry("photos.test")
        fetcher.fetch("http://photos.test/")
    assert hosts.may_retry("photos.test")
    for _ in range(round((FREE_RETRIES + 5) / EARNED)):
        fetcher.fetch("http://photos.test/")
    assert not hosts._known  # full again, and so forgotten


def test_no_more_hosts_are_remembered_than_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text_image_similarity.system.random.random", lambda: 0.0)
    monkeypatch.setattr("text_image_similarity.fetch.pacing._REMEMBERED", 20)
    transport = httpx.MockTransport(lambda request: httpx.Response(500))
    with fetching(replace(PATIENT, retries=1), transport=transport) as fetcher:
        for i in range(50):
            failure(fetcher, f"http://dead{i}.test/")
        assert 0 < len(fetcher._hosts._known) <= 21
        assert "dead49.test" in fetcher._hosts._known


# Connections


def test_families_take_turns_in_the_resolvers_order() -> None:
    given = [ip_address(text) for text in ("2a00::1", "2a00::2", "2a00::1", "2a00::3", "1.0.0.1", "1.0.0.2")]
    assert [str(ip) for ip in in_turns(given)] == ["2a00::1", "1.0.0.1", "2a00::2", "1.0.0.2", "2a00::3"]
    assert [str(ip) for ip in in_turns(given[::-1])][:3] == ["1.0.0.2", "2a00::3", "1.0.0.1"]
    assert in_turns([]) == []


@pytest.fixture
def slow_port() -> Iterator[tuple[int, socket.socket]]:
    """A port where 127.0.0.1 leaves a greeting unanswered, and the listener that takes it at 127.0.0.2."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = full.getsockname()[1]
        for _ in range(3):
            queued = stack.enter_context(socket.socket())
            queued.setblocking(False)
            queued.connect_ex(("127.0.0.1", port))
        yield port, stack.enter_context(socket.create_server(("127.0.0.2", port)))


class Dialling:
    """Dials loopback addresses, 127.0.x.y written as "x.y", and notes which were tried and for how long in vain."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tried: list[str] = []
        self.idle: list[float] = []
        begin, idle = dial_module._begin, self.idle

        class Selector(selectors.DefaultSelector):
            def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
                if not (found := super().select(timeout)):
                    idle.append(timeout or 0.0)
                return found

        def note(ip: IPv4Address, port: int) -> socket.socket:
            self.tried.append(str(ip).removeprefix("127.0."))
            return begin(ip, port)

        events = SimpleNamespace(DefaultSelector=Selector, EVENT_WRITE=selectors.EVENT_WRITE)
        monkeypatch.setattr(dial_module, "selectors", events)
        monkeypatch.setattr(dial_module, "_begin", note)

    def __call__(self, port: int, *addresses: str, timeout: float = HANG_S) -> str:
        """Return the address that a connection was made to."""
        with dial([ip_address(f"127.0.{last}") for last in addresses], port, timeout, lambda: None) as connected:
            return str(connected.getpeername()[0]).removeprefix("127.0.")


@pytest.fixture
def dialling(monkeypatch: pytest.MonkeyPatch) -> Dialling:
    return Dialling(monkeypatch)


def test_a_slow_address_is_overtaken(slow_port: tuple[int, socket.socket], dialling: Dialling) -> None:
    began = time.monotonic()
    assert dialling(slow_port[0], "0.1", "0.2") == "0.2"
    assert dialling.tried == ["0.1", "0.2"]
    assert time.monotonic() - began >= STAGGER_S
    dialling.tried.clear()
    assert dialling(slow_port[0], "0.2", "0.1") == "0.2"
    assert dialling.tried == ["0.2"]


def test_a_refusal_makes_way_for_the_next_address_at_once(
    server: Server, dialling: Dialling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dial_module, "STAGGER_S", 2 * HANG_S)  # more than there is time for
    assert dialling(server.port, "0.3", "0.4", "0.5", "0.1") == "0.1"
    assert dialling.tried == ["0.3", "0.4", "0.5", "0.1"]


def test_a_refusal_makes_way_also_beside_a_slow_address(
    slow_port: tuple[int, socket.socket], dialling: Dialling
) -> None:
    assert dialling(slow_port[0], "0.1", "0.3", "0.4", "0.5", "0.2") == "0.2"  # slow, three that refuse, good
    assert dialling.tried == ["0.1", "0.3", "0.4", "0.5", "0.2"]
    assert sum(dialling.idle) < 2 * STAGGER_S  # only the slow one was given its time


def test_an_address_out_of_reach_makes_way_at_once(
    slow_port: tuple[int, socket.socket], dialling: Dialling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As IPv6 addresses are on a machine without IPv6: the failure comes with the call."""
    real = socket.socket.connect_ex

    def connect_ex(attempt: socket.socket, where: tuple[str, int]) -> int:
        return errno.ENETUNREACH if where[0].startswith("127.0.1.") else real(attempt, where)

    monkeypatch.setattr(socket.socket, "connect_ex", connect_ex)
    assert dialling(slow_port[0], "0.1", "1.1", "1.2", "1.3", "0.2") == "0.2"
    assert dialling.tried == ["0.1", "1.1", "1.2", "1.3", "0.2"]
    assert sum(dialling.idle) < 2 * STAGGER_S


def test_all_attempts_together_have_one_time(slow_port: tuple[int, socket.socket], dialling: Dialling) -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        dialling(slow_port[0], "0.1", timeout=0.4)
    assert time.monotonic() - began >= 0.4
    assert sum(dialling.idle) <= 0.4


def test_when_all_refuse_the_last_reason_is_given(server: Server) -> None:
    with pytest.raises(ConnectionRefusedError) as caught:
        dial([ip_address("127.0.0.3"), ip_address("127.0.0.4")], server.port, 3.0, lambda: None)
    assert caught.value.errno == errno.ECONNREFUSED
    with pytest.raises(OSError, match="no address"):
        dial([], server.port, 3.0, lambda: None)


def test_no_more_than_ten_addresses_of_a_name_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    dialled: list[object] = []

    def refuse(self: socket.socket, where: object) -> int:
        dialled.append(where)
        return errno.ECONNREFUSED

    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    with pytest.raises(ConnectionRefusedError):
        dial([ip_address(f"127.0.1.{i}") for i in range(200)], 80, 3.0, lambda: None)
    assert len(dialled) == 10


def test_a_fetch_takes_the_address_that_answers(slow_port: tuple[int, socket.socket]) -> None:
    port, answering = slow_port
    with (
        fetching(resolve=lambda *_: ["127.0.0.1", "127.0.0.2"]) as fetcher,
        ThreadPoolExecutor(1) as pool,
    ):
        row = pool.submit(fetcher.fetch, f"http://photos.test:{port}/")
        answering.settimeout(HANG_S)
        with answering.accept()[0] as connection:
            connection.sendall(response(b"picture"))
            assert row.result(HANG_S) == b"picture"


# Closing


def test_closing_ends_a_connection_in_the_making(slow_port: tuple[int, socket.socket]) -> None:
    asked = threading.Event()

    def resolve(host: str, port: int) -> list[str]:
        asked.set()
        return ["127.0.0.1"]

    with fetching(PATIENT, resolve=resolve) as fetcher, ThreadPoolExecutor(1) as pool:
        row = pool.submit(failure, fetcher, f"http://photos.test:{slow_port[0]}/")
        assert asked.wait(HANG_S)
        fetcher.close()
        assert str(row.result(HANG_S)) == "connect_error: the run was closed"


def test_closing_ends_a_handshake() -> None:
    greeted = threading.Event()

    def silent(connection: socket.socket) -> socket.socket:
        while connection.recv(65536):
            greeted.set()
        return connection

    with Server(silent) as server, fetching(PATIENT) as fetcher, ThreadPoolExecutor(1) as pool:
        row = pool.submit(failure, fetcher, f"https://127.0.0.1:{server.port}/")
        assert greeted.wait(HANG_S)
        fetcher.close()
        assert str(row.result(HANG_S)) == "connect_error: the run was closed"


def test_closing_just_after_a_connection_was_made(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.routes["/x"] = server.hang
    with fetching() as fetcher:

        def dial_and_close(*given: Any) -> socket.socket:
            connected = dial(*given)
            assert isinstance(fetcher._transport, GuardedTransport)
            fetcher._transport.abort()
            return connected

        monkeypatch.setattr("text_image_similarity.fetch.backend.dial", dial_and_close)
        assert str(failure(fetcher, server.url("/x"))) == "connect_error: the run was closed"


def test_closing_between_a_connection_and_its_handshake() -> None:
    """The moment in which TLS takes the socket over, and breaking the old one breaks nothing."""
    ours, theirs = socket.socketpair()
    stream = GuardedStream(ours)

    class Context(ssl.SSLContext):
        def wrap_socket(self, *given: Any, **options: Any) -> ssl.SSLSocket:
            wrapped = super().wrap_socket(*given, **options)
            stream.abort()
            return wrapped

    with theirs, pytest.raises(RowError, match="the run was closed"):
        stream.start_tls(Context(ssl.PROTOCOL_TLS_CLIENT), "photos.test", 1.0)


# Opting out


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        (["noai"], True),
        (["NoImageAI"], True),
        (["noindex, nofollow"], True),
        (["nofollow, noimageindex"], True),
        (["none"], True),
        (["all", "noai"], True),
        (["text-image-similarity: noai"], True),
        (["Text-Image-Similarity: nofollow, noai"], True),
        (["*: noai"], True),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST, noai"], True),
        (["max-image-preview: none"], False),
        (["max-image-preview: large, noai"], True),
        (["googlebot: noai"], False),
        (["googlebot: nofollow, noai"], False),
        (["googlebot: noai, text-image-similarity: noindex"], True),
        (["googlebot: noai", "noindex"], True),
        (["nofollow"], False),
        (["noairplanes"], False),
        ([""], False),
        ([], False),
    ],
)
def test_opt_outs_are_honoured_when_they_should_be(server: Server, said: list[str], refused: bool) -> None:
    head = b"".join(b"X-Robots-Tag: %s\r\n" % line.encode() for line in said)
    server.routes["/x"] = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n" + head + b"\r\npicture"
    with fetching() as fetcher:
        assert fetcher.fetch(server.url("/x")) == b"picture"
    with fetching(replace(PATIENT, retries=2, limits=replace(LOOPBACK, respect_opt_out=True))) as fetcher:
        if refused:
            assert failure(fetcher, server.url("/x")).code == "disallowed_by_origin"
        else:
            assert fetcher.fetch(server.url("/x")) == b"picture"
    assert server.hits["/x"] == 2
