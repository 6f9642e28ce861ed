"""The report: what it counts, what it shows, and that what strangers wrote does nothing in a browser."""

from __future__ import annotations

import io
import random
import re
import socket
import subprocess
import threading
import tracemalloc
import unicodedata
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.support.clock import HANG_S, ending
from tests.support.images import make_png
from tests.support.paths import ROOT, copy_challenge_set
from tests.support.processes import tool
from tests.support.server import Server, response
from text_image_similarity import Config, ConfigError, ErrorCode, Limits, TableError
from text_image_similarity.bounded_json import JsonLimitError
from text_image_similarity.report import (
    ReportRow,
    Tally,
    make_report,
    markup,
    report_rows,
    thumbnails,
    wanted_images,
    write_report,
)
from text_image_similarity.report import tally as tally_module
from text_image_similarity.report.charts import duration, histogram, throughput
from text_image_similarity.report.markup import escape, fold, is_link, reference
from text_image_similarity.report.tally import EXTREMES, FAILED_PER_CODE, host_of
from text_image_similarity.report.thumbnails import SIDE

SUMMARY: dict[str, Any] = {
    "input": "in.csv",
    "output": "out.csv",
    "model": "mini",
    "revision": None,
    "device": "cpu",
    "precision": "fp32",
    "backend": "onnx",
    "score": "cosine",
    "preprocess": "exact",
    "seconds": {"fetch": 1.5, "total": 75.0},
    "pairs_per_second": 41.25,
    "versions": {"python": "3.12.1", "torch": "2.9.0"},
    "warnings": [],
}


def scored(number: int, similarity: float, url: str = "a.png", text: str = "a cat") -> ReportRow:
    return ReportRow(number, url, text, similarity, None)


def failed(number: int, error: str, url: str = "a.png", text: str = "a cat") -> ReportRow:
    return ReportRow(number, url, text, None, error)


def tally_of(*rows: ReportRow, kind: str = "cosine") -> Tally:
    tally = Tally(kind)
    for row in rows:
        tally.add(row)
    return tally


def written(tmp_path: Path, tally: Tally, pictures: dict[str, bytes] | None = None, **summary: object) -> str:
    write_report(tmp_path / "report.html", tally, SUMMARY | summary, pictures or {})
    return (tmp_path / "report.html").read_text(encoding="utf-8")


class Tables(HTMLParser):
    """The cells of every table, by its caption, and every tag with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._caption, self._inside = "", ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("caption", "td"):
            self._inside = tag
            if tag == "td":
                self.rows[self._caption][-1].append("")
            else:
                self._caption = ""
        elif tag == "tr" and self._caption in self.rows:
            self.rows[self._caption].append([])

    def handle_endtag(self, tag: str) -> None:
        if tag == "caption":
            self.rows[self._caption] = []
        if tag in ("caption", "td"):
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "caption":
            self._caption += data
        elif self._inside == "td":
            self.rows[self._caption][-1][-1] += data

    def of(self, caption: str) -> list[list[str]]:
        return [row for row in self.rows[caption] if row]


# What is counted


def test_scores_and_failures_are_counted() -> None:
    rows = [
        scored(1, 0.25),
        failed(2, "timeout: 10 s"),
        scored(3, -0.5),
        failed(4, "http_4xx: 404"),
        failed(5, "timeout"),
        ReportRow(6, "a.png", "", float("nan"), None),
        ReportRow(7, "a.png", "", None, None),
        failed(8, "whatever: it is"),
    ]
    tally = tally_of(*rows)
    assert (tally.rows, tally.scored, tally.scores.mean()) == (8, 2, -0.125)
    assert (tally.scores.smallest, tally.scores.largest) == (-0.5, 0.25)
    assert dict(tally.failures) == {"timeout": 2, "http_4xx": 1, "other": 3}
    with pytest.raises(ConfigError, match="score='dot' is not one of"):
        Tally("dot")


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [("cosine", -1, 1), ("unit", 0, 1), ("clip_score", 0, 100), ("clipscore", 0, 2.5), ("ref_clipscore", 0, 10 / 7)],
)
def test_the_histogram_adapts_to_where_the_scores_lie(kind: str, low: float, high: float) -> None:
    chance = random.Random(1)
    for share in (1.0, 0.01):  # over the whole range, and over a hundredth of it
        middle, half = (low + high) / 2, (high - low) / 2 * share
        scores = [low, high] if share == 1.0 else []
        scores += [middle + half * chance.uniform(-1, 1) for _ in range(2000)]
        tally = tally_of(*(scored(n, s) for n, s in enumerate(scores, 1)), kind=kind)
        bins = list(tally.scores.merged(60))
        assert 20 <= len(bins) <= 60
        assert sum(count for *_, count in bins) == len(scores)
        for start, end, count in bins:
            inside = sum(start <= score < end for score in scores)
            assert abs(inside - count) <= (score_on_edge := sum(score in (start, end, high) for score in scores)) or (
                score_on_edge == 0 and inside == count
            )
        ordered = sorted(scores)
        for part in (0.05, 0.5, 0.95):
            assert tally.scores.quantile(part) == pytest.approx(
                ordered[int(part * len(ordered))], abs=(high - low) * 0.002
            )


def test_a_score_on_an_edge_is_counted_above_it() -> None:
    tally = Tally("unit")
    for number in range(10_000):
        tally.add(scored(number, round(number / 10_000, 4)))
    assert set(tally.scores.bins.values()) == {1}


def test_no_scores_at_all() -> None:
    tally = tally_of(failed(1, "timeout: x"))
    assert (tally.scores.mean(), tally.scores.quantile(0.5), list(tally.scores.merged(9)), tally.lowest()) == (
        None,
        None,
        [],
        [],
    )
    assert "No row has a score" in histogram(tally)


def test_the_lowest_and_highest_rows_are_kept() -> None:
    scores = [chance / 5000 for chance in random.Random(2).sample(range(5000), 1000)] + [0.5] * 200
    tally = tally_of(*(scored(number, score) for number, score in enumerate(scores, 1)))
    by_score = sorted(enumerate(scores, 1), key=lambda pair: pair[1])
    assert [row.number for row in tally.lowest()] == [number for number, _ in by_score[:EXTREMES]]
    assert [row.number for row in tally.highest()] == [number for number, _ in by_score[::-1][:EXTREMES]]


def test_equal_scores_keep_the_first_rows() -> None:
    tally = tally_of(*(scored(number, 0.5) for number in range(1, 200)))
    first = list(range(1, EXTREMES + 1))
    assert [row.number for row in tally.lowest()] == [row.number for row in tally.highest()] == first


def test_a_small_table_shows_no_row_twice() -> None:
    tally = tally_of(*(scored(number, number / 10) for number in range(1, 6)))
    assert [row.number for row in tally.lowest()] == [1, 2, 3]
    assert [row.number for row in tally.highest()] == [5, 4]


def test_some_failed_rows_of_every_code_are_kept() -> None:
    tally = tally_of(*(failed(number, "timeout: x") for number in range(1, 5001)))
    for number, code in enumerate(ErrorCode, 5001):
        tally.add(failed(number, f"{code.value}: rare"))
    shown = tally.failed()
    assert {row.code for row in shown} == {code.value for code in ErrorCode}
    assert len(shown) <= 4 * len(ErrorCode)
    assert [row.number for row in shown] == sorted(row.number for row in shown)
    alone = tally_of(*(failed(number, "timeout: x") for number in range(1, 5001))).failed()
    assert len(alone) == FAILED_PER_CODE
    assert max(row.number for row in alone) > 2500  # from the whole table, not from its start


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://Img.Example/a.png", "img.example"),
        (" HTTP://img.example:8080/x?y=https://other.example", "img.example"),
        ("https://me:secret@img.example/a", "img.example"),
        ("https://img.example?x@evil.example", "img.example"),
        ("http://[::1]:80/a", "[::1]"),
        ("https:///a", "a"),
        ("https://", "(no host)"),
        ("", "(no host)"),
        ("a/b.png", "(local files)"),
        ("C:\\b.png", "(local files)"),
        ("file:///b.png", "(local files)"),
        ("data:image/png;base64,AAAA", "(data: URLs)"),
        ("ftp://img.example/a", "(no host)"),
    ],
)
def test_hosts(url: str, host: str) -> None:
    assert host_of(url) == host


def test_failures_are_counted_by_host(tmp_path: Path) -> None:
    rows = [scored(1, 0.5, "https://a.example/1"), failed(2, "timeout: x", "https://a.example/2")]
    rows += [failed(n, "http_4xx: 404", "https://b.example/x") for n in range(3, 6)]
    page = Tables(written(tmp_path, tally_of(*rows)))
    assert page.of("Failed rows by host") == [
        ["b.example", "3", "3", "100.0 %", "http_4xx"],
        ["a.example", "1", "2", "50.0 %", "timeout"],
    ]
    assert [row[:3] for row in page.of("Failed rows by error code")] == [
        ["http_4xx", "3", "75.0 %"],
        ["timeout", "1", "25.0 %"],
    ]
    assert [row[-1] for row in page.of("Failed rows by error code")] == ["", "yes"]


def test_hosts_are_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tally_module, "MOST_HOSTS", 100)
    tally = Tally("cosine")
    for number in range(2000):
        tally.add(scored(number, 0.5, f"https://h{number}.example/a"))
        tally.add(failed(number, "timeout: x", "https://bad.example/a"))
        if number % 100 == 0:
            tally.add(failed(number, "timeout: x", f"https://worse{number}.example/a"))
    assert len(tally.hosts) <= 100
    assert (tally.hosts["bad.example"].rows, tally.hosts["bad.example"].failed) == (2000, 2000)
    assert tally.other_hosts.rows + sum(host.rows for host in tally.hosts.values()) == tally.rows
    assert tally.other_hosts.failed + sum(host.failed for host in tally.hosts.values()) == 2020
    assert "Counts are lower bounds" in written(tmp_path, tally)


def test_memory_does_not_grow_with_the_rows() -> None:
    tally, long = Tally("cosine"), "x" * 10_000

    def add(first: int) -> int:
        for number in range(first, first + 10_000):
            url = f"https://h{number}.example/"
            row = failed(number, f"timeout: {long}") if number % 3 else scored(number, number % 997 / 1000)
            tally.add(ReportRow(number, url, f"{number}{long}", row.similarity, row.error))
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before, after = add(0), add(10_000)
    finally:
        tracemalloc.stop()
    assert after - before < 1_000_000  # of texts of 200 MB
    assert max(len(row.text) for row in (*tally.lowest(), *tally.failed())) < 2100


# What is shown


def test_the_page_tells_of_the_run(tmp_path: Path) -> None:
    rows = [scored(number, number / 100, text=f"caption {number}") for number in range(1, 31)]
    page = written(
        tmp_path,
        tally_of(*rows, failed(31, "not_an_image: it is text", "https://a.example/x.png")),
        input="/data/pairs.csv",
        warnings=["fast is out of reach"],
        throughput=[[0, 0], [30, 900], [60, 2700]],
    )
    for said in (
        "<h1>pairs.csv</h1>",
        "30 of 31 rows scored with <b>mini</b> on cpu.",
        "<li>fast is out of reach</li>",
        "1 min 15 s",
        "41.2 pairs/s",
        "python 3.12.1, torch 2.9.0",
        "Throughput over 1 min 0 s: between 30.0 and 60.0 rows per second",
        "Histogram of 30 scores from 0.01 to 0.3, median 0.15",
    ):
        assert said in page
    tables = Tables(page)
    assert [row[0] for row in tables.of("Rows with the lowest scores")] == [str(n) for n in range(1, 16)]
    assert [row[2] for row in tables.of("Rows with the highest scores")][:2] == ["0.3000", "0.2900"]
    assert tables.of("Rows without a score") == [
        ["31", "no image", "not_an_image", "it is text", "a cat", "https://a.example/x.png"]
    ]
    assert "Warnings" not in written(tmp_path, tally_of(*rows))


def test_a_run_without_failures_or_scores(tmp_path: Path) -> None:
    assert "No row failed" in written(tmp_path, tally_of(scored(1, 0.5)))
    assert "No row has a score" in written(tmp_path, tally_of())
    write_report(tmp_path / "bare.html", tally_of(), {}, {})
    assert "0 of 0 rows scored." in (tmp_path / "bare.html").read_text(encoding="utf-8")


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    place = tmp_path / "report.html"
    place.write_text("before")
    with pytest.raises(TypeError):
        write_report(place, tally_of(), SUMMARY | {"seconds": {"total": []}}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert place.read_text() == "before"
    with pytest.raises(TableError, match="cannot be written"):
        write_report(tmp_path / "none" / "report.html", tally_of(), SUMMARY, {})


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([], "was not recorded"),
        ([(0, 0), (5, 10)], "was not recorded"),
        ([(0, 0), (0, 5), (10, 100), (5, 200), (20, 50), (float("nan"), 9), (20, 300)], "between 10.0 and 20.0"),
        ([(0, 0), (10, 100), (20, 50), (30, 300), (40, 400)], "between 10.0 and 10.0"),
        ([(0, 0), (10, 100), (20, 200), (15, 999)], "between 10.0 and 10.0"),
        ([(n, 2 * n) for n in range(100_000)], "between 2.0 and 2.0"),
    ],
)
def test_throughput(points: list[tuple[float, int]], said: str) -> None:
    drawn = throughput(points)
    assert said in drawn
    assert len(drawn) < 10_000
    assert "nan" not in drawn


def test_throughput_of_an_interval() -> None:
    drawn = throughput([(0, 0), (60, 6000), (600, 8700)])
    assert "between 5.0 and 100.0 rows per second" in drawn
    assert "minutes since the start" in drawn


def test_the_end_of_a_run_does_not_tower_over_it() -> None:
    steady = [(second, 10 * second) for second in range(101)]
    assert "between 10.0 and 18.3 rows per second" in throughput([*steady, (100.1, 1012), (100.4, 1024)])
    assert "between 10.0 and 50.0 rows per second" in throughput([*steady, (102, 1100)])


def test_durations() -> None:
    assert [duration(s) for s in (0, 59.94, 59.96, 3599.4, 3599.6, 360_000)] == [
        "0.0 s", "59.9 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "100 h 0 min",
    ]  # fmt: skip


# Pictures


def test_pictures_are_small_and_carry_nothing_of_their_origin(server: Server, tmp_path: Path) -> None:
    out = io.BytesIO()
    noise = Image.effect_noise((900, 300), 200).convert("RGB")
    noise.save(out, "JPEG", comment=b"<script>alert(1)</script>", icc_profile=b"secret profile")
    out.write(b"<!-- behind the end -->")
    (tmp_path / "red.png").write_bytes(make_png())
    server.routes |= {"/big.jpg": response(out.getvalue()), "/text.jpg": response(b"hello")}
    config = Config(base_dir=tmp_path, limits=Limits(allow_private_addresses=True))
    big, text = server.url("/big.jpg"), server.url("/text.jpg")
    huge = f"data:image/png;base64,{b64encode(make_png()).decode()}{' ' * 300_000}"
    made = thumbnails([big, text, big, "red.png", "none.png", huge], config)
    assert set(made) == {big, "red.png"}
    assert server.hits["/big.jpg"] == 1
    for jpeg in made.values():
        with Image.open(io.BytesIO(jpeg)) as image:
            assert image.format == "JPEG"
            assert max(image.size) <= SIDE
            assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
        assert len(jpeg) < 20_000
    assert b"secret" not in made[big]


def test_pictures_are_decoded_where_a_crash_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    thumbnailing = import_module("text_image_similarity.report.thumbnails")
    monkeypatch.setattr(thumbnailing, "decode", lambda *given, **named: pytest.fail("decoded in this process"))
    red = make_png("red")
    assert set(thumbnails([red, b"no picture"], Config(isolate_decoder=True))) == {red}


def test_the_address_guard_holds_for_pictures(server: Server) -> None:
    server.routes["/a.png"] = response(make_png())
    assert thumbnails([server.url("/a.png")], Config()) == {}
    assert server.connections == 0


def test_slow_pictures_are_left_out(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.routes |= {"/slow.png": server.hang, "/a.png": response(make_png())}
    config = Config(limits=Limits(allow_private_addresses=True, total_s=600), timeout_s=600, io_workers=4)
    times = iter([0.0, 0.0, HANG_S])  # at the start, when the first is waited for, and when the second is
    thumbnailing = import_module("text_image_similarity.report.thumbnails")
    monkeypatch.setattr(thumbnailing, "time", SimpleNamespace(monotonic=lambda: next(times)))
    urls = [server.url("/a.png"), server.url("/slow.png")]
    assert set(ending(lambda: thumbnails(urls, config, seconds=HANG_S))) == {urls[0]}


def test_nothing_is_tried_twice_for_a_picture() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(503)

    assert thumbnails(["https://a.example/x.png"], Config(), transport=httpx.MockTransport(answer)) == {}
    assert len(asked) == 1


def test_a_report_is_made_from_rows(tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return httpx.Response(200, content=make_png())

    rows = [
        scored(1, 0.5, "https://a.example/scored.png"),
        failed(2, "timeout: x", "https://a.example/gone.png"),
        failed(3, "empty_caption: none", "https://a.example/fine.png", text=""),
    ]
    make_report(iter(rows), SUMMARY, Config(), tmp_path / "r.html", transport=httpx.MockTransport(answer))
    assert sorted(asked) == ["/fine.png", "/scored.png"]  # what failed to load is not asked for again
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,/9j/") == 2
    assert 'alt="image of row 3"' in page


# Strangers

# Each would run a script, show an element or ask a host, were it taken for markup somewhere. {n} tells them apart.
BAD = "document.title='pwned{n}';document.documentElement.dataset.pwned='{n}'"
HOSTILE = [
    f"<script>{BAD}</script>",
    f"</script><script>{BAD}</script>",
    f"</style><script>{BAD}</script>",
    f"</title><script>{BAD}</script>",
    f"</td></tr></table><script>{BAD}</script>",
    f"</details></bdi><script>{BAD}</script>",
    f"<ScRiPt/x>{BAD}</sCrIpT >",
    f'<img id=pwned{{n}} src=x onerror="{BAD}">',
    f'"><img id=pwned{{n}} src=x onerror="{BAD}">',
    f'\'><img id=pwned{{n}} src=x onerror="{BAD}">',
    f'" onmouseover="{BAD}" onfocus="{BAD}" autofocus tabindex=0 x="',
    f"' onfocus='{BAD.replace(chr(39), '`')}' autofocus tabindex=0 x='",
    f"` onfocus=`{BAD}` autofocus",
    f'<svg id=pwned{{n}} onload="{BAD}">',
    f"<svg id=pwned{{n}}><script>{BAD}</script></svg>",
    f'<svg><animate onbegin="{BAD}" attributeName=x dur=1s>',
    f'<math id=pwned{{n}}><mtext><img src=x onerror="{BAD}">',
    f'<details id=pwned{{n}} open ontoggle="{BAD}">',
    f'<input id=pwned{{n}} autofocus onfocus="{BAD}">',
    f'<body onload="{BAD}">',
    f'<iframe id=pwned{{n}} srcdoc="<script>parent.{BAD}</script>"></iframe>',
    f'<iframe id=pwned{{n}} src="javascript:parent.{BAD}"></iframe>',
    "<iframe id=pwned{n} src=https://evil.example/{n}></iframe>",
    "<img id=pwned{n} src=https://evil.example/{n}>",
    "<link id=pwned{n} rel=stylesheet href=https://evil.example/{n}.css>",
    "<meta id=pwned{n} http-equiv=refresh content='0;url=https://evil.example/{n}'>",
    "<base id=pwned{n} href=https://evil.example/>",
    "<style id=pwned{n}>@import 'https://evil.example/{n}.css';*{{background:url(https://evil.example/{n})}}</style>",
    '" style="background:url(https://evil.example/{n})" x="',
    "</style><style id=pwned{n}>body{{background:url(https://evil.example/{n})}}",
    f"javascript:{BAD}",
    f" javascript:{BAD}",
    f"JaVaScRiPt:{BAD}",
    f"java\nscript:{BAD}",
    f"data:text/html,<script id=pwned{{n}}>{BAD}</script>",
    f"vbscript:{BAD}",
    f'https://a.example/"onclick="{BAD}"><script>{BAD}</script>',
    f"https://a.example/'onfocus='{BAD}'autofocus='",
    f"https://<script>{BAD}</script>/x.png",
    'https://"><img id=pwned{n} src=x>/x.png',
    f"<!-- --><script>{BAD}</script><!-- ",
    f"<!--><script>{BAD}</script>-->",
    f"--><script>{BAD}</script>",
    f"]]><script>{BAD}</script>",
    f"<![CDATA[><script>{BAD}</script>]]>",
    "$style_hash ${{body}} $$ {{{{constructor.constructor('x')()}}}} {{% raw %}} <%= 1 %> #{{1}} %s %(n)s \\{n}",
    f"&lt;script&gt;{BAD}&lt;/script&gt;",
    f"&#60;script&#62;{BAD}&#60;/script&#62;",
    f"\\u003cscript\\u003e{BAD}\\u003c/script\\u003e",
    f"\uff1cscript\uff1e{BAD}\uff1c/script\uff1e",
    f"+ADw-script+AD4-{BAD}+ADw-/script+AD4-",
    f"\x00<\x00script\x00>{BAD}</script>",
    f"<\x00img id=pwned{{n}} src=x onerror={BAD}>",
    "\u202egnp.live\u202c \u2066\u2067\u2068\u2069 \u200e\u200f\u061c \ufeff\u200b {n}",
    f"\ud800 \udfff \udc80<script>{BAD}</script>",
    "\x1b]0;pwned{n}\x07 \x1b[31m \x07 \x7f \x85 \u2028 \u2029 \ufffe \uffff \U000e0041",
    f"{'A' * 1_000_000}<script>{BAD}</script>",
    f"{'A' * 139}<script>{BAD}</script>",
    f"{'<' * 3000}script>{BAD}",
    "Z" + "\u0334\u0335\u0336" * 2000 + "{n}",
    "\u202e\u2066" * 5000 + "{n}",
    "<form id=pwned{n} action=https://evil.example/{n}><button autofocus>",
    "<object id=pwned{n} data=https://evil.example/{n}></object><embed src=https://evil.example/{n}>",
    "<textarea id=pwned{n}>",
    "<plaintext id=pwned{n}>",
    "<template id=pwned{n}>",
    "<noscript><p id=pwned{n}></noscript>",
]


def hostile_texts() -> Iterator[str]:
    for number, text in enumerate(HOSTILE):
        yield text.replace("{n}", str(number)).replace("{{", "{").replace("}}", "}")


def hostile_rows() -> Iterator[ReportRow]:
    """Every hostile text as a caption, a reference, a host, an error's code and an error's detail."""
    number = 0
    for text in hostile_texts():
        for row in (
            scored(0, 0.0001 * number, text, text),
            failed(0, f"timeout: {text}", f"https://{text}/x.png", text),
            failed(0, text, f"https://a.example/{text}", "fine"),
        ):
            number += 1
            yield ReportRow(number, row.url, row.text, row.similarity, row.error)


def hostile_pages(tmp_path: Path) -> list[Path]:
    """Write pages that show every hostile text in every place; a page shows only so many rows, so there are several."""
    rows = list(hostile_rows())
    texts = [text[:3000] for text in hostile_texts()]
    pages = []
    for first in range(0, len(rows), 60):  # a third scored, two thirds failed
        tally = tally_of(*rows[first : first + 60])
        some = texts[first // 3 : first // 3 + 20]
        assert len(tally.lowest()) + len(tally.highest()) + len(tally.failed()) >= min(60, len(rows) - first) - 15
        summary = SUMMARY | {name: " ".join(some) for name in ("input", "output", "model", "device", "revision")}
        summary |= {"warnings": some, "versions": dict.fromkeys(some, some[0]), "seconds": dict.fromkeys(some, 1.0)}
        pages.append(tmp_path / f"hostile{first}.html")
        write_report(pages[-1], tally, summary, {})
    return pages


def test_there_are_hostile_texts_enough() -> None:
    texts = list(hostile_texts())
    assert len(set(texts)) == len(texts) >= 60


def test_every_hostile_text_is_in_a_page(tmp_path: Path) -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in hostile_pages(tmp_path))
    for text in hostile_texts():
        assert escape(text[:60]) in pages


def test_markup_of_strangers_never_becomes_markup(tmp_path: Path) -> None:
    calm = {tag for tag, _ in Tables(written(tmp_path, tally_of(scored(1, 0.5), failed(2, "timeout: x")))).tags}
    allowed = calm | {"a", "details", "summary", "li", "ul", "bdi"}
    for path in hostile_pages(tmp_path):
        page = path.read_text(encoding="utf-8")
        found = Tables(page).tags
        assert {tag for tag, _ in found} <= allowed
        assert sum(tag == "script" for tag, _ in found) == 1
        for tag, attributes in found:
            assert not any(name.startswith("on") or name in ("style", "srcdoc", "action") for name in attributes)
            assert "pwned" not in str(attributes.get("id"))
            if attributes.get("href") not in (None, "#lowest", "#highest", "#failed", "#run") or "src" in attributes:
                assert tag == "a"
                assert re.match(r"https?://[a-z0-9.]+/", str(attributes["href"]))
                assert attributes["rel"] == "noopener noreferrer nofollow"
        assert not re.search(
            "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufffe]", page
        )
        assert len(page) < 3_000_000


def test_hidden_characters_are_spelled_out() -> None:
    assert escape("a\u202eb\x00c\ud800d\u2028") == "a[U+202E]b[U+0000]c[U+D800]d[U+2028]"
    kept = "naïve 東京 سلام می‌خواهم 👨‍👩‍👧 ❤️‍🔥 1️⃣ é\n\ttab"
    assert escape(kept) == kept
    for hidden in ("a\u200db", "م\u200c b", "👨\u200d", "a\ufe0f", "👨\ufe0f\ufe0f", "1\ufe0f2"):
        assert "[U+" in escape(hidden)


VISIBLE = [*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD, *range(0x13430, 0x13460)]
INVISIBLE = [  # as Unicode's Default_Ignorable_Code_Point, and blanks
    *(0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2065, 0x2800, 0x3164, 0xFFA0),
    *(*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xFFF0, 0xFFF9), *range(0xE0000, 0xE1000)),
]


def test_every_invisible_character_between_letters_is_spelled_out() -> None:
    formats = {code for code in range(0x110000) if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    for code in (formats - set(VISIBLE) - {0x9, 0xA}) | set(INVISIBLE):
        assert escape(f"a{chr(code)}b") == f"a[U+{code:04X}]b"


def test_the_page_spells_out_the_same_characters() -> None:
    source = (ROOT / "text_image_similarity/service/page/show.js").read_text(encoding="utf-8")
    found = re.search("const HIDDEN =\\s*/(.*)/gu;", source)
    assert found is not None
    theirs = re.compile(re.sub(r"\\u\{(\w+)\}", lambda code: rf"\U{int(code[1], 16):08x}", found[1]))
    for before, after in [("a", "a"), ("❤", "🔥"), ("م", "م"), ("❤\ufe0f", "a"), ("1", "\u20e3"), ("\u200d", "\ufe0f")]:
        text = "\n".join(f"{before}{chr(code)}{after}" for code in range(0x110000))
        assert [at.span() for at in theirs.finditer(text)] == [at.span() for at in markup._HIDDEN.finditer(text)]


@pytest.mark.parametrize(
    ("url", "link"),
    [
        ("https://a.example/x.png?a=1&b=2#c", True),
        ("HTTP://a.example", True),
        ("https://a.example/'\"<>", True),  # escaped, as all is
        ("https://user:secret@a.example/", False),
        ("https://a.example\\@b.example/", False),
        ("https://[::1", False),
        ("https:///x", False),
        ("https://a.example/\u202e", False),
        ("https://ä.example/", False),
        ("https://a.example/ x", False),
        ("https://a.example/\nx", False),
        (" https://a.example/", False),
        ("javascript:alert(1)//https://a.example/", False),
        ("data:text/html,x", False),
        ("file:///etc/passwd", False),
        ("//a.example/x", False),
        ("x.png", False),
        ("https://a.example/".ljust(2000, "x"), True),
        ("https://a.example/".ljust(2001, "x"), False),
    ],
)
def test_only_plain_web_addresses_become_links(url: str, link: bool) -> None:
    assert is_link(url) == link
    assert ("<a " in reference(url)) == link
    assert escape(url[:100]) in reference(url)


def test_long_texts_are_folded() -> None:
    assert fold("short") == '<bdi class="text">short</bdi>'
    long = " ".join(f"word{number}" for number in range(100))
    assert long in fold(long)
    assert "see the table for the full text" not in fold(long)
    for endless in ("x" * 1_000_000, "<" * 100_000, "\u202e" * 100_000, "x" * 2000 + "<" * 1000):
        assert len(fold(endless)) < 4500
        assert "see the table for the full text" in fold(endless)


@pytest.mark.parametrize("codes", [list(ErrorCode), ["empty_caption", "encoder_error", "non_finite"]])
def test_the_largest_page_is_below_three_megabytes(tmp_path: Path, codes: list[str]) -> None:
    noise = io.BytesIO()
    Image.frombytes("RGB", (SIDE, SIDE), random.Random(3).randbytes(3 * SIDE * SIDE)).save(noise, "PNG")
    (tmp_path / "noise.png").write_bytes(noise.getvalue())
    jpeg = thumbnails([str(tmp_path / "noise.png")], Config())[str(tmp_path / "noise.png")]
    endless = '\u202e<"' * 2000
    rows = [ReportRow(n, f"{n}{endless}", f"{n}{endless}", n / 1000, None) for n in range(1, 101)]
    rows += [failed(n, f"{code}: {endless}", f"{n}{endless}", endless) for n, code in enumerate(codes * 50, 101)]
    tally = tally_of(*rows)
    page = written(tmp_path, tally, {str(url): jpeg for url in wanted_images(tally)})
    assert page.count("<img") >= 90
    assert 1_000_000 < len(page.encode()) < 3_000_000


def test_the_page_about_the_report_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (program,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "report.md").read_text(encoding="utf-8"), re.DOTALL
    )
    copy_challenge_set(tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "docs/report.md", "exec"), {})
    assert "data:image/jpeg" in (tmp_path / "report.html").read_text(encoding="utf-8")


# In a browser


class Proxy:
    """A proxy that takes note of what it is asked for and gives nothing."""

    def __init__(self) -> None:
        self.asked = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(HANG_S)
                try:
                    self.asked += connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                except OSError:
                    continue

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def opened(page: Path, profile: Path, *options: str) -> str:
    """Open a page from disk in a browser without a network; return its elements once all scripts have had time."""
    command = [tool("chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom"]
    command += ["--disable-background-networking", "--no-first-run", "--virtual-time-budget=3000"]
    command += [f"--user-data-dir={profile}", *(options or ("--host-resolver-rules=MAP * ~NOTFOUND",)), page.as_uri()]
    done = subprocess.run(command, capture_output=True, timeout=90, check=True)
    return done.stdout.decode("utf-8", "replace")


def without_policy(page: Path) -> Path:
    """Write the page once more without its content security policy."""
    text, count = re.subn(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", page.read_text(encoding="utf-8"))
    assert count == 1
    bare = page.with_name(f"bare-{page.name}")
    bare.write_text(text, encoding="utf-8")
    return bare


def ran(dom: str) -> bool:
    """Say whether any hostile text came to life."""
    title = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)
    return (
        "data-pwned" in dom[:2000]
        or title is None
        or title[1].startswith("pwned")
        or bool(re.search(r"<\w+ id=\"?pwned", dom))
    )


@pytest.mark.slow
@pytest.mark.browser
def test_no_hostile_text_runs_or_loads_anything(tmp_path: Path) -> None:
    """Escaping holds by itself, so the pages are opened without their policy too."""
    with closing(Proxy()) as proxy:
        through = (f"--proxy-server={proxy.address}", "--proxy-bypass-list=<-loopback>")
        pages = hostile_pages(tmp_path)
        for page in (*pages, *(without_policy(page) for page in pages)):
            dom = opened(page, tmp_path / "profile", *through)
            assert not ran(dom), page.name
            assert dom.count("<script") == 1
            assert dom.count('data-sortable="ready"') == len(re.findall(r'<table class="[^"]*sortable', dom)) >= 3
        assert b"evil.example" not in proxy.asked


@pytest.mark.browser
def test_the_browser_would_tell(tmp_path: Path) -> None:
    """The two probes of the test above work: unescaped and without the policy, texts run and hosts are asked."""
    page = tmp_path / "open.html"
    write_report(page, tally_of(scored(1, 0.5, text="PLACE")), SUMMARY, {})
    for text, found in ((HOSTILE[0], "pwned"), ("<img id=pwned src=https://evil.example/x>", "evil.example")):
        hostile = text.replace("{n}", "7").replace("{{", "{").replace("}}", "}")
        bad = without_policy(page)
        bad.write_text(bad.read_text(encoding="utf-8").replace("PLACE", hostile), encoding="utf-8")
        with closing(Proxy()) as proxy:
            dom = opened(
                bad, tmp_path / "profile", f"--proxy-server={proxy.address}", "--proxy-bypass-list=<-loopback>"
            )
        assert ran(dom)
        assert found in dom
        assert (b"evil.example" in proxy.asked) == (found == "evil.example")


def test_the_policy_admits_our_style_and_our_script_alone(tmp_path: Path) -> None:
    page = written(tmp_path, tally_of(scored(1, 0.5)))
    (style,), (script,) = (re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL) for tag in ("style", "script"))
    hashes = [b64encode(sha256(text.encode()).digest()).decode() for text in (style, script)]
    policy = "default-src 'none'; img-src data:; style-src 'sha256-{}'; script-src 'sha256-{}'; base-uri 'none'; form-action 'none'"
    head = '<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{}">'
    assert head.format(policy.format(*hashes)) in page


@pytest.mark.browser
def test_the_policy_stops_what_escaping_would_miss(tmp_path: Path) -> None:
    page = tmp_path / "policy.html"
    write_report(page, tally_of(scored(1, 0.5, text="PLACE")), SUMMARY, {})
    text = page.read_text(encoding="utf-8")
    raw = "<script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\"><img src=https://evil.example/x>"
    page.write_text(text.replace("PLACE", raw + "<style>h1{color:rgb(1,2,3)}</style>"), encoding="utf-8")
    with closing(Proxy()) as proxy:
        dom = opened(page, tmp_path / "profile", f"--proxy-server={proxy.address}", "--proxy-bypass-list=<-loopback>")
    assert "<title>pwned" not in dom
    assert b"evil.example" not in proxy.asked
    assert 'data-sortable="ready"' in dom  # our own script is the one that is let in


@pytest.mark.slow
@pytest.mark.browser
def test_columns_are_sorted_by_their_buttons(tmp_path: Path) -> None:
    page = tmp_path / "sort.html"
    scores = {1: 0.5, 2: -0.25, 1000: 0.125, 10: 0.12503, 11: 0.75, 12: 0.76}
    captions = {2: "b", 1000: "c", 10: "a"}
    tally = tally_of(*(scored(number, score, text=captions.get(number, "z")) for number, score in scores.items()))
    write_report(page, tally, SUMMARY, {})

    def order(*clicks: int) -> tuple[list[str], list[str]]:
        bare = without_policy(page)
        press = "".join(f"heads[{column}].querySelector('button').click();" for column in clicks)
        script = f"<script>const heads = document.querySelector('table.rows').tHead.rows[0].cells;{press}</script>"
        bare.write_text(bare.read_text(encoding="utf-8").replace("</body>", script + "</body>"), encoding="utf-8")
        dom = opened(bare, tmp_path / "profile")
        rows = Tables(dom).of("Rows with the lowest scores")
        return re.findall(r'<th[^>]* aria-sort="(\w+)"', dom), [row[0] for row in rows]

    row, _, score, caption = range(4)
    assert order() == ([], ["2", "1,000", "10"])
    assert order(row) == (["ascending"], ["2", "10", "1,000"])
    assert order(row, row) == (["descending"], ["1,000", "10", "2"])
    assert order(row, score, score) == (["descending"], ["10", "1,000", "2"])
    assert order(score, score, caption) == (["ascending"], ["10", "2", "1,000"])
    assert '<th scope="col" data-fixed="">image</th>' in opened(page, tmp_path / "profile")


@pytest.mark.parametrize(
    ("score", "error"),
    [
        ("high", None),
        ("[0.1, x]", None),
        ("[" * 100_000, None),
        ("[0.1, 0.2]", "[null]"),
        ([0.1], 3),
    ],
)
def test_scores_that_no_run_writes_are_refused_with_their_row(score: Any, error: Any) -> None:
    rows = [("a.png", ["red"], ["0.5", ""]), ("a.png", [["red", "blue"]], [score, error])]
    with pytest.raises(
        TableError, match=r"^row 2 has the score .{3,40} and the error .{1,40}, which `score` never writes; "
    ):
        list(report_rows(rows))


def test_a_score_that_would_fill_the_memory_is_not_parsed() -> None:
    with pytest.raises(TableError, match=r"^row 1 has the score") as caught:
        list(report_rows([("a.png", ["red"], [f"[{'[],' * 1_000_000}[]]", None])]))
    assert isinstance(caught.value.__cause__, JsonLimitError)
