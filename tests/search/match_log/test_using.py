"""What a log is good for: figures, tables, and captions to train on, with as much of the queries as may be kept."""

from __future__ import annotations

import json
from collections import Counter
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.support.images import inline
from text_image_similarity import Config, Field, Product, TrainConfig, UsageError, open_catalog, train
from text_image_similarity.dataset import read_dataset
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.search import Catalog, Query
from text_image_similarity.search.match_log import (
    EventKind,
    LogEntry,
    LogEvent,
    LogSummary,
    MatchLog,
    TrainingExport,
    export_log,
    export_training,
    masked,
    new_match_id,
    open_match_log,
    summarize,
)

NOON = 1_795_867_200.0
CATALOG = Path(__file__).parents[3] / "sample_catalog" / "products.csv"
_SECONDS = count()


def entry(*terms: str | dict[str, Any], results: str = "", **values: Any) -> LogEntry:
    """Return an entry, each a second after the one before; `results` has a letter for each product."""
    time = NOON + next(_SECONDS)
    asked = [{"text": term, "weight": 1} if isinstance(term, str) else term for term in terms]
    query = {"terms": asked} | values.pop("query", {})
    found = tuple({"id": id, "similarity": 0.5, "score": 0.5} for id in results)
    return LogEntry(new_match_id(time), time, query=query, results=found, total=len(found), **values)


def event(entry: LogEntry, kind: EventKind, product: str, later: float = 60.0) -> LogEvent:
    return LogEvent(entry.id, entry.time + later, kind, product)


def test_the_figures_of_a_log(log: MatchLog) -> None:
    hashed = {"image_sha256": "ab" * 32, "weight": 1}
    entries = [
        entry("Red  bag", results="abcdefghijkl", milliseconds={"total": 10.0}),
        entry("red bag", results="abcdefghijkl", milliseconds={"total": 20.0}),
        entry("red bag", results="cba", milliseconds={"total": 30.0}),
        entry("sofa", {"text": "Leather", "weight": -0.75}),
        entry(hashed, results="a"),
        entry(results="ab"),
        entry("sofa", {"text": "leather", "weight": -0.75}),
        entry("lamp"),
        entry("red bag", results="l", query={"after": "cursor"}, milliseconds={"total": 1000.0}),
        entry("x", status=422, error="invalid_query: y", milliseconds={"total": 9999.0}),
        entry("y", status=422, error="invalid_query: z"),
        entry("z", status=429, error="overloaded"),
    ]
    events = [
        event(entries[0], "click", "k", 59),  # the eleventh
        event(entries[0], "click", "c"),
        event(entries[0], "buy", "c", 61),
        event(entries[1], "cart", "k"),
        event(entries[2], "wrong", "c"),
        event(entries[2], "click", "c"),
        event(entries[4], "wrong", "a"),
        event(entries[5], "click", "z"),  # was not shown
        event(entries[5], "click", "b", 61),
        event(entries[8], "click", "l"),
    ]
    log.append(entries, [*events, LogEvent(new_match_id(NOON), NOON, "click", "unknown match")])
    assert summarize(log) == LogSummary(
        requests=12,
        searches=8,
        refused={"invalid_query": 2, "overloaded": 1},
        empty=3,
        empty_queries=[("sofa + -0.75 × leather", 2), ("lamp", 1)],
        asked=[
            ("red bag", 3),
            ("sofa + -0.75 × leather", 2),
            ("image abababababab", 1),
            ("(no terms)", 1),
            ("lamp", 1),
        ],
        milliseconds_median=25.0,
        milliseconds_p99=float(np.percentile([10, 20, 30, 1000], 99)),
        click_through={1: 1 / 8, 3: 3 / 8, 10: 3 / 8},
        clicked=[("k", 2), ("c", 2), ("z", 1), ("b", 1)],
        events={"click": 6, "wrong": 2, "buy": 1, "cart": 1},
    )
    late = summarize(log, since=entries[9].time)
    assert (late.requests, late.searches, late.milliseconds_median) == (3, 0, None)
    assert late.click_through == {1: None, 3: None, 10: None}
    assert json.loads(json.dumps(late.as_dict()))["refused"] == {"invalid_query": 2, "overloaded": 1}


def test_long_logs_are_joined_with_their_events(log: MatchLog) -> None:
    entries = [entry("bag", results="ab") for _ in range(1200)]
    log.append(entries, [event(each, "click", product) for each in entries[::2] for product in "ab"])
    found = summarize(log)
    assert (found.requests, found.events) == (1200, {"click": 1200})
    assert sorted(found.clicked) == [("a", 600), ("b", 600)]
    assert found.click_through[1] == 0.5


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def test_hashed_entries_tell_queries_apart_and_quote_none() -> None:
    given = entry(
        "a secret bag",
        {"image_url": "https://secret/a.jpg", "weight": -1},
        {"image_sha256": "ab", "weight": 1},
        {"product": "p", "weight": 2},
        results="a",
        query={"top_k": 5, "without": "secret", "sort": "-price"},
        where={"price": {"lt": 5}},
        error="empty_caption: 'secret'",
    )
    assert masked(given, "full") is given
    found = masked(given, "hashed")
    assert found.query == {
        "terms": [
            {"text_sha256": digest("a secret bag"), "weight": 1},
            {"image_url_sha256": digest("https://secret/a.jpg"), "weight": -1},
            {"image_sha256": "ab", "weight": 1},
            {"product": "p", "weight": 2},
        ],
        "top_k": 5,
        "without_sha256": digest("secret"),
        "sort": "-price",
    }
    assert (found.where, found.error) == (given.where, "empty_caption")
    assert found.results == given.results
    assert "secret" not in json.dumps(found.as_dict())
    assert masked(entry("\ud83d"), "hashed").query["terms"][0]["text_sha256"] != digest("")


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("name = 'secret'", None),
        (None, None),
        ({"price": {"lt": 5}, "color": ["secret"]}, {"price": {"lt": None}, "color": None}),
        (
            {"or": [{"a": "secret"}, {"not": {"b": {"in": ["secret"]}}}]},
            {"or": [{"a": None}, {"not": {"b": {"in": None}}}]},
        ),
    ],
)
def test_off_drops_the_query_and_the_values_of_its_filter(where: Any, kept: Any) -> None:
    found = masked(entry("secret", results="a", where=where, query={"top_k": 5}), "off")
    assert (found.query, found.where, len(found.results)) == ({}, kept, 1)
    assert masked(entry("secret", query={"after": "secret"}), "off").query == {"after": True}
    refused = masked(entry(where={"secret": 1}, error="invalid_query: secret"), "off")
    assert (refused.where, refused.error) == (None, "invalid_query")


def test_what_is_nested_too_deeply_is_masked_too() -> None:
    deep: Any = "secret"
    for _ in range(100_000):
        deep = {"text": [deep]}
    for how in ("hashed", "off"):
        found = masked(entry(query={"more": deep}, where=deep), how)
        assert found.query.get("terms", []) == []


def test_an_export_has_each_match_with_its_events(log: MatchLog, tmp_path: Path) -> None:
    entries = [
        entry("жёлтая \ud83d bag", results="ab", where={"price": 1}, milliseconds={"total": 2.0}, generation=1),
        entry("b", where="price = 1", error="x: \ud83d"),
        *(entry("c") for _ in range(1200)),
    ]
    log.append(entries, [event(entries[0], "click", "a"), event(entries[0], "wrong", "b", 61)])
    assert export_log(log, tmp_path / "log.jsonl") == export_log(log, tmp_path / "log.parquet") == 1202
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text("utf-8").splitlines()]
    assert [{name: value for name, value in line.items() if name != "events"} for line in lines] == [
        each.as_dict() for each in entries
    ]
    told = [
        {"time": entries[0].time + 60, "kind": "click", "product": "a", "tenant": ""},
        {"time": entries[0].time + 61, "kind": "wrong", "product": "b", "tenant": ""},
    ]
    assert [line["events"] for line in lines[:2]] == [told, []]
    rows = pq.read_table(tmp_path / "log.parquet").to_pylist()
    assert len(rows) == 1202
    assert json.loads(rows[0]["query"]) == entries[0].query
    assert [row["where"] for row in rows[:3]] == ['{"price": 1}', '"price = 1"', None]
    assert (rows[0]["results"], rows[0]["events"]) == (list(entries[0].results), told)
    assert (rows[0]["milliseconds"], rows[1]["error"]) == ([("total", 2.0)], "x: \ufffd")
    with pytest.raises(UsageError, match="already exists"):
        export_log(log, tmp_path / "log.jsonl")
    assert export_log(log, tmp_path / "log.jsonl", since=entries[-3].time, force=True) == 3
    with pytest.raises(
        UsageError, match=r"log.csv: the rows of a log contain lists; export the log to a .jsonl or .par"
    ):
        export_log(log, tmp_path / "log.csv")


def test_what_was_clicked_becomes_captions(log: MatchLog, tmp_path: Path) -> None:
    with open_catalog(":memory:", fields=[], encoder=ColourEncoder()) as catalog:
        pictures = {"a": (inline("red"), inline("blue")), "b": (inline("green"),), "n": ()}
        catalog.add([Product(id, id, images) for id, images in pictures.items()])
        bags = [entry("Red\n bag", results="ab"), entry("red  BAG", results="ab"), entry("red bag", results="ab")]
        others = {
            "without": entry("cup", {"text": "green", "weight": -0.75}, results="b"),
            "both": entry("red", {"image_sha256": "x", "weight": 1}, results="a"),
            "picture": entry({"image_sha256": "x", "weight": 1}, results="a"),
            "hashed": masked(entry("red", results="a"), "hashed"),
            "gone": entry("gone", results="z"),
            "bare": entry("bare", results="n"),
            "half": entry("\ud83d", results="a"),
            "wrong": entry("wrong", results="a"),
        }
        log.append(
            [*bags, *others.values()],
            [
                *(event(each, "click", "a") for each in bags),
                event(bags[0], "buy", "a", 61),
                event(bags[1], "cart", "b"),
                event(bags[2], "wrong", "b"),
                event(others["without"], "click", "b"),
                *(event(others[name], "buy", "a") for name in ("both", "picture", "hashed", "half")),
                event(others["gone"], "click", "z"),
                event(others["bare"], "click", "n"),
                event(others["wrong"], "wrong", "a"),
            ],
        )
        found = export_training(log, catalog, tmp_path / "clicks.csv")
        assert found == TrainingExport(pairs=2, products=2, clicks=4, wrong=1, missing=2)
        photos = {each.source: each.captions for each in read_dataset(tmp_path / "clicks.csv")}
        assert photos == {inline("red"): ("Red bag",), inline("green"): ("cup",)}
        assert export_training(log, catalog, tmp_path / "clicks.parquet", since=bags[1].time).clicks == 3
        rows = pq.read_table(tmp_path / "clicks.parquet").to_pylist()
        assert [(row["product"], row["clicks"]) for row in rows] == [("a", 2), ("b", 1)]
        with pytest.raises(UsageError, match="already exists"):
            export_training(log, catalog, tmp_path / "clicks.csv")
        nothing = export_training(log, catalog, tmp_path / "none.csv", since=NOON * 2)
        assert nothing == TrainingExport(0, 0, 0, 0, 0)


def search(catalog: Catalog, log: MatchLog, text: str, wanted: str) -> bool:
    """Look for a text, log it, and click on the product that was meant wherever it is; say whether the first five have it."""
    found = catalog.match(Query(text, top_k=36))
    shown = tuple({"id": match.product.id, "similarity": match.similarity, "score": match.score} for match in found)
    logged = entry(text, generation=found.generation)
    logged = LogEntry(logged.id, logged.time, query=logged.query, results=shown, total=found.total)
    log.append([logged], [event(logged, "click", wanted)])
    return wanted in [match.product.id for match in found[:5]]


@pytest.mark.extended
def test_a_shop_teaches_its_model_the_words_of_its_customers(tmp_path: Path) -> None:
    """Customers call colours and things by words of their own, which `mini` does not know."""
    words = [
        "votobi",
        "nolimi",
        "penege",
        "tapizu",
        "suzega",
        "sazimu",
        "cilipe",
        "nomuga",
        "tuzaco",
        "sapovi",
        "fisafu",
    ]
    words += ["fetetu", "macizu", "zocini", "sanivu", "funugo", "kelupo", "bidaro"]
    fields = [Field("color"), Field("kind")]
    config = Config(backend="torch")  # else the trained model is exported, which takes seconds
    with open_catalog(tmp_path / "shop.catalog", fields=fields, model="mini", config=config) as catalog:
        catalog.add_table(CATALOG)
        products = list(catalog.products())
        slang = dict(
            zip(dict.fromkeys(value for each in products for value in each.fields.values()), words, strict=False)
        )
        asked = {each.id: f"{slang[each.fields['color']]} {slang[each.fields['kind']]}" for each in products}
        with open_match_log(tmp_path / "shop.catalog") as log:
            before = sum(search(catalog, log, text, id) for id, text in asked.items())
            assert export_training(log, catalog, tmp_path / "clicks.jsonl").pairs == len(products) == 36
            assert summarize(log).clicked == list(Counter(asked.keys()).items())[:20]
            learning = TrainConfig(
                init="mini",
                epochs=5,
                batch_size=11,
                lr=5e-4,
                image_lr=0,
                ema=0,
                augment=False,
                device="cpu",
                tracking="none",
                loading=Config(files_under="/"),
            )
            losses = [row["loss"] for row in train(tmp_path / "clicks.jsonl", tmp_path / "model", learning).history]
            assert losses[-1] < 0.5 * losses[0]
        catalog.reindex(tmp_path / "model")
        catalog.switch()
        with open_match_log(":memory:") as log:
            after = sum(search(catalog, log, text, id) for id, text in asked.items())
    assert before <= 12
    assert after >= 27
