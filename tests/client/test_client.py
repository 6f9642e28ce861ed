"""A table scored through a service: the bytes of a run here, whatever happens on the way."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path
from threading import Barrier
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from tests.support.clock import HANG_S
from tests.support.fake_service import ENCODER, FakeService, Fault, problem, running
from tests.support.faults import Certificates
from tests.support.images import make_png
from tests.support.server import Server, Streamed, response
from text_image_similarity import Config, Limits, LocalEngine, Record, TableError, TableOptions, score_csv, score_pairs
from text_image_similarity.cli import main
from text_image_similarity.client import ServiceEngine, compare_table, settings_of_the_service
from text_image_similarity.errors import ConfigError, ModelUnavailableError, StoppedError, UsageError
from text_image_similarity.service.http.schema import failure_of
from text_image_similarity.service.jobs import timeout_error
from text_image_similarity.tables import Summary

pytestmark = pytest.mark.usefixtures("few_authorities")

CONFIG = Config(chunk_size=20)
URL = "http://service.example:8000"


def pictures(request: httpx.Request) -> httpx.Response:
    colour = request.url.path.strip("/")
    return httpx.Response(200, content=make_png(colour)) if colour in ("red", "blue") else httpx.Response(404)


PICTURES = httpx.MockTransport(pictures)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for colour in ("red", "blue", "lime"):
        (tmp_path / f"{colour}.png").write_bytes(make_png(colour))
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    data = "data:image/gif;base64,R0lGODlhAQABAIAAAP8AAP///ywAAAAAAQABAAACAkQBADs="
    references = ["red.png", "none.png", "http://8.8.8.8/red", "lime.png", "HTTP://8.8.8.8/none", data, "empty.png"]
    references += [
        "",
        "ftp://x/y.png",
        "http://u@8.8.8.8/",
        f"file://{tmp_path}/blue.png",
        "text.png",
        " red.png ",
        "data:",
    ]
    rows = [
        {
            "id": i,
            "url": references[i % len(references)],
            "caption": ["a red wall", "lime", " ", "blue, \U0001f600"][i % 4],
        }
        for i in range(95)
    ]
    with (tmp_path / "in.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    here(tmp_path / "in.csv", tmp_path / "here.csv")
    return tmp_path


def here(source: Path, target: Path, config: Config = CONFIG) -> Summary:
    return score_csv(source, target, config, engine=LocalEngine(encoder=ENCODER, transport=PICTURES))


@pytest.fixture
def service() -> FakeService:
    return FakeService(PICTURES)


def engine(service: Fault, **options: Any) -> ServiceEngine:
    return ServiceEngine(URL, transport=httpx.MockTransport(service), **options)


def through(service: Fault, folder: Path, config: Config = CONFIG, **options: Any) -> Summary:
    with engine(service, **options) as used:
        return score_csv(folder / "in.csv", folder / "out.csv", config, engine=used)


def same(folder: Path) -> bool:
    return (folder / "out.csv").read_bytes() == (folder / "here.csv").read_bytes()


@pytest.mark.parametrize("connections", [1, 8])
def test_the_bytes_are_those_of_a_run_here(folder: Path, service: FakeService, connections: int) -> None:
    summary = through(service, folder, connections=connections)
    assert same(folder)
    assert (summary.rows, summary.info.model, summary.info.device) == (95, "colour", "cpu")
    codes = set(summary.failures)
    assert codes >= {"file_not_found", "http_4xx", "empty_body", "invalid_url", "unsupported_scheme", "not_an_image"}
    assert "empty_caption" in codes
    sent = [pair for pairs in service.asked for pair in pairs]
    assert {pair["image_url"] for pair in sent if "image_url" in pair} == {
        "http://8.8.8.8/red",
        "HTTP://8.8.8.8/none",
        "http://u@8.8.8.8/",
    }


def test_every_score_kind_is_the_services(folder: Path, service: FakeService) -> None:
    for kind in ("unit", "clip_score", "clipscore"):
        config = Config(chunk_size=20, score=kind)
        here(folder / "in.csv", folder / "here.csv", config)
        with engine(service) as used:
            score_csv(folder / "in.csv", folder / "out.csv", config, engine=used)
        assert same(folder)


def test_images_in_a_table_go_to_the_service(folder: Path, service: FakeService) -> None:
    red, blue = make_png("red"), make_png("blue")
    images: list[Any] = [
        red,
        {"bytes": blue, "path": "x.png"},
        {"bytes": None, "path": "lime.png"},
        b"",
        b"a.jpg",
        bytes(3000),
        memoryview(red),
    ]
    config = Config(base_dir=folder, limits=Limits(max_bytes=2000))
    records = [Record(image, "red") for image in images]
    with engine(service) as used:
        used.start(config)
        found = used.score(records)
    assert found == list(score_pairs(records, config, encoder=ENCODER))
    assert [result.code for result in found] == [None, None, None, "empty_body", "not_an_image", "too_many_bytes", None]
    assert all("image_base64" in pair for pairs in service.asked for pair in pairs)


def test_parquet_keeps_what_no_float_of_32_bits_may_lose(folder: Path, service: FakeService) -> None:
    here(folder / "in.csv", folder / "here.parquet")
    with engine(service) as used:
        score_csv(folder / "in.csv", folder / "out.parquet", CONFIG, engine=used)
    assert pq.read_table(folder / "out.parquet").equals(pq.read_table(folder / "here.parquet"))


def test_no_row_is_lost_to_what_json_cannot_hold(tmp_path: Path, service: FakeService) -> None:
    (tmp_path / "red.png").write_bytes(make_png("red"))
    half = "\ud800"
    rows: list[dict[str, Any]] = [
        {"url": "red.png", "caption": f"red {half}"},
        {"url": "none.png", "caption": f"red {half}"},
        {"url": f"http://8.8.8.8/{half}", "caption": "red"},
        {"url": f"{half}.png", "caption": "red"},
        {"url": 7, "caption": 8},
        {"url": None, "caption": "red"},
        {"url": ["red.png"], "caption": "red"},
        {"url": "red.png", "caption": {"red": 1}},
        {"url": "red.png", "caption": "red\x00\u2028"},
        {"url": "red\x00.png", "caption": "red"},
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    here(tmp_path / "in.jsonl", tmp_path / "here.jsonl")
    with engine(service) as used:
        score_csv(tmp_path / "in.jsonl", tmp_path / "out.jsonl", CONFIG, engine=used)
    ours, theirs = ((tmp_path / f"{name}.jsonl").read_text("utf-8").splitlines() for name in ("here", "out"))
    # The colours' encoder accepts lone surrogates; other tokenizers refuse them, each with its own message.
    assert json.loads(theirs[0])["error"].startswith("encoder_error: the caption contains a lone surrogate")
    assert theirs[1:] == ours[1:]
    assert len(theirs) == len(rows)


def broken(kind: type[httpx.TransportError]) -> Fault:
    def fault(request: httpx.Request) -> httpx.Response:
        raise kind("the line is dead", request=request)

    return fault


def once(answer: httpx.Response) -> Fault:
    return lambda _: answer


LATER: dict[str, Callable[[], Fault]] = {
    "429": lambda: once(problem(429, "queue_full", "64 pairs are waiting", **{"retry-after": "0"})),
    "503": lambda: once(problem(503, "draining", "the service is ending", **{"retry-after": "0"})),
    "500": lambda: once(problem(500, "internal_error", "an error")),
    "502": lambda: once(httpx.Response(502, text="<html>bad gateway</html>")),
    "refused": lambda: broken(httpx.ConnectError),
    "reset": lambda: broken(httpx.ReadError),
    "broken off": lambda: broken(httpx.RemoteProtocolError),
    "slow": lambda: broken(httpx.ReadTimeout),
}


@pytest.mark.parametrize("name", LATER)
def test_a_request_that_may_be_answered_later_is_sent_again(folder: Path, service: FakeService, name: str) -> None:
    service.faults.extend([LATER[name](), service._scores, LATER[name](), LATER[name]()])
    with engine(service) as used:
        score_csv(folder / "in.csv", folder / "out.csv", CONFIG, engine=used)
        assert used.requests == 5  # repeated ones are not counted
    assert same(folder)
    assert not service.faults
    assert len(service.asked) == 5  # every part is one request, answered once


def test_retry_after_is_waited_for(folder: Path, service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    service.faults.append(once(problem(429, "queue_full", "later", **{"retry-after": "9"})))
    monkeypatch.setattr("text_image_similarity.system.random.random", lambda: 0.5)
    waits: list[float] = []
    with engine(service) as used:
        monkeypatch.setattr(used._service._closing, "wait", waits.append)
        score_csv(folder / "in.csv", folder / "out.csv", CONFIG, engine=used)
    assert waits == [9.125]
    assert same(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [("503", "503 draining: the service is ending"), ("reset", "the line is dead"), ("502", "502: Bad")],
)
def test_patience_ends_and_the_same_call_goes_on(folder: Path, service: FakeService, name: str, text: str) -> None:
    service.faults.extend([service._scores, service._scores, *(LATER[name]() for _ in range(100))])
    with pytest.raises(TableError, match=f"{text}.*finished parts are kept; rerun the same command to resume"):
        through(service, folder, connections=1, patience_s=0.3)
    kept = len(list((folder / "out.csv.parts").glob("part-*.csv")))
    assert kept >= 1
    service.faults.clear()
    service.asked.clear()
    through(service, folder)
    assert same(folder)
    assert len(service.asked) == 5 - kept


def test_a_wait_beyond_all_patience_is_not_begun(folder: Path, service: FakeService) -> None:
    service.faults.append(once(problem(429, "queue_full", "much later", **{"retry-after": "3600"})))
    with pytest.raises(TableError, match="much later"):
        through(service, folder)


def test_a_run_stops_and_goes_on_here_or_there(folder: Path, service: FakeService) -> None:
    asked = iter([False, False, True])
    with engine(service) as used, pytest.raises(StoppedError):
        score_csv(folder / "in.csv", folder / "out.csv", CONFIG, engine=used, stop=lambda: next(asked))
    asked = iter([False, True])
    with pytest.raises(StoppedError):
        score_csv(
            folder / "in.csv",
            folder / "out.csv",
            CONFIG,
            engine=LocalEngine(encoder=ENCODER, transport=PICTURES),
            stop=lambda: next(asked),
        )
    service.asked.clear()
    through(service, folder)
    assert same(folder)
    assert len(service.asked) == 2


def test_only_failures_that_may_pass_are_asked_about_again(folder: Path, service: FakeService) -> None:
    through(service, folder)
    service.asked.clear()
    with engine(service) as used:
        how = TableOptions(start="retry_failed")
        score_csv(folder / "in.csv", folder / "out.csv", CONFIG, engine=used, options=how)
    assert same(folder)
    assert service.asked == []


def test_many_requests_are_under_way_at_once(folder: Path, service: FakeService) -> None:
    together = Barrier(4)

    def waits(request: httpx.Request) -> httpx.Response:
        together.wait(HANG_S)
        return service._scores(request)

    service.faults.extend([waits] * 4)
    through(service, folder, Config(chunk_size=20), connections=4)
    assert not together.broken
    service.limits["max_pairs"] = 3
    service.asked.clear()
    through(service, folder, Config(chunk_size=95))
    assert max(map(len, service.asked)) == 3


def test_a_service_without_limits_is_sent_no_more_than_this_process_can_hold(
    folder: Path, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.limits |= {"max_pairs": 10**15, "max_queue": 10**15, "max_body_bytes": 10**15}
    threads: list[int] = []
    pool = ThreadPoolExecutor

    def counted(most: int, **options: Any) -> ThreadPoolExecutor:
        threads.append(most)
        return pool(most, **options)

    monkeypatch.setattr("text_image_similarity.pipeline.engine.ThreadPoolExecutor", counted)
    with engine(service) as used:
        score_csv(folder / "in.csv", folder / "out.csv", replace(CONFIG, chunk_size=1), engine=used)
        assert used.max_pairs == 10_000
    assert same(folder)
    assert max(threads) <= 256


def test_a_key_is_shown_and_never_told(folder: Path, service: FakeService) -> None:
    service.key = "s3cret"
    with pytest.raises(UsageError, match=r"requires an API key \(401 unauthorized.*TEXT_IMAGE_SIMILARITY_API_KEY"):
        through(service, folder)
    with pytest.raises(UsageError, match="does not accept this API key") as refused:
        through(service, folder, api_key="other")
    assert "other" not in str(refused.value)
    through(service, folder, api_key="s3cret")
    assert same(folder)
    for key in ("", "a b\n", "schlüssel", " x"):
        with pytest.raises(ConfigError, match="the API key is empty, has"):
            engine(service, api_key=key)


@pytest.mark.parametrize(
    "url",
    ["localhost:8000", "ftp://x/", "http://", "http://me:pass@host:8000", "http://h:99999", "http://h/?x=1", "/x"],
)
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="the service's URL must look like http://host:8000") as refused:
        ServiceEngine(url)
    assert "pass" not in str(refused.value).partition(": ")[2]


def test_a_service_may_have_a_path(folder: Path, service: FakeService) -> None:
    def behind(request: httpx.Request) -> httpx.Response:
        assert request.url.path.startswith("/scores/v1/")
        url = request.url.copy_with(path=request.url.path.removeprefix("/scores"))
        return service(httpx.Request(request.method, url, headers=request.headers, content=request.read()))

    with ServiceEngine(f"{URL}/scores/", transport=httpx.MockTransport(behind)) as used:
        score_csv(folder / "in.csv", folder / "out.csv", CONFIG, engine=used)
    assert same(folder)


def test_what_cannot_be_reached_is_said_at_once(folder: Path) -> None:
    with Server() as gone:
        port = gone.port
    with (
        pytest.raises(TableError, match=rf"127.0.0.1:{port} cannot be reached: .*refused; is it running"),
        ServiceEngine(f"http://127.0.0.1:{port}") as used,
    ):
        score_csv(folder / "in.csv", folder / "out.csv", CONFIG, engine=used)


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (httpx.Response(200, text="<html>"), UsageError, "is not a text-image-similarity service.*200: OK"),
        (httpx.Response(404), UsageError, "is not a text-image-similarity service.*404: Not Found"),
        (httpx.Response(200, json=[1]), UsageError, "is not a text-image-similarity service"),
        (httpx.Response(200, json={"version": "3"}), TableError, "did not answer.*KeyError: 'limits'"),
        (httpx.Response(307, headers={"location": "https://b.example/"}), UsageError, "307 to 'https://b.example/'"),
        (httpx.Response(307, headers={"location": "http://" + "x" * 300}), UsageError, "its host has 300 characters"),
    ],
)
def test_what_is_no_service_of_ours_is_said(
    folder: Path, answer: httpx.Response, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        through(once(answer), folder)
    assert not (folder / "out.csv").exists()


def changed(service: FakeService, change: Callable[[dict[str, Any]], object]) -> Fault:
    def fault(request: httpx.Request) -> httpx.Response:
        said = service._scores(request).json()
        change(said)
        return httpx.Response(200, content=json.dumps(said))  # with NaN, which JSON has not

    return fault


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda said: said["results"].pop(), "results for 20 pairs, or in a different order|results for .* pairs"),
        (lambda said: said["results"].reverse(), "in a different order"),
        (lambda said: said["results"].append(said["results"][0]), "results for"),
        (lambda said: said.update(model="other"), "scored with model 'other'"),
        (lambda said: said.update(score="unit"), "'unit'"),
        (lambda said: said.pop("results"), "KeyError: 'results'"),
        (lambda said: said["results"][0].update(similarity=float("nan"), error=None), "not between -1 and 1"),
        (lambda said: said["results"][0].update(similarity=1e300, error=None), "not between -1 and 1"),
        (lambda said: said["results"][0].update(similarity=0.1, by_model={"a": 2}, error=None), "not between -1 and 1"),
        (lambda said: said["results"][0].update(similarity=[0.1], error=None), "TypeError"),
        (lambda said: said["results"][0].update(error={"code": "new", "detail": ""}), "'new' is not a valid ErrorCode"),
    ],
)
def test_an_answer_that_makes_no_sense_ends_the_run(
    folder: Path, service: FakeService, change: Callable[[dict[str, Any]], object], text: str
) -> None:
    service.faults.append(changed(service, change))
    with pytest.raises(TableError, match=f"did not answer .*({text})"):
        through(service, folder)
    assert not (folder / "out.csv").exists()
    through(service, folder)
    assert same(folder)


def test_an_answer_in_no_json_ends_the_run(folder: Path, service: FakeService) -> None:
    service.faults.append(once(httpx.Response(200, text="<html>log in first</html>")))
    with pytest.raises(TableError, match="is another program or a proxy listening there"):
        through(service, folder)


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_an_answer_has_so_many_bytes(
    folder: Path, service: FakeService, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("text_image_similarity.client.connection.MOST_ANSWER", 1_000_000)
    body = b'{"results": [' + b" " * 1_000_001
    coded = gzip.compress(body) if encoding == "gzip" else body
    service.faults.append(once(httpx.Response(200, content=coded, headers={"content-encoding": encoding})))
    with pytest.raises(TableError, match="sent a response of more than 1,000,000 bytes"):
        through(service, folder)
    through(service, folder)
    assert same(folder)


def test_an_answer_has_so_many_parts(folder: Path, service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as limited:
        limited.setattr("text_image_similarity.client.connection._MOST_PARTS", 3)
        with pytest.raises((TableError, UsageError), match="info returned"):
            through(service, folder, patience_s=0.0)
    through(service, folder)
    assert same(folder)


@pytest.mark.parametrize("coding", ["gzip", "gzip, gzip"])
def test_a_little_that_is_compressed_is_not_expanded_beyond_what_an_answer_may_have(
    folder: Path, service: FakeService, coding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("text_image_similarity.client.connection.MOST_ANSWER", 1_000_000)
    body = gzip.compress(bytes(256 * 1024 * 1024), 1)
    body = body if coding == "gzip" else gzip.compress(body)
    service.faults.append(once(httpx.Response(200, stream=Streamed(body), headers={"content-encoding": coding})))
    expected = "sent a response of more than 1,000,000 bytes" if coding == "gzip" else "compressed as gzip, gzip"
    tracemalloc.start()
    with pytest.raises(TableError, match=expected):
        through(service, folder, patience_s=0.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 128 * 1024 * 1024  # with what else is imported and run meanwhile


def test_what_a_service_says_does_nothing_to_a_terminal_or_a_table(folder: Path, service: FakeService) -> None:
    def evil(said: dict[str, Any]) -> None:
        detail = "\x1b]0;title\x07 \ud800 " + "x" * 10_000
        said["results"][0].update(similarity=None, error={"code": "not_an_image", "detail": detail})

    service.faults.append(changed(service, evil))
    assert through(service, folder).failures["not_an_image"] >= 1
    found = next(row for row in (folder / "out.csv").read_text(encoding="utf-8").splitlines() if "title" in row)
    assert r"not_an_image: \x1b]0;title\x07 \ud800 xxx" in found
    assert len(found) < 500
    body = {"code": "\x1b[2J\ud800", "detail": "\x1b[1A" + "y" * 10_000}
    service.faults.append(once(httpx.Response(422, content=json.dumps(body))))
    (folder / "out.csv").unlink()
    with pytest.raises(TableError) as refused:
        through(service, folder)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 700


def test_facts_of_a_model_are_short_texts(folder: Path, service: FakeService) -> None:
    for wrong in (5, "\x1b[2J", "x" * 5000, ["a"]):
        service.facts["device"] = wrong
        with pytest.raises(TableError, match=r"did not answer .*device is"):
            through(service, folder)


@pytest.mark.parametrize(
    "limits",
    [{"max_pairs": 0}, {"max_queue": -1}, {"max_body_bytes": 1e999}, {"request_timeout_s": 1e9}, {"max_pairs": "many"}],
)
def test_limits_of_a_service_are_within_reason(folder: Path, service: FakeService, limits: dict[str, Any]) -> None:
    fault = httpx.Response(200, content=json.dumps({"models": {}, "limits": service.limits | limits}))
    with pytest.raises(TableError, match="did not answer"):
        through(once(fault), folder)


def test_another_refusal_is_told(folder: Path, service: FakeService) -> None:
    service.faults.append(once(problem(422, "invalid_request", "pairs.0.caption: too long")))
    with pytest.raises(TableError, match=r"refused a request: 422 invalid_request: pairs\.0\.caption: too long"):
        through(service, folder)


def test_what_is_too_large_is_sent_in_smaller_requests(folder: Path, service: FakeService) -> None:
    def through_nginx(request: httpx.Request) -> httpx.Response:
        if request.method == "POST" and len(json.loads(request.read()).get("pairs", ())) > 2:
            return httpx.Response(413, text="<html>nginx</html>")
        return service(request)

    through(through_nginx, folder)
    assert same(folder)
    assert {len(pairs) for pairs in service.asked} == {1, 2}


def test_a_request_has_half_of_what_the_service_takes(tmp_path: Path, service: FakeService) -> None:
    (tmp_path / "red.bmp").write_bytes(bmp(100))
    (tmp_path / "in.csv").write_text("url,caption\n" + "red.bmp,red\n" * 20)
    here(tmp_path / "in.csv", tmp_path / "here.csv")
    service.limits["max_body_bytes"] = 200_000  # two pictures in Base64 are 80,000 bytes
    through(service, tmp_path)
    assert same(tmp_path)
    assert [len(pairs) for pairs in service.asked] == [2] * 10


def bmp(side: int) -> bytes:
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(out, "BMP")
    return out.getvalue()


def test_a_picture_that_no_request_can_carry_costs_one_row(tmp_path: Path, service: FakeService) -> None:
    (tmp_path / "red.png").write_bytes(make_png("red"))
    (tmp_path / "large.bmp").write_bytes(bmp(100))
    (tmp_path / "in.csv").write_text("url,caption\nred.png,red\nlarge.bmp,red\nred.png,blue\n")
    service.limits["max_body_bytes"] = 30_000
    with engine(service) as used:
        summary = score_csv(tmp_path / "in.csv", tmp_path / "out.parquet", CONFIG, engine=used)
    assert summary.failures == {"too_many_bytes": 1}
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert rows[1]["error"] == "too_many_bytes: the request has 40,170 bytes, more than the service accepts"
    assert [len(pairs) for pairs in service.asked] == [1, 1]
    assert max(int(head.get("content-length", 0)) for head in service.heads) < 30_000
    # A proxy before the service may take less than the service does: not three pairs, of two only one.
    service.limits["max_body_bytes"] = 1 << 20
    refused = once(httpx.Response(413))
    service.faults.extend([refused, refused, refused, service._scores, refused])
    with engine(service) as used:
        records = [Record(row["url"], row["caption"]) for row in rows]
        used.start(Config(base_dir=tmp_path))
        results = used.score_some(records)
    assert [result.code for result in results] == ["too_many_bytes", None, "too_many_bytes"]


def test_a_file_over_the_cap_has_the_words_of_a_run_here(tmp_path: Path, service: FakeService) -> None:
    (tmp_path / "large.bmp").write_bytes(bmp(100))
    (tmp_path / "in.csv").write_text("url,caption\nlarge.bmp,red\n")
    config = Config(limits=Limits(max_bytes=1000))
    here(tmp_path / "in.csv", tmp_path / "here.csv", config)
    through(service, tmp_path, config)
    assert same(tmp_path)
    assert service.asked == []


def test_a_model_that_is_loaded_on_demand_is_asked_for(folder: Path, service: FakeService) -> None:
    asked = count()

    def slow(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/embeddings" and next(asked) == 0:
            raise httpx.ReadTimeout("it takes longer than an answer may", request=request)
        return service(request)

    service.loaded = False
    summary = through(slow, folder)
    assert next(asked) == 2
    assert (summary.info.model, summary.info.device) == ("colour", "cpu")
    assert same(folder)


def test_a_model_that_cannot_be_loaded_is_told(folder: Path, service: FakeService) -> None:
    def unloaded(request: httpx.Request) -> httpx.Response:
        return problem(503, "model_unavailable", "no disk") if request.method == "POST" else service(request)

    service.loaded = False
    with pytest.raises(ModelUnavailableError, match="cannot load colour: 503 model_unavailable: no disk"):
        through(unloaded, folder)

    def never(request: httpx.Request) -> httpx.Response:
        service.loaded = False
        return service(request)

    with pytest.raises(TableError, match="does not describe the model colour"):
        through(never, folder)


def test_a_name_that_stands_for_several_models_is_refused(folder: Path, service: FakeService) -> None:
    def split(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(200, json={"object": "list", "data": [], "model": "new"})
        return service(request)

    service.loaded = False
    with pytest.raises(ModelUnavailableError, match=r"colour at .* is split between several models.*, such as 'new'"):
        through(split, folder)


def late(service: FakeService) -> Fault:
    def change(said: dict[str, Any]) -> None:
        error = failure_of(timeout_error(30))
        for result in said["results"][3:]:
            result.update(similarity=None, error=error)

    return changed(service, change)


def test_what_a_busy_service_had_no_time_for_is_asked_again(folder: Path, service: FakeService) -> None:
    service.faults.extend([late(service)] * 3)
    through(service, folder, connections=1)
    assert same(folder)
    asked = [len(pairs) for pairs in service.asked[:3]]
    assert asked == [asked[0], asked[0] - 3, asked[0] - 6]
    service.faults.extend([late(service)] * 100)
    (folder / "out.csv").unlink()
    assert through(service, folder, patience_s=0).failures["timeout"] > 20
    service.faults.clear()
    with engine(service) as used:
        how = TableOptions(start="retry_failed")
        score_csv(folder / "in.csv", folder / "out.csv", CONFIG, engine=used, options=how)
    assert same(folder)


def test_the_model_is_one_that_is_served(folder: Path, service: FakeService) -> None:
    with pytest.raises(ModelUnavailableError, match="does not serve 'accurate'; it serves colour"):
        through(service, folder, model="accurate")
    with pytest.raises(ModelUnavailableError, match="does not serve 'mini'"):
        through(service, folder, Config(chunk_size=20, model="mini"))
    through(service, folder, Config(chunk_size=20, model="colour"))
    assert same(folder)


def test_a_long_name_of_a_model_is_not_shown_in_full(folder: Path, service: FakeService) -> None:
    def named(*names: str) -> Fault:
        data = [{"id": name, "default": True} for name in names]
        models = httpx.Response(200, json={"data": data})
        return lambda request: models if request.url.path == "/v1/models" else service(request)

    with pytest.raises(TableError, match=r"GET /v1/models .*ValueError: the name of a model has 5,000 characters\)"):
        through(named("x" * 5000), folder)
    with pytest.raises(ModelUnavailableError, match=r"does not serve 'a{200}'") as refused:
        through(named(*(f"{number:04000}" for number in range(100))), folder, model="a" * 4000)
    assert len(str(refused.value)) < 11_000


def test_scores_of_two_models_are_not_mixed(folder: Path, service: FakeService) -> None:
    looked = count(1)

    def rolled(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/info" and next(looked) == 3:  # twice at the start, then after each part
            service.facts |= {"fingerprint": "another"}
        return service(request)

    with pytest.raises(TableError, match=r"colour at .* is not the same model as when this run began"):
        through(rolled, folder)
    service.facts |= {"fingerprint": ENCODER.info.fingerprint}
    asked = iter([False, True])
    with engine(service) as used, pytest.raises(StoppedError):
        score_csv(folder / "in.csv", folder / "out.csv", CONFIG, engine=used, stop=lambda: next(asked))
    for change, named in (({"fingerprint": "another"}, "weights"), ({"device": "cuda:0"}, "device")):
        with pytest.raises(UsageError, match=named):
            through(changed_facts(service, change), folder)
    through(service, folder)
    assert same(folder)


def changed_facts(service: FakeService, change: dict[str, str]) -> FakeService:
    other = FakeService(PICTURES)
    other.facts = service.facts | change
    return other


def test_replicas_may_have_other_devices(folder: Path, service: FakeService) -> None:
    other = changed_facts(service, {"device": "cuda:0"})
    turns = count()
    through(lambda request: (service, other)[next(turns) % 2](request), folder)
    assert same(folder)


def test_settings_of_the_service_are_not_the_clients() -> None:
    config = Config(timeout_s=5, device="cpu", batch_size=8, limits=Limits(max_side=9, total_s=60, max_bytes=1))
    assert settings_of_the_service(config) == ["device", "batch_size", "timeout_s", "limits.total_s", "limits.max_side"]
    with pytest.raises(
        ConfigError, match=r"device, batch_size, timeout_s, limits.total_s, limits.max_side would have no effect"
    ):
        engine(FakeService()).start(config)
    ours = Config(model="x", score="unit", chunk_size=3, base_dir="/", limits=Limits(allow_local_files=False))
    assert settings_of_the_service(ours) == []


def about(service: FakeService) -> dict[str, bytes]:
    """Return what a service says of itself, for a server of sockets."""
    paths = ("/v1/info", "/v1/models")
    return {path: response(service(httpx.Request("GET", f"{URL}{path}")).content) for path in paths}


def test_certificates_are_held_against_the_authorities_of_the_environment(
    tmp_path: Path, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates = Certificates(tmp_path)
    context = certificates.server("good")
    (tmp_path / "authority").write_text(certificates.authority)
    with Server(lambda connection: context.wrap_socket(connection, server_side=True)) as server:
        server.routes |= about(service)
        url = f"https://127.0.0.1:{server.port}"
        with (
            ServiceEngine(url) as used,
            pytest.raises(TableError, match=r"cannot be reached: tls_error: .*local issuer"),
        ):
            used.start(CONFIG)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority"))
        with ServiceEngine(url) as used:
            assert used.start(CONFIG).model == "colour"


def test_closing_breaks_what_is_under_way(folder: Path, service: FakeService) -> None:
    """A run that ends must not wait for a service that hangs."""
    service.limits["request_timeout_s"] = 600.0
    with Server() as slow:
        slow.routes |= {**about(service), "/v1/similarity": slow.hang}
        used = ServiceEngine(slow.url(""))
        used.start(CONFIG)
        with ThreadPoolExecutor(2) as threads:
            scores = [threads.submit(used.score, [Record("http://8.8.8.8/", "x")] * 999) for _ in range(2)]
            slow.wait_for("/v1/similarity", 8)
            used.__exit__()
            for future in scores:
                with pytest.raises(TableError, match="was closed"):
                    future.result(HANG_S)


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture
def small(tmp_path: Path) -> Sequence[Path]:
    for colour in ("red", "blue"):
        (tmp_path / f"{colour}.png").write_bytes(make_png(colour))
    lines = [f"{'red' if i % 2 else 'blue'}.png,a red wall {i}" for i in range(40)]
    (tmp_path / "in.csv").write_text("url,caption\n" + "\n".join(["none.png,red", *lines, ""]))
    here(tmp_path / "in.csv", tmp_path / "here.csv", Config())
    return tmp_path / "in.csv", tmp_path / "out.csv"


def test_the_command_writes_what_a_run_here_writes(
    small: Sequence[Path],
    service: FakeService,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    service.key = "s3cret"
    source, target = small
    (source.parent / "key").write_text("s3cret\n")
    with running(service) as url:
        assert command("score", source, target, "--service-url", url) == 2
        assert "requires an API key" in capsys.readouterr().err
        assert command("score", source, target, "--service-url", url, "--service-key-file", source.parent / "key") == 0
        assert same(source.parent)
        assert "colour" in capsys.readouterr().out
        monkeypatch.setenv("TEXT_IMAGE_SIMILARITY_API_KEY", "s3cret\n")
        assert command("score", source, target, "--service-url", url, "--restart", "--quiet") == 0
        assert command("score", source, target, "--service-url", url, "--model", "mini") == 1
        assert "it serves colour" in capsys.readouterr().err
    assert same(source.parent)
    assert command("score", source, target, "--service-url", url, "--restart") == 1
    assert "cannot be reached" in capsys.readouterr().err


def test_the_client_needs_no_torch(small: Sequence[Path], service: FakeService) -> None:
    code = (
        "import sys\nfrom text_image_similarity.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n"
        "    sys.exit('torch' in sys.modules or end.code)"
    )
    with running(service) as url:
        arguments = [sys.executable, "-c", code, "score", *map(str, small), "--service-url", url]
        assert subprocess.run(arguments, capture_output=True, check=False).returncode == 0
    assert same(small[0].parent)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--timeout", "5"], "--timeout would have no effect with --service-url"),
        (["--limit", "total_s=5", "--backend", "torch"], "--backend, --limit total_s would"),
        (["--limit", "allow_private_addresses=true"], "--limit allow_private_addresses would"),
        (["--engine", "ray"], "--engine would"),
        (["--engine-conf", "a=b"], "--engine-conf would"),
        (["--service-connections", "0"], "connections=0 must be"),
        (["--service-key-file", "none"], "none cannot be read: No such file"),
        (["--service-key-file", "in.csv"], "in.csv contains 162 words"),
        (["--compare", "out.csv"], "out.csv is used by this run"),
        (["--compare", "none/c.csv"], "none/c.csv cannot be written"),
        (["--compare", "c.html", "--report", "c.html"], "c.html is used by this run"),
    ],
)
def test_wrong_options_are_answered_before_anything_is_asked(
    small: Sequence[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    text: str,
) -> None:
    monkeypatch.chdir(small[0].parent)
    assert command("score", "in.csv", "out.csv", "--service-url", "http://127.0.0.1:9", *arguments) == 2
    assert text in capsys.readouterr().err


def test_options_of_the_service_need_one(small: Sequence[Path], capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--compare", "--service-key-file"):
        assert command("score", *small, option, small[0].parent / "x") == 2
        assert f"{option} needs --service-url" in capsys.readouterr().err


def test_single_requests_are_compared_with_batches(
    small: Sequence[Path], service: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    service.limits["max_pairs"] = 8
    source, target = small
    with running(service) as url:
        found = source.parent / "compared.csv"
        assert command("score", source, target, "--service-url", url, "--compare", found) == 0
    assert same(source.parent)
    with found.open(newline="") as file:
        single, batch = csv.DictReader(file)
    assert list(single) == ["mode", "requests", "images", "seconds", "images_per_second", "speed_up"]
    assert [single[name] for name in ("mode", "requests", "images", "speed_up")] == ["single", "19", "19", "1.0"]
    assert [batch[name] for name in ("mode", "requests", "images")] == ["batch", "3", "19"]
    rates = [float(row["images_per_second"]) for row in (single, batch)]
    assert float(batch["speed_up"]) == pytest.approx(rates[1] / rates[0], rel=0.02)
    assert rates[1] == pytest.approx(19 / float(batch["seconds"]), rel=0.1)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in printed[-3:]] == [
        ["mode", "requests", "images"],
        ["single", "19", "19"],
        ["batch", "3", "19"],
    ]
    # One row to warm up, then blocks that take turns: eight singles, a batch, a batch, eight singles, three, a batch.
    sizes = [len(pairs) for pairs in service.asked[: 1 + 19 + 3]]
    assert sizes == [1, *[1] * 8, 8, 8, *[1] * 8, *[1] * 3, 3]
    captions = [pair["caption"] for pairs in service.asked[:23] for pair in pairs]
    assert len(set(captions)) == len(captions) == 39  # none was sent twice; the missing picture was not sent
    assert captions[1:9] == [f"a red wall {i}" for i in range(1, 17, 2)]


def test_too_few_rows_are_not_compared(tmp_path: Path, service: FakeService) -> None:
    (tmp_path / "in.csv").write_text("url,caption\nnone.png,red\nhttp://8.8.8.8/red,red\nhttp://8.8.8.8/red,\n")
    with engine(service) as used, pytest.raises(UsageError, match="fewer than three rows"):
        compare_table(str(tmp_path / "in.csv"), ("url", "caption"), CONFIG, used)
    assert service.asked == []
