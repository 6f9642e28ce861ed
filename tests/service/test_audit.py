"""The audit log: what it says, that it cannot be flooded, and that nothing that happens to its file stops the service."""

from __future__ import annotations

import argparse
import errno
import fcntl
import json
import logging
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pytest

from tests.service.test_connections import connect, listening, read
from tests.support.images import make_png
from tests.support.pages import fenced
from tests.support.paths import ROOT
from tests.support.services import app_of, base64_pair, mini_settings, serving
from text_image_similarity import Config
from text_image_similarity.cli import serve
from text_image_similarity.errors import UsageError
from text_image_similarity.search import Field, open_catalog
from text_image_similarity.service import audit
from text_image_similarity.service.audit import BURST, BURST_OF_ALL, MOST_COUNTED, AuditLog, Event, Note
from text_image_similarity.service.http import connections, peers
from text_image_similarity.service.http.connections import HEAD_BYTES, MOST_FIELDS
from text_image_similarity.service.http.server import protocol_of
from text_image_similarity.service.keys import ApiKey
from text_image_similarity.service.ray.arguments import apply_environment
from text_image_similarity.service.settings import AUDIT_VARIABLE

PAGE = (
    (ROOT / "docs" / "service-security.md")
    .read_text(encoding="utf-8")
    .split("\n## The audit log\n")[1]
    .split("\n## ")[0]
)
MEMBERS = ["time", "event", "reason", "detail", "count", "client", "address", "method", "route", "request_id", "status"]
REFUSED = Note("key_refused", "unauthorized")


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def opened(path: Path, clock: Clock | None = None) -> AuditLog:
    log = AuditLog(str(path), clock or Clock())
    log.open()
    return log


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def counted(found: list[dict[str, Any]]) -> Counter[tuple[str, str]]:
    """Return how many events there were of each kind and client, whether they have lines or not."""
    counts: Counter[tuple[str, str]] = Counter()
    for line in found:
        event = line["reason"] if line["event"] == "left_out" else line["event"]
        counts[event, line["client"]] += line["count"]
    return counts


def test_one_client_cannot_flood_it_and_nothing_is_missing_from_the_counts(path: Path) -> None:
    clock = Clock()
    log = opened(path, clock)
    for _ in range(1000):
        log.record(REFUSED, "flood")
        log.record(Note("address_blocked", "blocked_address", count=64), "flood")
    log.record(REFUSED, "other")
    clock.now += 60
    for _ in range(1000):
        log.record(REFUSED, "flood")
    log.close()
    found = lines(path)
    written = Counter((line["event"], line["client"]) for line in found if line["event"] != "left_out")
    assert written["key_refused", "flood"] == BURST + audit.PER_MINUTE
    assert (written["address_blocked", "flood"], written["key_refused", "other"]) == (BURST, 1)
    expected = {("key_refused", "flood"): 2000, ("address_blocked", "flood"): 64_000, ("key_refused", "other"): 1}
    assert counted(found) == expected


def test_many_clients_cannot_flood_it_either(path: Path) -> None:
    log = opened(path)
    for number in range(3000):
        log.record(REFUSED, f"client {number}")
    log.record(Note("administration", "switch"), "boss")
    log.close()
    found = lines(path)
    kinds = Counter(line["event"] for line in found)
    assert kinds == {"key_refused": BURST_OF_ALL, "left_out": MOST_COUNTED + 1, "administration": 1}
    assert sum(line["count"] for line in found if line["event"] != "administration") == 3000
    assert len(log._full_at) <= 2 * MOST_COUNTED + 3


def test_a_line_is_one_write_of_a_size_that_a_pipe_takes_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[bytes] = []
    real = os.write

    def write(number: int, data: bytes) -> int:
        assert fcntl.fcntl(number, fcntl.F_GETFL) & os.O_APPEND
        writes.append(data)
        return real(number, data)

    log = opened(path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", write)
        for text in ["\N{GRINNING FACE}" * 5000, "\ud800" * 5000, '"\\' * 5000, "\x1b]0;\n\u2028\u202e" * 5000]:
            facts: dict[str, Any] = {"address": text, "method": text, "route": text, "request_id": text, "status": 200}
            log.record(Note("limit_hit", text, text), text, **facts)
        log.close()
    assert len(writes) == 4
    for data in writes:
        assert data.endswith(b"\n")
        assert data.count(b"\n") == 1
        assert len(data) <= 4096
        line = json.loads(data)
        assert list(line) == MEMBERS
        assert all(str(value).isprintable() for value in line.values())


def test_a_full_disk_loses_lines_and_no_counts(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, room = os.write, [10_000, 50, 0, 0, 10_000, 10_000]

    def write(number: int, data: bytes) -> int:
        if (most := room.pop(0)) == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(number, data[:most])

    log = opened(path)
    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        patched.setattr(os, "write", write)
        for number in range(5):
            log.record(REFUSED, "a", request_id=str(number))
        log.close()
    whole, torn, *rest = path.read_text(encoding="utf-8").splitlines()
    assert (json.loads(whole)["request_id"], len(torn)) == ("0", 50)
    assert [json.loads(line)["event"] for line in rest] == ["key_refused", "left_out"]
    assert counted([json.loads(line) for line in [whole, *rest]]) == {("key_refused", "a"): 5}
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]  # not one for each line


def test_counts_that_cannot_be_written_wait_for_the_next_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, fails = os.write, [False, True, True]  # the second line, and its count

    def write(number: int, data: bytes) -> int:
        if fails and fails.pop(0):
            raise OSError(errno.EIO, "Input/output error")
        return real(number, data)

    monkeypatch.setattr(audit, "LEFT_OUT_EVERY_S", 0.0)
    log = opened(path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", write)
        for _ in range(2):
            log.record(REFUSED, "a")
        log.close()
    assert [line["event"] for line in lines(path)] == ["key_refused", "left_out"]
    assert counted(lines(path)) == {("key_refused", "a"): 2}


def test_a_file_that_logrotate_moved_is_made_again(path: Path) -> None:
    log = opened(path)
    log.record(REFUSED, "a")
    log.close()
    log = opened(path)
    path.rename(path.with_suffix(".1"))
    log.record(REFUSED, "b")
    log.close()
    assert [line["client"] for line in lines(path.with_suffix(".1"))] == ["a"]
    assert [line["client"] for line in lines(path)] == ["b"]


def test_what_is_no_file_of_its_own_is_refused(path: Path) -> None:
    (path.parent / "elsewhere").touch()
    path.symlink_to(path.parent / "elsewhere")
    with pytest.raises(UsageError, match="a link, which is not followed; give another file, or - for stderr"):
        opened(path)
    for place, word in [(path.parent, "is not a file"), (Path("/dev/null"), "is not a file"), (path / "x", "opened")]:
        with pytest.raises(UsageError, match=word):
            opened(place)


KEYS = (
    ApiKey("a-first-secret"),
    ApiKey("a-boss-secret", name="boss", role="admin"),
    ApiKey("an-acme-secret", name="acme", role="write", where='shop = "acme"'),
    ApiKey("another-secret", name="other", catalogs=("second",)),
)
OTHER = "http://other-place.example:99999/"  # not a valid URL, so nothing is looked up
SECRETS = [*(key.key for key in KEYS), "wrong-secret", "pass-word", "path-secret", "a caption", "iVBOR", "other-place"]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What a service with a catalogue writes of clients that go too far, and of what an administrator does."""
    folder = tmp_path_factory.mktemp("audit")
    for name in ("shop", "second"):
        with open_catalog(folder / name, fields=[Field("shop")], model="mini"):
            pass
    settings = mini_settings(
        models={"mini": Config(model="mini", retries=0)},
        catalogs={name: str(folder / name) for name in ("shop", "second")},
        api_keys=KEYS,
        audit_log=str(folder / "audit.jsonl"),
        max_body_bytes=10_000,
        allowed_hosts=("localhost",),
    )
    with serving(app_of(settings)) as client:

        def ask(number: int | None, method: str, path: str, status: int, **more: Any) -> None:
            key = {} if number is None else {"X-API-Key": KEYS[number].key}
            headers = {"X-Request-Id": f"{method}-{status}", **key, **more.pop("headers", {})}
            assert client.request(method, path, headers=headers, **more).status_code == status

        good = base64_pair(make_png("red"), "a caption")
        scored = {"pairs": [good]}
        ask(None, "POST", "/v1/similarity", 401, json=scored)
        ask(None, "POST", "/v1/similarity", 401, json=scored, headers={"Authorization": "Bearer wrong-secret"})
        ask(None, "GET", "/livez", 421, headers={"Host": "evil.example"})
        ask(0, "POST", "/v1/similarity", 200, json=scored)
        ask(0, "POST", "/v1/similarity", 422, json={"pairs": []})
        inside = ["http://169.254.169.254/path-secret", "http://[::1]:8080?path-secret"]
        pairs = [
            {"image_url": url, "caption": "a caption"} for url in [*inside, inside[0], "http://a:pass-word@10.0.0.1/"]
        ]
        ask(0, "POST", "/v1/similarity", 200, json={"pairs": [*pairs, good]})
        ask(0, "POST", "/v1/embeddings", 422, json={"input": [inside[0]], "modality": "image"})
        ask(0, "POST", "/evaluator/v1/evaluation/single", 200, json={"image_input": inside[0], "text_prompt": "a"})
        ask(0, "POST", "/match-image", 422, json={"image_url": inside[0]})
        ask(0, "POST", "/v1/similarity", 413, content=b"x" * 20_000)
        ask(0, "POST", "/v1/catalogs/shop:switch", 403)
        ask(1, "POST", "/v1/catalogs/shop:switch", 409)
        ask(1, "PUT", "/v1/catalogs/shop/products/a", 200, json={"name": "a caption", "fields": {"shop": "best"}})
        ask(1, "PUT", "/v1/catalogs/shop/products/b", 200, json={"images": [inside[0]]})
        mixed = {"id": "c", "images": [f"data:;base64,{good['image_base64']}", OTHER, inside[1]]}
        ask(
            1,
            "POST",
            "/v1/catalogs/shop/products:batch",
            200,
            json={"products": [mixed, {"id": "d", "images": [OTHER]}]},
        )
        terms = [{"image_url": OTHER}, {"image_url": inside[0]}]
        ask(0, "POST", "/v1/catalogs/shop/match", 200, json={"queries": [{"terms": terms}]})
        ask(2, "DELETE", "/v1/catalogs/shop/products/a", 404)
        ask(3, "POST", "/v1/catalogs/shop/match", 404, json={"queries": [{"terms": ["a caption"]}]})
    text = (folder / "audit.jsonl").read_text(encoding="utf-8")
    for secret in SECRETS:
        assert secret not in text
    return [json.loads(line) for line in text.splitlines()]


def test_it_says_who_was_refused_what_and_who_changed_what(told: list[dict[str, Any]]) -> None:
    assert all(list(line) == MEMBERS for line in told)
    assert (told[0]["event"], told[-1]["event"]) == ("service_started", "service_stopped")
    said = [(line["event"], line["reason"], line["client"], line["status"]) for line in told[1:-1]]
    switch, product = "/v1/catalogs/{catalog}:switch", "/v1/catalogs/{catalog}/products/{id:path}"
    blocked = ("address_blocked", "blocked_address")
    wrong = ("request_refused", "invalid_request", "key 1", 422)
    assert said == [
        ("key_refused", "unauthorized", "127.0.0.1", 401),
        ("key_refused", "unauthorized", "127.0.0.1", 401),
        ("access_refused", "unknown_host", "127.0.0.1", 421),
        wrong,
        (*blocked, "key 1", 200),
        (*blocked, "key 1", 422),
        wrong,
        (*blocked, "key 1", 200),
        (*blocked, "key 1", 422),
        wrong,
        ("limit_hit", "too_many_bytes", "key 1", 413),
        ("access_refused", "forbidden", "key 1", 403),
        ("administration", "switch", "boss", 409),
        ("administration", "products", "boss", 200),
        ("administration", "products", "boss", 200),
        (*blocked, "boss", 200),
        ("administration", "products", "boss", 200),
        (*blocked, "boss", 200),
        (*blocked, "key 1", 200),
        ("administration", "products", "acme", 404),
        ("access_refused", "unknown_product", "acme", 404),
        ("access_refused", "unknown_catalog", "other", 404),
    ]
    assert {line["address"] for line in told[1:-1]} == {"127.0.0.1"}
    by_place = dict(enumerate(told))
    assert [by_place[place]["detail"] for place in (1, 2)] == ["there is no key", "the key is unknown"]
    assert (by_place[5]["detail"], by_place[5]["count"]) == ("169.254.169.254, [::1]:8080", 3)
    assert by_place[4]["detail"] == ""
    assert (by_place[1]["route"], by_place[1]["request_id"]) == ("/v1/similarity", "POST-401")
    assert [(by_place[place]["detail"], by_place[place]["count"]) for place in (16, 18, 19)] == [
        ("169.254.169.254", 1),
        ("[::1]:8080", 1),
        ("169.254.169.254", 1),
    ]
    assert [by_place[place]["route"] for place in (12, 13, 20)] == [switch, switch, product]
    assert by_place[14]["detail"] == "shop: 1 to add or replace, 0 to delete"


def test_limits_of_connections_are_in_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = opened(path)
    monkeypatch.setattr(connections, "HEAD_S", 0.05)
    with listening(protocol_of(log)) as (_, port):
        with connect(port) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * HEAD_BYTES + b"\r\n\r\n")
            assert b" 431 " in read(connection)
        with connect(port) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A:\r\n" * (MOST_FIELDS + 2))
            assert b" 431 " in read(connection)
        with connect(port) as connection:
            connection.sendall(b"G")
            read(connection)
        for name in ("NEW_AT_ONCE", "MOST_CONNECTIONS"):
            monkeypatch.setattr(peers, name, 0)
            with connect(port) as connection:
                assert b" 503 " in read(connection)
    log.close()
    found = [(line["event"], line["reason"], line["client"], line["address"]) for line in lines(path)]
    assert found == [
        ("limit_hit", each, "127.0.0.1", "127.0.0.1")
        for each in ("head_bytes", "headers", "head_time", "new_connections", "connections")
    ]


def test_the_page_has_every_event_and_an_example_of_each(told: list[dict[str, Any]]) -> None:
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", PAGE, re.MULTILINE)
    reasons = {event: re.findall(r"`(\w+)`", row) for events, row in rows for event in re.findall(r"`(\w+)`", events)}
    del reasons["event"]
    assert list(reasons) == [*get_args(Event), "left_out"]
    for line in told[1:-1]:
        assert line["reason"] in reasons[line["event"]]
    noted = r'_note\("(\w+)"|_abort, "(\w+)"|return "(\w+)", f"|_TOO_MANY_\w+ = "(\w+)"'
    for name in re.findall(noted, Path(connections.__file__).read_text(encoding="utf-8")):
        assert "".join(name) in reasons["limit_hit"]
    (block,) = fenced(PAGE, "json")
    examples = [json.loads(line) for line in block.splitlines()]
    assert Counter(line["event"] for line in examples) == Counter([*get_args(Event), "left_out"])
    assert all(list(line) == MEMBERS for line in examples)
    for line in examples[1:-2]:
        assert line["reason"] in reasons[line["event"]]


def test_the_environment_names_it_where_no_option_does() -> None:
    parser = argparse.ArgumentParser()
    serve.add_service_options(parser)
    environment = {AUDIT_VARIABLE: "-"}
    assert serve.settings_of(parser.parse_args(["--model", "mini"]), environment).audit_log == "-"
    given = parser.parse_args(["--model", "mini", "--audit-log", "a.jsonl"])
    assert serve.settings_of(given, environment).audit_log == "a.jsonl"
    assert apply_environment(mini_settings(), environment).audit_log == "-"


def test_stderr_is_a_place_too(capfd: pytest.CaptureFixture[str]) -> None:
    log = AuditLog("-")
    log.open()
    log.record(REFUSED, "a")
    log.close()
    assert json.loads(capfd.readouterr().err)["client"] == "a"
