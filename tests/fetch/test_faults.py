"""Every fault of `tests.support.faults` against the fetcher: its exact code, in time, in little memory."""

from __future__ import annotations

import socket
import ssl
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.support.clock import ending, stop_fetchers_clock
from tests.support.faults import DNS_FAULTS, FAULTS, MANY, TLS_FAULTS, Certificates
from tests.support.server import Server, response
from text_image_similarity import Config, ErrorCode, Limits, RowError
from text_image_similarity.fetch import Fetcher
from text_image_similarity.fetch.stream import HEAD_BYTES

pytestmark = pytest.mark.usefixtures("few_authorities")

LOOPBACK = Limits(allow_private_addresses=True)
MEMORY = 64 * 1024 * 1024


def row(fetcher: Fetcher, url: str) -> RowError:
    """Return a row's failure, having seen that it did not hang and took little memory.

    What Python allocates is traced, because the process's size says nothing once an earlier test has made it large.
    """

    def fail() -> RowError:
        with pytest.raises(RowError) as caught:
            fetcher.fetch(url)
        return caught.value

    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    try:
        error = ending(fail)
        grown = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert grown < MEMORY
    return error


@contextmanager
def fetching(slow: bool = False, limits: Limits = LOOPBACK, ca_file: Path | None = None) -> Iterator[Fetcher]:
    """Yield a fetcher whose rows have little time if the fault takes all of it; `photos.test` is the loopback."""

    def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"] if host == "photos.test" else []

    deadline = 0.4 if slow else 600.0
    limits = replace(limits, connect_s=deadline, total_s=deadline)
    fetcher = Fetcher(Config(timeout_s=deadline, retries=0, limits=limits, ca_file=ca_file), resolve=resolve)
    try:
        yield fetcher
    finally:
        fetcher.close()


def test_there_are_enough_faults() -> None:
    assert len(FAULTS) + len(TLS_FAULTS) + len(DNS_FAULTS) >= 50


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_has_its_code_in_time(server: Server, name: str) -> None:
    fault = FAULTS[name]
    server.routes["/x"] = fault.answer
    with fetching(fault.slow, replace(LOOPBACK, max_bytes=MANY)) as fetcher:
        assert row(fetcher, server.url("/x")).code == fault.code


@pytest.mark.parametrize("name", ["a bomb", "a body for ever", "a chunked body for ever", "gzip of nothing for ever"])
def test_the_usual_cap_fits_into_memory(server: Server, name: str) -> None:
    server.routes["/x"] = FAULTS[name].answer
    with fetching() as fetcher:
        assert row(fetcher, server.url("/x")).code == "too_many_bytes"


def test_a_head_is_bounded_in_all_and_to_the_byte(server: Server) -> None:
    head = b"HTTP/1.1 100 Continue\r\n\r\n" * 9 + b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nX: %s\r\n\r\n"
    room = HEAD_BYTES - len(head) + len(b"%s")
    server.routes |= {"/fits": head % (b"x" * room) + b"picture", "/not": head % (b"x" * (room + 1)) + b"picture"}
    with fetching() as fetcher:
        assert fetcher.fetch(server.url("/fits")) == b"picture"
        assert "larger than 65,536 bytes" in row(fetcher, server.url("/not")).detail


@pytest.mark.parametrize("name", DNS_FAULTS)
def test_a_fault_of_the_resolver_has_its_code_in_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = DNS_FAULTS[name]
    dialled: list[object] = []

    def refuse(self: socket.socket, address: object) -> int:
        dialled.append(address)
        return 111

    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    fetcher = Fetcher(Config(timeout_s=0.4 if fault.slow else 600.0, retries=0), resolve=fault.resolve)
    error = row(fetcher, "http://photos.test/x")
    assert error.code == fault.code
    assert fault.said in error.detail
    fetcher.close()
    assert dialled == []


@pytest.fixture(scope="module")
def ca_file(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the certificate of the tests' authority."""
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    path.write_text(certificates.authority)
    return path


def tls(context: ssl.SSLContext, connection: socket.socket) -> socket.socket:
    return context.wrap_socket(connection, server_side=True)


@pytest.mark.parametrize("name", TLS_FAULTS)
def test_a_fault_of_tls_has_its_code_in_time(certificates: Certificates, ca_file: Path, name: str) -> None:
    fault = TLS_FAULTS[name]
    wrap = fault.wrap or partial(tls, certificates.server(fault.certificate))
    with (
        Server(wrap) as server,
        fetching(fault.slow, ca_file=ca_file) as fetcher,
    ):
        server.routes["/x"] = response(b"picture")
        error = row(fetcher, f"https://photos.test:{server.port}/x")
        assert error.code == fault.code
        assert fault.said in error.detail
        assert not server.hits


def test_a_good_certificate_is_trusted_and_the_name_is_sent(certificates: Certificates, ca_file: Path) -> None:
    """The faults above fail for their own reasons."""
    context, greeted = certificates.server("good"), []
    context.sni_callback = lambda connection, name, _: greeted.append(name)
    with Server(lambda connection: tls(context, connection)) as server, fetching(ca_file=ca_file) as fetcher:
        server.routes["/x"] = response(b"picture")
        for host in ("photos.test", "photos.test", "127.0.0.1"):
            assert fetcher.fetch(f"https://{host}:{server.port}/x") == b"picture"
        assert greeted == ["photos.test", None]  # an address is no name, and a kept connection greets once


def test_a_body_cut_under_tls(certificates: Certificates, ca_file: Path) -> None:
    context = certificates.server("good")

    def answer(connection: socket.socket, _: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npicture")
        socket.socket.shutdown(connection, socket.SHUT_WR)

    with Server(lambda connection: tls(context, connection)) as server, fetching(ca_file=ca_file) as fetcher:
        server.routes["/x"] = answer
        assert row(fetcher, f"https://photos.test:{server.port}/x").code == "bad_response"


def test_a_connection_that_is_not_accepted_ends_in_time() -> None:
    with ExitStack() as stack, fetching(slow=True) as fetcher:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):  # fill its queue, so that a further greeting is left unanswered
            queued = stack.enter_context(socket.socket())
            queued.setblocking(False)
            queued.connect_ex(listener.getsockname())
        error = row(fetcher, f"http://127.0.0.1:{listener.getsockname()[1]}/x")
        assert error.code == ErrorCode.TIMEOUT


def test_a_deadline_holds_across_redirects_and_retries(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each hop is quick and each try within its time; only the sum is not."""
    clock = stop_fetchers_clock(monkeypatch)
    monkeypatch.setattr("text_image_similarity.system.random.random", lambda: 0.0)

    def hop(connection: socket.socket, head: str) -> None:
        clock.move_on(100.0)
        connection.sendall(
            response(b"", "302 Found", location="/hop") if server.hits.total() % 5 else response(status="503 Busy")
        )

    server.routes["/hop"] = hop
    limits = replace(LOOPBACK, connect_s=700.0, total_s=1550.0)
    fetcher = Fetcher(Config(timeout_s=700.0, retries=9, limits=limits))
    assert row(fetcher, server.url("/hop")).code == "timeout"
    fetcher.close()
    assert server.hits["/hop"] == 16  # three tries of five requests, and the one that came too late
