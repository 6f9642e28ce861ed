"""Proxies of every kind, with and without a password, and the address guard in front of them."""

from __future__ import annotations

import pickle
from base64 import b64encode
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.faults import Certificates
from tests.support.proxies import SocksProxy, tunnel_to
from tests.support.server import Server, response
from text_image_similarity import Config, ConfigError, Limits, Record, RowError, score_pairs
from text_image_similarity.client import ServiceEngine
from text_image_similarity.errors import TableError
from text_image_similarity.fetch import Fetcher

pytestmark = pytest.mark.usefixtures("few_authorities")

PUBLIC = "93.184.215.14"
LOGIN = b64encode(b"me@work:se/cret").decode()
USER = "me%40work:se%2Fcret"


def tls(certificates: Certificates) -> Callable[[Any], Any]:
    return partial(certificates.server("good").wrap_socket, server_side=True)


def resolve(host: str, port: int) -> list[str]:
    names = {"photos.test": [PUBLIC], "inside.test": [PUBLIC, "10.0.0.7"], "proxy.test": ["127.0.0.1"]}
    if host not in names:
        raise OSError(f"{host} is not known")
    return names[host]


def fetching(proxy: str, **given: Any) -> closing[Fetcher]:
    return closing(Fetcher(Config(retries=0, proxy=proxy, **given), resolve=resolve))


def failure(fetcher: Fetcher, url: str) -> str:
    with pytest.raises(RowError) as caught:
        fetcher.fetch(url)
    assert "cret" not in str(caught.value)
    return str(caught.value)


# Kinds


@pytest.mark.parametrize("kind", ["http", "https"])
@pytest.mark.parametrize("user", ["", f"{USER}@"])
def test_an_http_proxy_is_asked_for_http_and_for_tunnels(
    certificates: Certificates, ca_file: Path, kind: str, user: str
) -> None:
    with Server(tls(certificates)) as target, Server(tls(certificates) if kind == "https" else None) as proxy:
        target.routes["/x"] = response(b"secure")
        proxy.routes |= {
            "http://photos.test/x": response(b"plain"),
            f"photos.test:{target.port}": tunnel_to(target.port, login=LOGIN if user else None),
        }
        with fetching(f"{kind}://{user}127.0.0.1:{proxy.port}", ca_file=ca_file) as fetcher:
            assert fetcher.fetch("http://photos.test/x") == b"plain"
            assert [fetcher.fetch(f"https://photos.test:{target.port}/x") for _ in range(2)] == [b"secure"] * 2
        assert proxy.hits == {"http://photos.test/x": 1, f"photos.test:{target.port}": 1}
        logins = [f"Proxy-Authorization: Basic {LOGIN}" in head for head in proxy.heads]
        assert logins == [bool(user)] * 2
        assert "proxy-authorization" not in target.heads[0].lower()


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(("kind", "seen"), [("socks5", PUBLIC), ("socks5h", "photos.test")])
@pytest.mark.parametrize("login", [None, ("me@work", "se/cret")])
def test_a_socks_proxy_is_asked_for_a_checked_address_or_a_name(
    certificates: Certificates, ca_file: Path, scheme: str, kind: str, seen: str, login: tuple[str, str] | None
) -> None:
    with (
        Server(tls(certificates) if scheme == "https" else None) as target,
        SocksProxy({8443: target.port}, login) as proxy,
        fetching(f"{kind}://{f'{USER}@' if login else ''}{proxy.address}", ca_file=ca_file) as fetcher,
    ):
        target.routes["/x"] = response(b"picture")
        assert [fetcher.fetch(f"{scheme}://photos.test:8443/x") for _ in range(2)] == [b"picture"] * 2
        assert proxy.asked == [(seen, 8443)]
        assert "\r\nHost: photos.test:8443\r\n" in target.heads[0]


def test_a_large_body_comes_whole_through_two_layers_of_tls(certificates: Certificates, ca_file: Path) -> None:
    body = bytes(range(256)) * 8192  # 2 MiB
    with Server(tls(certificates)) as target, Server(tls(certificates)) as proxy:
        target.routes["/x"] = response(body)
        proxy.routes[f"photos.test:{target.port}"] = tunnel_to(target.port)
        with fetching(f"https://127.0.0.1:{proxy.port}", ca_file=ca_file) as fetcher:
            assert fetcher.fetch(f"https://photos.test:{target.port}/x") == body


# What goes wrong


def test_a_proxy_that_wants_another_password_says_so(server: Server) -> None:
    refusal = response(status="407 Proxy Authentication Required")
    server.routes |= {"http://photos.test/x": refusal, "photos.test:443": refusal}
    with fetching(f"http://{USER}@127.0.0.1:{server.port}") as fetcher:
        for url, said in (("http", "http_4xx: 407"), ("https", "connect_error: the proxy did not connect: 407")):
            error = failure(fetcher, f"{url}://photos.test/x")
            assert error.startswith(said)
            assert error.endswith("set proxy=http://USER:PASSWORD@host:port")


@pytest.mark.parametrize(
    ("user", "login", "said"),
    [
        ("", ("me", "x"), "the proxy did not connect: Requested NO AUTHENTICATION"),
        ("me:cret@", ("me", "x"), "the proxy did not connect: Invalid username/password"),
        ("", None, "the proxy did not connect: Proxy Server could not connect: Connection refused"),
    ],
)
def test_a_socks_proxy_that_refuses(user: str, login: tuple[str, str] | None, said: str) -> None:
    with SocksProxy({}, login) as proxy, fetching(f"socks5://{user}{proxy.address}") as fetcher:
        assert failure(fetcher, "http://photos.test/x").startswith(f"connect_error: {said}")


def test_a_server_that_does_not_speak_socks(server: Server) -> None:
    def answer(connection: Any) -> Any:
        connection.recv(100)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        return connection

    with Server(answer) as proxy, fetching(f"socks5://127.0.0.1:{proxy.port}") as fetcher:
        assert "is it another kind of proxy?" in failure(fetcher, "http://photos.test/x")


def test_a_proxy_out_of_reach_is_named() -> None:
    with fetching("http://nowhere.test:3128") as fetcher:
        assert failure(fetcher, "http://photos.test/x").startswith("dns_error: the proxy nowhere.test: ")
    with fetching("http://127.0.0.1:1") as fetcher:
        assert failure(fetcher, "http://photos.test/x").startswith("connect_error: the proxy 127.0.0.1: ")


def test_a_certificate_behind_or_of_a_proxy_is_verified(certificates: Certificates, ca_file: Path) -> None:
    stranger = partial(certificates.server("stranger").wrap_socket, server_side=True)
    with Server(stranger) as target, Server(tls(certificates)) as proxy:
        proxy.routes[f"photos.test:{target.port}"] = tunnel_to(target.port)
        with fetching(f"https://127.0.0.1:{proxy.port}", ca_file=ca_file) as fetcher:
            assert failure(fetcher, f"https://photos.test:{target.port}/x").startswith("tls_error")
        assert not target.hits
    with Server(stranger) as proxy, fetching(f"https://127.0.0.1:{proxy.port}", ca_file=ca_file) as fetcher:
        assert failure(fetcher, "http://photos.test/x").startswith("tls_error")


# The guard


@pytest.mark.parametrize("kind", ["http", "socks5", "socks5h"])
def test_a_proxy_is_not_asked_for_private_addresses(server: Server, kind: str) -> None:
    server.routes["http://photos.test/away"] = response(b"", "302 Found", location="http://inside.test/secret")
    with SocksProxy({80: server.port}) as socks:
        address = f"127.0.0.1:{server.port}" if kind == "http" else socks.address
        with fetching(f"{kind}://{address}") as fetcher:
            for url in ("http://10.0.0.7/", "https://[::1]/", "http://localhost/", "http://[::ffff:10.0.0.7]/"):
                assert failure(fetcher, url).startswith("blocked_address"), url
            assert failure(fetcher, "http://127.1/").startswith("invalid_url")
            if kind != "socks5h":
                assert failure(fetcher, "http://inside.test/").startswith("blocked_address: inside.test is 10.0.0.7")
            if kind == "http":
                assert failure(fetcher, "http://photos.test/away").startswith("blocked_address: inside.test")
        assert not socks.asked
    assert set(server.hits) <= {"http://photos.test/away"}


def test_a_name_that_only_the_proxy_knows_is_left_to_it(server: Server) -> None:
    server.routes["http://only-there.test/x"] = response(b"picture")
    asked: list[str] = []

    def look_up(host: str, port: int) -> list[str]:
        asked.append(host)
        return resolve(host, port)

    config = Config(retries=0, proxy=f"http://127.0.0.1:{server.port}")
    fetcher = Fetcher(config, resolve=look_up)
    assert [fetcher.fetch("http://only-there.test/x") for _ in range(3)] == [b"picture"] * 3
    fetcher.close()
    assert asked == ["only-there.test"]  # once, because a network without names takes its time to say so
    with SocksProxy({80: server.port}) as socks, fetching(f"socks5://{socks.address}") as fetcher:
        server.routes["/x"] = response(b"picture")
        assert fetcher.fetch("http://only-there.test/x") == b"picture"
        assert socks.asked == [("only-there.test", 80)]


def test_nothing_is_looked_up_where_the_proxy_resolves_or_everything_is_allowed(server: Server) -> None:
    def never(host: str, port: int) -> list[str]:
        raise AssertionError("the proxy resolves names")

    server.routes["/x"] = response(b"picture")
    server.routes["http://inside.test/x"] = response(b"picture")
    with SocksProxy({80: server.port}) as socks:
        fetcher = Fetcher(Config(retries=0, proxy=f"socks5h://{socks.address}"), resolve=never)
        assert fetcher.fetch("http://inside.test/x") == b"picture"
        fetcher.close()
    limits = Limits(allow_private_addresses=True)
    fetcher = Fetcher(Config(retries=0, limits=limits, proxy=f"http://127.0.0.1:{server.port}"), resolve=never)
    assert fetcher.fetch("http://inside.test/x") == b"picture"
    fetcher.close()


# The setting


@pytest.mark.parametrize("proxy", ["http://h:1", "https://h.test:3128/", "socks5://[::1]:1080", "socks5h://u@h:1",
                                   "http://u:p@h:1", "http://me%40work:a%3Ab%2Fc@h:1", "HTTP://u:@h:1"][:6])  # fmt: skip
def test_proxies_that_can_be_given(proxy: str) -> None:
    assert pickle.loads(pickle.dumps(Config(proxy=proxy))).proxy == proxy


@pytest.mark.parametrize("proxy", ["", "proxy.test:3128", "http://proxy.test", "http://proxy.test:0", "ftp://proxy.test:1",
                                   "socks4://proxy.test:1", "http://u:p@a@proxy.test:1", "http://proxy.test:99999",
                                   "http://u:p:q@proxy.test:1", "http://proxy.test:1/x", "http://u/v:secret@h:1", 3128])  # fmt: skip
def test_a_proxy_that_cannot_be_one_is_refused_without_being_shown(proxy: Any) -> None:
    with pytest.raises(ConfigError, match="proxy must look like http://host:port") as caught:
        Config(proxy=proxy)
    assert "secret" not in str(caught.value)


def test_a_password_is_in_no_text_of_a_run(server: Server) -> None:
    config = Config(model="mini", retries=0, proxy=f"http://me:s3cret@127.0.0.1:{server.port}")
    results = list(score_pairs([Record(f"{scheme}://8.8.8.8/x", "a") for scheme in ("http", "https")], config))
    assert [result.code for result in results] == ["http_4xx", "connect_error"]
    assert "s3cret" not in repr(results) + repr(config) + str(config)


def test_the_environments_proxies_are_not_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "")
    server.routes["/x"] = response(b"picture")
    fetcher = Fetcher(Config(limits=Limits(allow_private_addresses=True)))
    assert fetcher.fetch(server.url("/x")) == b"picture"
    fetcher.close()


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_a_proxy_of_the_environment_is_named_where_nothing_is_reached(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "http://me:s3cret@proxy.test:3128")
    hint = f"; {name} is set but not used: to use a proxy, set --proxy (proxy=...)"
    fetcher = Fetcher(Config(retries=0, limits=Limits(allow_private_addresses=True)), resolve=resolve)
    assert failure(fetcher, "https://nowhere.test/x") == f"dns_error: nowhere.test: nowhere.test is not known{hint}"
    error = failure(fetcher, "http://127.0.0.1:1111/x")
    assert error.startswith("connect_error")
    assert error.endswith(hint)
    fetcher.close()
    monkeypatch.delenv(name)
    fetcher = Fetcher(Config(retries=0), resolve=resolve)
    assert "proxy" not in failure(fetcher, "https://nowhere.test/x")
    fetcher.close()


# The way to a service


def test_a_service_is_reached_through_the_proxy_and_trusted(certificates: Certificates, ca_file: Path) -> None:
    with Server(tls(certificates)) as service, Server() as proxy:
        service.routes["/v1/info"] = response(status="404 Not Found")
        proxy.routes[f"photos.test:{service.port}"] = tunnel_to(service.port, login=LOGIN)
        config = Config(proxy=f"http://{USER}@127.0.0.1:{proxy.port}", ca_file=ca_file)
        with ServiceEngine(f"https://photos.test:{service.port}", api_key="key", patience_s=0.1) as engine:
            with pytest.raises(Exception, match="is not a text-image-similarity service"):
                engine.start(config)
            with pytest.raises(TableError, match="cannot be reached") as caught:
                engine.start(Config(proxy=f"http://127.0.0.1:{proxy.port}", ca_file=ca_file))
        assert service.hits["/v1/info"] == 1
        assert "cret" not in str(caught.value)
