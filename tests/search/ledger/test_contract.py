"""What every ledger does, whatever database it is in."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.support.filters import FIELDS, LONG, random_filters, random_products
from text_image_similarity.errors import DatabaseError
from text_image_similarity.metrics import fit_calibration
from text_image_similarity.search.database import ModelIdentity
from text_image_similarity.search.fields import BUILT_IN, Value
from text_image_similarity.search.filters import Compare, Exists, Filter, matches, parse_filter
from text_image_similarity.search.ledger import (
    Database,
    Generations,
    Ledger,
    SqliteDatabase,
    Transaction,
    add_generation,
    sqlite,
)
from text_image_similarity.search.ledger.postgres import PostgresDatabase, make_catalog
from text_image_similarity.search.ledger.words import MOST_WORDS
from text_image_similarity.search.products import Entry, ImageOutcome, Product

Open = Callable[[], Ledger]
PROBES = np.eye(4, dtype=np.float32)
IDENTITY = ModelIdentity("model", None, PROBES)


def begin(transaction: Transaction) -> None:
    add_generation(transaction, IDENTITY, "live")


@pytest.fixture(params=["sqlite", "postgres"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Makes a ledger and opens it, as often as one likes, each time as another process would."""
    with ExitStack() as stack:
        if request.param == "sqlite":
            place = tmp_path / "catalog.sqlite"
            database: Database = SqliteDatabase(place, FIELDS)
            with database.write() as transaction:
                begin(transaction)
            database.close()
            connect: Callable[[], Database] = lambda: SqliteDatabase(place)  # noqa: E731
        else:
            url = request.getfixturevalue("postgres_url")
            make_catalog(url, FIELDS, begin)
            connect = lambda: PostgresDatabase(url)  # noqa: E731

        def open_ledger() -> Ledger:
            database = connect()
            stack.callback(database.close)
            return Ledger(database, FIELDS)

        yield open_ledger


@pytest.fixture
def ledger(opened: Open) -> Ledger:
    return opened()


def picture(*values: float) -> ImageOutcome:
    vector = np.array([*values, *[0.0] * (4 - len(values))], np.float32)
    return ImageOutcome(content=vector.tobytes(), vector=vector / np.linalg.norm(vector))


def entry(id: str, *pictures: ImageOutcome, name: str = "", description: str = "", **values: Any) -> Entry:
    images = tuple(f"{number}.jpg" for number in range(len(pictures)))
    stored = {"_id": id, **values}
    return Entry(
        Product(id, name, images, description, {}, None),
        tuple(stored.get(field.name) for field in (*BUILT_IN, *FIELDS)),
        {1: pictures},
    )


def add_random(ledger: Ledger, count: int) -> list[dict[str, Value | None]]:
    products = random_products(18, count)
    for product in products:
        product["_id"] = f"{product['_id']} '\"\0\1😀"
    ledger.add([entry(str(product["_id"]), **dict[str, Any](product)) for product in products])
    return products


def test_products_come_back_as_they_were(ledger: Ledger) -> None:
    awkward = "a\0b\1\"'%s ? {} 😀\n" + LONG
    given = Product(
        awkward[:900], awkward, (awkward, "b.jpg"), awkward, {"select": awkward, "price": 5e-324}, awkward[:9]
    )
    values: tuple[Value | None, ...] = (given.id, given.group, awkward, *(None for _ in FIELDS))
    assert ledger.add([Entry(given, values, {1: [picture(1), ImageOutcome(error=awkward)]})])
    found = ledger.get([given.id, "unknown"])
    assert list(found) == [given.id]
    assert found[given.id].product == given
    assert ledger.by_number([found[given.id].number, 99]) == {found[given.id].number: given}
    number = found[given.id].number
    first, second = ledger.image_outcomes(1, [number])[number]
    assert first.vector is not None
    assert first.vector.tobytes() == picture(1).vector.tobytes()  # type: ignore[union-attr]
    assert (second.vector, second.error) == (None, awkward)
    assert ledger.column("_error", [number]) == {number: awkward}


def test_ids_of_any_characters_are_told_apart(ledger: Ledger) -> None:
    random = "".join(
        map(chr, np.random.default_rng(0).integers(0x4E00, 0x9FFF, 1000))
    )  # longer than a page of an index takes
    ids = [random, random[:-1], "a", "A", "a ", "a\0", "a\1", "\0010", "\0", "😀" * 1000, "😀" * 999 + "😁", "é", "e"]
    ledger.add([entry(id, name=id) for id in ids])
    assert ledger.count(None) == len(ids)
    assert {id: found.product.name for id, found in ledger.get(ids).items()} == {id: id for id in ids}


def test_filters_agree_with_the_reference(ledger: Ledger) -> None:
    products = add_random(ledger, 60)
    numbers = [ledger.get([str(product["_id"])])[str(product["_id"])].number for product in products]
    for where in random_filters(18, 150):
        passing = [number for number, product in zip(numbers, products, strict=True) if matches(where, product)]
        assert ledger.passing(numbers, where) == passing, where
        assert (
            sorted(ledger.by_number(numbers, where)) == sorted(ledger.column("_id", numbers, where)) == passing
        ), where
        assert ledger.count(where) == len(passing)


def test_values_are_counted(ledger: Ledger) -> None:
    products = add_random(ledger, 80)
    where = Exists("price")
    for field in (*BUILT_IN, *FIELDS):
        expected: dict[Any, int] = {}
        for product in products:
            value = product[field.name] if matches(where, product) else None
            for each in value if isinstance(value, tuple) else () if value is None else (value,):
                expected[each] = expected.get(each, 0) + 1
        assert ledger.values(field.name, where) == expected


@pytest.mark.parametrize(
    "order", [None, ("price", True), ("price", False), ("sold", True), ("select", False), ("in_stock", True)]
)
@pytest.mark.parametrize("where", [None, Exists("category")])
def test_pages_put_together_are_one_list(ledger: Ledger, order: tuple[str, bool] | None, where: Filter | None) -> None:
    products = {product["_id"]: product for product in add_random(ledger, 50)}
    whole = ledger.browse(where, order, None, 100)
    ids = [found.product.id for found, _ in whole]
    assert sorted(ids) == sorted(str(id) for id, product in products.items() if matches(where, product))
    if order is not None:
        values = [products[id][order[0]] for id in ids]
        assert [value for _, value in whole] == values
        present: list[Any] = [value for value in values if value is not None]
        assert values == sorted(present, reverse=order[1]) + [None] * (len(values) - len(present))
    pages: list[str] = []
    after: tuple[Value | None, str] | None = None
    while page := ledger.browse(where, order, after, 7):
        pages += [found.product.id for found, _ in page]
        after = page[-1][1], page[-1][0].product.id
    assert pages == ids


def columns(ledger: Ledger, since: int, size: int = 8192) -> tuple[int, dict[str, list[float]], set[int]]:
    """Return what a store would know that follows: version, the first values of each product's vectors, deleted numbers."""
    version = since
    vectors: dict[str, list[float]] = {}
    gone: set[int] = set()
    for changes in ledger.changes(1, since, size):
        ids = dict(zip(changes.rows.tolist(), changes.columns["_id"], strict=True))
        for id in ids.values():
            vectors[str(id)] = []
        for owner, vector in zip(changes.owners.tolist(), changes.vectors, strict=True):
            vectors[str(ids[owner])].append(float(vector[0]))
        version, gone = changes.version, gone | set(changes.deleted.tolist())
    return version, vectors, gone


def test_changes_tell_a_follower_everything_once(ledger: Ledger) -> None:
    assert columns(ledger, 0) == (0, {}, set())
    ledger.add([entry("a", picture(1), picture(0, 1)), entry("b", picture(-1)), entry("c")])
    numbers = {id: found.number for id, found in ledger.get(["a", "b", "c"]).items()}
    first, vectors, gone = columns(ledger, 0)
    assert (vectors, gone) == ({"a": [1, 0], "b": [-1], "c": []}, set())
    assert columns(ledger, 0, size=1) == (first, vectors, gone)
    assert columns(ledger, first) == (first, {}, set())
    ledger.add([entry("b", picture(0, 1))])
    assert ledger.delete(["a", "unknown", "a"]) == 1
    second, vectors, gone = columns(ledger, first)
    assert (vectors, gone) == ({"b": [0]}, {numbers["a"]})
    assert ledger.delete(["a"]) == 0
    ledger.add([entry("a", picture(1))])
    assert ledger.get(["a"])["a"].number not in numbers.values()
    assert second > first
    assert columns(ledger, 0)[1] == {"a": [1], "b": [0], "c": []}


def test_what_was_deleted_long_ago_is_forgotten_and_followers_can_tell(ledger: Ledger) -> None:
    ledger.add([entry("a", picture(1)), entry("b", picture(-1)), entry("c", picture(-1))])
    first, number = ledger.version, ledger.get(["a"])["a"].number
    ledger.delete(["a"])
    ledger.prune()
    assert ledger.pruned == 0
    assert columns(ledger, first)[2] == {number}
    ledger.delete(["b"])
    ledger.prune()
    assert first < ledger.pruned < ledger.version
    assert len(columns(ledger, ledger.pruned)[2]) == 1
    assert columns(ledger, 0)[1] == {"c": [-1]}


def test_a_reading_during_which_something_is_forgotten_does_not_end(ledger: Ledger) -> None:
    ledger.add([entry("a", picture(1)), entry("b", picture(-1))])
    reading = ledger.changes(1, 0, 1)
    assert next(reading).version == 0
    ledger.delete(["a"])
    for _ in range(2):
        ledger.prune()
    assert [changes.version for changes in reading if changes.version] == []
    assert columns(ledger, 0)[1] == {"b": [-1]}


def test_optimizing_gives_back_space_while_others_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "a.sqlite"
    ledger, other = Ledger(SqliteDatabase(place, FIELDS), FIELDS), Ledger(SqliteDatabase(place), FIELDS)
    with closing(ledger.database), closing(other.database):
        with ledger.database.write() as transaction:
            begin(transaction)
        wide = ImageOutcome(b"", np.ones(512, np.float32))
        ledger.add([entry(f"{number:04}", wide) for number in range(1500)])
        ledger.delete(f"{number:04}" for number in range(1500) if number % 4)
        ledger.database.read("PRAGMA wal_checkpoint(TRUNCATE)")
        before, kept = place.stat().st_size, columns(ledger, 0)
        steps: list[bool] = []
        # Its pauses alone: threads that other tests have left, such as Spark's, sleep too.
        pauses = SimpleNamespace(
            monotonic=time.monotonic, sleep=lambda _: steps.append(other.add([entry(f"new {len(steps)}")]))
        )
        monkeypatch.setattr(sqlite, "time", pauses)
        monkeypatch.setattr(sqlite, "_ROWS", 500)
        ledger.database.optimize()
        assert len(steps) > 5
        assert all(steps)
        assert place.stat().st_size < before / 2
        found = columns(ledger, 0)
        assert {id: numbers for id, numbers in found[1].items() if not id.startswith("new")} == kept[1]
        assert ledger.database.read("PRAGMA integrity_check") == [("ok",)]


def test_the_first_reading_says_how_much_there_is(ledger: Ledger) -> None:
    ledger.add([entry("a", picture(1), picture(0, 1)), entry("b", picture(-1)), entry("c")])
    assert [changes.expected for changes in ledger.changes(1, 0, 2)] == [3, 3]
    version = ledger.version
    ledger.add([entry("d", picture(1))])
    assert [changes.expected for changes in ledger.changes(1, version)] == [0]


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system has no posix_fadvise")
def test_the_first_reading_fetches_the_file_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    advised: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _, start, size, __: advised.append((start, size)))
    ledger = Ledger(SqliteDatabase(tmp_path / "a.sqlite", FIELDS), FIELDS)
    with closing(ledger.database):
        with ledger.database.write() as transaction:
            begin(transaction)
        ledger.add([entry(str(number), picture(1), description="word " * 20_000) for number in range(20)])
        ledger.database.optimize()  # from the log into the file
        assert len(list(ledger.changes(1, 0))) == 1
        ends = [start + size for start, size in advised]
        assert [0, *ends[:-1]] == [start for start, _ in advised]
        assert len(ends) > 1
        assert ends[-1] >= (tmp_path / "a.sqlite").stat().st_size
        advised.clear()
        ledger.add([entry("b", picture(1))])
        assert len(list(ledger.changes(1, 1))) == 1
        assert not advised


def test_another_reader_sees_what_was_written(opened: Open) -> None:
    writer, reader = opened(), opened()
    for number in range(3):
        writer.add([entry(str(number), picture(1))])
        assert reader.count(None) == number + 1
        assert reader.version == writer.version
    writer.delete(["1"])
    assert list(reader.get(["0", "1", "2"])) == ["0", "2"]


def test_a_transaction_that_fails_leaves_nothing(ledger: Ledger) -> None:
    ledger.add([entry("a", name="before")])
    version = ledger.version
    with suppress(KeyError), ledger.database.write() as transaction:
        transaction.run("UPDATE product SET name = ? WHERE f0 = ?", ("after", "a"))
        raise KeyError
    with pytest.raises(DatabaseError):
        ledger.add([entry("b"), Entry(Product("c"), ("c",), {1: []})])
    assert ledger.get(["a", "b"])["a"].product.name == "before"
    assert (ledger.count(None), ledger.version) == (1, version)


def test_writers_take_turns(opened: Open) -> None:
    def write(ledger: Ledger) -> None:
        for number in range(10):
            ledger.add([entry(f"{number}", picture(1)), entry(f"{id(ledger)} {number}")])

    ledgers = [opened() for _ in range(3)]
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(write, [*ledgers, *ledgers]))
    assert ledgers[0].count(None) == 40
    assert ledgers[0].version == 60
    assert len(columns(ledgers[0], 0)[1]) == 40


def test_only_one_follows_at_a_time(opened: Open) -> None:
    one, other = opened(), opened()
    with one.database.exclusive("follow", wait=False) as ours:
        assert ours
        one.add([entry("a")])  # writing goes on
        with other.database.exclusive("follow", wait=False) as theirs:
            assert not theirs
    with other.database.exclusive("follow", wait=True) as theirs:
        assert theirs


def found(ledger: Ledger, text: str, where: Filter | None = None, most: int = 10) -> list[str]:
    numbers = ledger.find_words(text, where, most)
    products = ledger.by_number(numbers)
    return [products[number].id for number in numbers]


def test_words_are_found(ledger: Ledger) -> None:
    ledger.add(
        [
            entry("boots", name="Brown leather boots", description="for rain and snow", price=80.0),
            entry("bag", name="Brown bag", description="brown, of Brown leather", price=40.0),
            entry("café", name="Café crème", description=f"don't; DROP TABLE 'x' & !a | (b:*) {LONG} \0 \1", price=5.0),
            entry("lamp", name="Lamp"),
        ]
    )
    assert found(ledger, "boots") == ["boots"]
    assert found(ledger, "BOOTS snow") == ["boots"]
    assert set(found(ledger, "brown")) == {"boots", "bag"}
    assert found(ledger, "brown boots") == ["boots", "bag"]  # the rarer word counts more
    assert found(ledger, "brown boots", most=1) == ["boots"]
    assert found(ledger, "brown boots", parse_filter("price < 50", FIELDS)) == ["bag"]
    assert found(ledger, "cafe") == found(ledger, "CREME") == found(ledger, "café") == ["café"]
    assert found(ledger, "don't 'x' OR \" | & ! : * ( \0 \\ %s ?") == ["café"]
    for nothing in ("", "?!", "unknown", " \0 "):
        assert found(ledger, nothing) == []
    ledger.add([entry("boots", name="Sandals")])
    ledger.delete(["bag"])
    assert found(ledger, "brown boots leather") == []
    assert found(ledger, "sandals") == ["boots"]


def test_rare_words_count_more(ledger: Ledger) -> None:
    ledger.add([entry(id, name="brown mug") for id in "abcd"] + [entry("z", name="green mug")])
    assert found(ledger, "brown green") == ["z", *"abcd"]


def test_long_texts_are_kept_and_found(ledger: Ledger) -> None:
    words = " ".join(f"w{number}é" for number in range(15_000))
    ledger.add([entry("long", name="Long", description=words[:100_000])])
    ledger.add([entry("same", description="boots " * 16_000)])
    assert found(ledger, "W12E") == ["long"]
    assert found(ledger, "boots") == ["same"]
    assert ledger.get(["long"])["long"].product.description == words[:100_000]


def test_generations(ledger: Ledger) -> None:
    ledger.add([entry("a", picture(1)), entry("b")])
    generations = Generations(ledger.database)
    assert generations.live().identity.same_as(IDENTITY)
    new = generations.add(ModelIdentity("other", "r1", -PROBES), "building")
    with pytest.raises(DatabaseError, match=f"generation {new.number} is being built or is ready"):
        generations.add(IDENTITY, "building")
    assert [each.product.id for each in ledger.pending(new.number, 0, 10)] == ["a"]
    number = ledger.get(["a"])["a"].number
    ledger.put_image_outcomes(new.number, {number: (["0.jpg"], [picture(0, 1)]), 99: (["0.jpg"], [picture(1)])})
    assert ledger.pending(new.number, 0, 10) == []
    assert ledger.known(new.number, picture(0, 1).content or b"") is not None
    assert ledger.known(1, picture(0, 1).content or b"") is None
    generations.set_ready(new.number)
    generations.switch(new.number)
    assert [(each.identity.model, each.state) for each in generations.all()] == [("model", "kept"), ("other", "live")]
    curve = fit_calibration(np.array([0.6, 0.8]), np.array([0.1, 0.3]), model="other")
    calibration = json.dumps({"text": {"curve": asdict(curve), "prevalence": 0.5}})
    generations.calibrate(new.number, calibration)
    assert generations.live().calibration == calibration
    with pytest.raises(DatabaseError, match="is live"):
        generations.drop([new.number])
    generations.drop([1])
    assert ledger.image_outcomes(1, [number]) == {}


def test_optimize_keeps_everything(ledger: Ledger) -> None:
    add_random(ledger, 20)
    before = columns(ledger, 0)
    ledger.database.optimize()
    assert columns(ledger, 0) == before
    assert ledger.count(Compare("_id", "eq", "unknown")) == 0


def test_a_query_has_64_distinct_words(ledger: Ledger) -> None:
    ledger.add([entry("boots", name="Brown leather boots"), entry("café", name="Café")])
    others = [f"unknown{number}" for number in range(MOST_WORDS)]
    again = " ".join(word.upper() for word in others[:-1])
    for words, expected in (
        ([*others[:-1], "boots"], ["boots"]),
        ([*others, "boots"], []),
        ([*others[:-1], again, "CAFÉ"], ["café"]),
        ([*others[:-2], "cafe\u0301 CAFE Café", "boots"], ["boots", "café"]),
        ([f"{others[0]}_{others[1]}", *others[2:], "boots"], []),
    ):
        assert sorted(found(ledger, " ".join(words))) == expected
