"""Headers for individual hosts: who is sent them, and who never is."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.images import make_png
from tests.support.server import Server, response
from text_image_similarity import Config, ConfigError, Limits, Record, RowError, score_csv, score_pairs
from text_image_similarity.fetch import Fetcher

SECRET = "Bearer s3cret"
LOOPBACK = Limits(allow_private_addresses=True)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], Config]:
    """Return what makes settings with headers."""

    def config(headers: Any) -> Config:
        path = tmp_path / "headers.json"
        path.write_text(headers if isinstance(headers, str) else json.dumps(headers))
        return Config(model="mini", retries=0, headers_file=path, limits=LOOPBACK)

    return config


def sent(config: Config, url: str, *redirects: str) -> list[httpx.Request]:
    """Fetch a URL that redirects as told, and return the requests."""
    requests: list[httpx.Request] = []
    following = iter(redirects)

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        location = next(following, None)
        return httpx.Response(302, headers={"location": location}) if location else httpx.Response(200, content=b"x")

    fetcher = Fetcher(config, transport=httpx.MockTransport(answer))
    fetcher.fetch(url)
    fetcher.close()
    return requests


def test_a_host_is_sent_its_headers_in_place_of_ours(write: Callable[[Any], Config]) -> None:
    headers = {
        "User-Agent": "mine/1",
        "Referer": "https://a.test/",
        "authorization": SECRET,
        "Cookie": "id=1; b=2",
        "accept": "image/png",
    }
    (request,) = sent(write({"images.test": headers}), "https://images.test/x")
    assert {name: request.headers.get_list(name) for name in headers} == {
        name: [value] for name, value in headers.items()
    }


@pytest.mark.parametrize(
    ("key", "url", "is_sent"),
    [
        ("images.test", "https://images.test/x", True),
        ("images.test", "http://images.test:8080/x", True),
        ("Images.TEST.", "https://images.test./x", True),
        ("bücher.test", "https://xn--bcher-kva.test/x", True),
        ("images.test", "https://images.test.evil.example/x", False),
        ("images.test", "https://evil-images.test/x", False),
        ("images.test", "https://a.images.test/x", False),
        ("images.test", "https://evil.example/images.test", False),
        ("*.images.test", "https://a.images.test/x", True),
        ("*.images.test", "https://a.b.images.test/x", True),
        ("*.images.test", "https://images.test/x", False),
        ("*.images.test", "https://evilimages.test/x", False),
        ("images.test:8443", "https://images.test:8443/x", True),
        ("images.test:8443", "https://images.test/x", False),
        ("images.test:443", "https://images.test/x", True),
        ("https://images.test", "https://images.test/x", True),
        ("https://images.test/", "http://images.test/x", False),
        ("[2606:4700::1111]", "https://[2606:4700:0::1111]/x", True),
        ("93.184.215.14", "http://93.184.215.14/x", True),
    ],
)
def test_a_host_is_matched_whole(write: Callable[[Any], Config], key: str, url: str, is_sent: bool) -> None:
    (request,) = sent(write({key: {"Authorization": SECRET}}), url)
    assert ("authorization" in request.headers) == is_sent


def test_a_redirect_takes_headers_to_no_other_host_and_brings_back_those_of_the_first(
    write: Callable[[Any], Config],
) -> None:
    config = write({"images.test": {"Authorization": SECRET, "Cookie": "id=1"}, "other.test": {"Cookie": "id=2"}})
    requests = sent(
        config, "https://images.test/x", "https://cdn.test/y", "https://other.test/z", "https://images.test/w"
    )
    assert [request.headers.get("authorization") for request in requests] == [SECRET, None, None, SECRET]
    assert [request.headers.get("cookie") for request in requests] == ["id=1", None, "id=2", "id=1"]


def test_what_was_asked_for_over_https_is_not_followed_to_http_with_headers(write: Callable[[Any], Config]) -> None:
    config = write({"images.test": {"Authorization": SECRET}})
    requests = sent(config, "https://images.test/x", "http://images.test/y", "https://images.test/z")
    assert [request.headers.get("authorization") for request in requests] == [SECRET, None, SECRET]


def test_the_longest_name_decides(write: Callable[[Any], Config]) -> None:
    config = write(
        {
            "a.images.test": {"Cookie": "own"},
            "*.images.test": {"Cookie": "all", "Referer": "https://r.test/"},
            "*.test": {"Cookie": "wide"},
        }
    )
    (request,) = sent(config, "https://a.images.test/x")
    assert (request.headers["cookie"], request.headers["referer"]) == ("own", "https://r.test/")


def test_a_table_is_scored_with_them_and_they_are_written_nowhere(
    write: Callable[[Any], Config], server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(connection: Any, head: str) -> None:
        right = f"\r\nauthorization: {SECRET}\r\n" in head.replace("Authorization", "authorization")
        connection.sendall(response(make_png()) if right else response(status="401 Unauthorized"))

    server.routes |= {"/x": answer, "/away": response(b"", "302 Found", location=f"http://localhost:{server.port}/x")}
    config = write({"127.0.0.1": {"Authorization": SECRET}})
    (tmp_path / "in.csv").write_text(f"url,caption\n{server.url('/x')},a\n{server.url('/away')},a\n")
    caplog.set_level(logging.DEBUG)
    summary = score_csv(tmp_path / "in.csv", tmp_path / "out.csv", config)
    assert (summary.scored, summary.failures) == (1, {"http_4xx": 1})  # localhost is another name
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "headers.json"]
    assert written
    assert not any(b"s3cret" in path.read_bytes() for path in written)
    assert "s3cret" not in caplog.text + repr(config) + repr(summary)
    assert "s3cret" not in pickle.dumps(config).decode("latin-1")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{'a': 1}", "is not JSON in UTF-8"),
        ("[]", "must hold an object"),
        ('{"a.test": ["s3cret"]}', "the value of 'a.test' must be an object that maps header names"),
        ('{"a.test": {"Cookie": 7}}', "the value of Cookie for 'a.test' must be"),
        ('{"a.test": {"Cookie": "s3cret\\n"}}', "the value of Cookie for 'a.test' must be a single line of ASCII text"),
        ('{"a.test": {"Cookie": "a\\r\\nX: s3cret"}}', "must be a single line of ASCII text"),
        ('{"a.test": {"Cookie": "s3cret é"}}', "must be a single line of ASCII text"),
        ('{"a.test": {"Cookie": ""}}', "must be a single line of ASCII text"),
        ('{"a.test": {"Range": "bytes=0-9"}}', "'Range' of 'a.test' is not a header that can be set"),
        ('{"a.test": {"Host": "b.test"}}', "'Host' of 'a.test' is not a header"),
        ('{"a.test": {"Bad Name": "s3cret"}}', "is not a header"),
        ('{"*": {"Cookie": "s3cret"}}', "'*' must be a host"),
        ('{"a.test/path": {"Cookie": "s3cret"}}', "must be a host"),
        ('{"ftp://a.test": {"Cookie": "s3cret"}}', "must be a host"),
        ('{"127.1": {"Cookie": "s3cret"}}', "an address in an unusual spelling"),
        ('{"": {"Cookie": "s3cret"}}', "must be a host"),
    ],
)
def test_a_file_that_is_wrong_is_refused_at_once_without_being_shown(
    write: Callable[[Any], Config], content: str, said: str
) -> None:
    config = write(content)
    with pytest.raises(ConfigError, match="headers_file") as caught:
        score_pairs([Record("a.jpg", "a")], config)
    assert said in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None or "s3cret" not in str(caught.value.__cause__)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"headers_file=.*none\.json cannot be read: No such file"):
        Fetcher(Config(headers_file=tmp_path / "none.json"))


def test_a_refused_row_does_not_show_them(write: Callable[[Any], Config], server: Server) -> None:
    config = write({"127.0.0.1": {"Authorization": SECRET}})
    for path, answer in (("/a", response(status="401 Unauthorized")), ("/b", b"SSH-2.0\r\n\r\n")):
        server.routes[path] = answer
        fetcher = Fetcher(replace(config, timeout_s=600.0))
        with pytest.raises(RowError) as caught:
            fetcher.fetch(server.url(path))
        assert "s3cret" not in str(caught.value)
        fetcher.close()
