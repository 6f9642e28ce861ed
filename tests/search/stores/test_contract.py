"""What every vector store does, told apart by nothing but its name."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from threading import Event

import numpy as np
import pytest

from tests.support.filters import LONG, NUMBERS, TEXTS, random_filters, random_products
from tests.support.paths import ROOT
from tests.support.stores import (
    ALL_FIELDS,
    KEPT,
    SHARED,
    STORES,
    WIDTH,
    Shop,
    Shown,
    changes_of,
    fill_with_clusters,
    recalls,
    unit_vectors,
)
from text_image_similarity.search.fields import Value
from text_image_similarity.search.filters import Compare, Exists, Filter, Not, OneOf
from text_image_similarity.search.stores import Store
from text_image_similarity.similarity import cosine

# What the local mode of qdrant-client says of itself, and no server.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact"),
]
QUERIES = unit_vectors(7, 6)
# More of them: FILTERS=10000 python -m pytest tests/search/stores/test_contract.py
FILTER_COUNT = int(os.environ.get("FILTERS", "200"))


def open_store(kind: str, folder: Path) -> Store:
    return STORES[kind](folder, ALL_FIELDS, WIDTH)


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    found = open_store(request.param, tmp_path)
    yield found
    found.drop()


@pytest.fixture(scope="module", params=STORES)
def full(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Shop]]:
    """A store with 60 products or so with awkward values, changed several times, and what should be in it."""
    found, shop = open_store(request.param, tmp_path_factory.mktemp("full")), Shop()
    found.apply(shop.change(some_products(18, range(80))))
    found.apply(shop.change(some_products(19, range(42, 80, 3)), deleted=range(1, 60, 3)))
    yield found, shop
    found.drop()


def some_products(seed: int, numbers: range) -> dict[int, Shown]:
    """Return products with awkward values and 0 to 3 pictures."""
    random = Random(seed)
    vectors = iter(unit_vectors(seed, 3 * len(numbers)).reshape(-1, 3, WIDTH))
    values = random_products(seed, numbers.stop)
    return {number: Shown(values[number], next(vectors)[: random.choice((0, 1, 1, 1, 2, 3))]) for number in numbers}


def product(values: dict[str, Value | None] | None = None, seed: int = 0, pictures: int = 1) -> Shown:
    return Shown(values or {}, unit_vectors(seed, pictures))


def check(store: Store, shop: Shop, where: Filter | None = None) -> None:
    """Compare everything that can be asked of a store with what is right."""
    for limit in (1, 3, None):
        for query, hits in zip(QUERIES, store.search(QUERIES, where, limit, exact=True), strict=True):
            shop.check(hits, query, where, limit)
    assert store.count(where) == shop.count(where)
    for field in ALL_FIELDS:
        assert store.values(field.name, where) == shop.values(field.name, where), field
    assert store.version == shop.version


def test_a_new_store_is_empty(store: Store) -> None:
    check(store, Shop())
    assert store.search(QUERIES[:0], None, 3) == []
    store.optimize()
    check(store, Shop())


def test_products_are_added_replaced_and_deleted(store: Store) -> None:
    shop = Shop()
    store.apply(shop.change({1: product({"category": "red"}), 2: product({"category": "red"}, 2, 3)}))
    check(store, shop)
    # More and fewer pictures than before, another value, a picture less than none, and one that was never there.
    store.apply(shop.change({1: product({"category": "blue"}, 3, 2), 2: product(seed=4), 5: product(pictures=0)}))
    check(store, shop)
    store.apply(shop.change({7: product(seed=7), 2: product(pictures=0)}, deleted=[1, 99]))
    check(store, shop)
    assert store.count(None) == 1
    store.apply(shop.change({}, deleted=[7]))
    check(store, shop)
    store.apply(shop.change({1: product(seed=9)}))
    check(store, shop)


def test_changes_may_come_again_in_whole_or_in_part(store: Store) -> None:
    shop = Shop()
    first = shop.change({number: product({"price": float(number)}, number, 2) for number in range(10)})
    again = {number: product({"price": -1.0}, 20 + number) for number in range(5, 12)}
    store.apply(first)
    store.apply(changes_of(dict(list(again.items())[:3]), [0], first.version))  # what a crash has left of the next ones
    second = shop.change(again, deleted=[0, 1])
    for _ in range(3):
        store.apply(second)
        check(store, shop)


@pytest.mark.parametrize("kind", [kind for kind in STORES if kind != "qdrant"])  # whose local mode takes minutes
def test_a_large_change_is_applied_whole(kind: str, tmp_path: Path) -> None:
    store, shop, vectors = open_store(kind, tmp_path), Shop(), unit_vectors(3, 9000)
    shown = {number: Shown({"price": float(number % 7)}, vectors[number : number + 1]) for number in range(9000)}
    store.apply(shop.change(shown))
    store.apply(shop.change({number: Shown({"price": 9.0}, vectors[:1]) for number in range(8500)}))
    store.apply(shop.change({}, deleted=range(100, 8900)))
    assert store.values("price", None) == shop.values("price", None)
    assert store.count(None) == 200
    store.drop()


@pytest.mark.slow
def test_filters_agree_with_the_reference(full: tuple[Store, Shop]) -> None:
    agree(*full, random_filters(18, FILTER_COUNT))


def agree(store: Store, shop: Shop, wheres: list[Filter]) -> None:
    outcomes = set()
    for number, where in enumerate(wheres):
        query = QUERIES[number % len(QUERIES)]
        limit = None if number % 2 else 7
        shop.check(store.search(query[None, :], where, limit, exact=True)[0], query, where, limit)
        if number % 4 == 0:
            outcomes.add(found := store.count(where))
            assert found == shop.count(where), where
    assert len(outcomes) > 20


def test_facets_count_products_under_filters(full: tuple[Store, Shop]) -> None:
    store, shop = full
    for where in (None, *random_filters(2, 8)):
        check(store, shop, where)


@pytest.mark.parametrize("text", TEXTS)
def test_awkward_texts_are_found_as_they_are(full: tuple[Store, Shop], text: str) -> None:
    store, shop = full
    for name in ("select", "tags", "_group"):
        check_one(store, shop, Compare(name, "eq", text))
        check_one(store, shop, Not(OneOf(name, (text, "\0\0"))))


@pytest.mark.parametrize("number", NUMBERS)
def test_awkward_numbers_are_compared_exactly(full: tuple[Store, Shop], number: float) -> None:
    store, shop = full
    check_one(store, shop, Compare("price", "eq", number))
    check_one(store, shop, Compare("price", "gt", number))
    check_one(store, shop, Compare("and", "lte", number))
    check_one(store, shop, OneOf("and", (number, -0.0), negated=True))


def check_one(store: Store, shop: Shop, where: Filter) -> None:
    shop.check(store.search(QUERIES[:1], where, None)[0], QUERIES[0], where, None)
    assert store.count(where) == shop.count(where)


def test_ids_of_any_text_come_back_whole(store: Store) -> None:
    shop, ids = Shop(), [*TEXTS, "x" * 9_999 + "😀", "0", "00", " 0"]
    store.apply(shop.change({number: product({"_id": id, "tags": (id, "y")}, number) for number, id in enumerate(ids)}))
    assert store.values("_id", None) == dict.fromkeys(ids, 1)
    assert store.values("tags", None) == {**dict.fromkeys(ids, 1), "y": len(ids)}
    for number, id in enumerate(ids):
        (hits,) = store.search(QUERIES[:1], Compare("_id", "eq", id), 5, exact=True)
        assert hits.rows.tolist() == [number]
    assert store.count(OneOf("_id", tuple(ids))) == len(ids)
    assert LONG in ids


def test_the_lowest_cosine_that_counts(full: tuple[Store, Shop]) -> None:
    store, shop = full
    for query in QUERIES:
        middle = float(store.search(query[None, :], None, 12, exact=True)[0].cosines[-1])
        for least in (middle, float(np.nextafter(np.float32(middle), np.float32(2))), 0.0, 1.0):
            for limit in (None, 5, 12, 1000):
                (hits,) = store.search(query[None, :], Exists("price"), limit, least=least, exact=True)
                shop.check(hits, query, Exists("price"), limit, least)


def test_queries_together_are_answered_as_alone(full: tuple[Store, Shop]) -> None:
    store, _ = full
    queries = unit_vectors(11, 40)
    for exact in (True, False):
        for query, together in zip(queries, store.search(queries, Exists("category"), 6, exact=exact), strict=True):
            (alone,) = store.search(query[None, :], Exists("category"), 6, exact=exact)
            for name in ("rows", "slots", "cosines"):
                assert np.array_equal(getattr(alone, name), getattr(together, name))


def test_equal_pictures_have_equal_cosines_and_all_tie_for_the_last_place(store: Store) -> None:
    shop, same = Shop(), unit_vectors(0, 1)
    shown = {number: Shown({}, same if number % 2 else unit_vectors(number, 1)) for number in range(1, 14)}
    store.apply(shop.change(shown))
    for limit in (1, 2, 7):
        (hits,) = store.search(same, None, limit, exact=True)
        assert sorted(hits.rows.tolist()) == list(range(1, 14, 2))
        assert len(set(hits.cosines.tolist())) == 1
        shop.check(hits, same[0], None, limit)


def test_cosines_are_those_of_the_library_to_the_last_bit(store: Store) -> None:
    vectors = unit_vectors(5, 100)
    vectors[0] = 0
    vectors[0, 3] = 1.0
    vectors[1, :2] = np.float32(1e-30), np.float32(5e-39)  # the second one is denormal
    store.apply(Shop().change({number: Shown({}, vectors[number : number + 1]) for number in range(len(vectors))}))
    for exact in (True, False):
        for query, hits in zip(QUERIES, store.search(QUERIES, None, 100, exact=exact), strict=True):
            assert sorted(hits.rows.tolist()) == list(range(100))
            assert np.array_equal(hits.cosines, cosine(query[None, :], vectors[hits.rows]))


def test_nothing_that_is_not_a_number_is_found(store: Store) -> None:
    shop = Shop()
    opposite = Shown({}, -QUERIES[:1])
    store.apply(shop.change({1: opposite, 2: Shown({}, np.eye(1, WIDTH, dtype=np.float32))}))
    for limit in (1, 2, 5, None):
        (hits,) = store.search(QUERIES[:1], None, limit, exact=True)
        shop.check(hits, QUERIES[0], None, limit)
        assert np.isfinite(hits.cosines).all()


def test_optimizing_changes_no_answer(store: Store) -> None:
    shop = Shop()
    for start in range(0, 60, 20):
        store.apply(shop.change(some_products(start, range(start, start + 20)), deleted=range(start - 5, start)))
    store.optimize()
    check(store, shop)
    store.apply(shop.change({3: product(seed=3)}, deleted=[4]))
    check(store, shop)
    store.optimize()
    check(store, shop, Exists("price"))


def test_searches_that_need_not_be_exact_find_nearly_all(store: Store) -> None:
    fill_with_clusters(store, 400)
    for share in (1.0, 0.1, 0.03):
        assert np.mean(recalls(store, share)) >= 0.99


def test_many_small_changes(store: Store) -> None:
    shop = Shop()
    for number in range(30):
        store.apply(shop.change({number % 12: product({"price": float(number)}, number)}))
    check(store, shop)


@pytest.mark.parametrize("kind", KEPT)
def test_what_was_applied_is_there_when_opened_again(kind: str, tmp_path: Path) -> None:
    shop = Shop()
    for seed in range(3):
        store = open_store(kind, tmp_path)
        store.apply(shop.change(some_products(seed, range(10 * seed, 10 * seed + 15)), deleted=[10 * seed - 1]))
        store.optimize()
        store.close()
    store = open_store(kind, tmp_path)
    check(store, shop)
    store.drop()
    store = open_store(kind, tmp_path)
    check(store, Shop())
    store.apply(Shop().change({1: product()}))
    assert store.count(None) == 1
    store.drop()


READER = """
import sys
from pathlib import Path
from tests.support.stores import ALL_FIELDS, STORES, WIDTH, unit_vectors
QUERIES = unit_vectors(7, 6)
store = STORES[sys.argv[1]](Path(sys.argv[2]), ALL_FIELDS, WIDTH)
for _ in sys.stdin:
    rows = sorted(store.search(QUERIES[:1], None, None)[0].rows.tolist())
    assert rows == sorted(store.search(QUERIES[:1], None, 100)[0].rows.tolist())
    print(store.version, store.count(None), *rows, flush=True)
"""


@pytest.mark.parametrize("kind", SHARED)
def test_another_process_sees_at_once_what_is_written(kind: str, tmp_path: Path) -> None:
    store, shop = open_store(kind, tmp_path), Shop()
    command = [sys.executable, "-c", READER, kind, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        for number in range(8):
            gone = [number - 3] if number >= 3 else []
            store.apply(shop.change({number: product(seed=number)}, deleted=gone))
            if number == 5:
                store.optimize()
            print(file=reader.stdin, flush=True)
            found = [int(word) for word in reader.stdout.readline().split()]
            assert found == [shop.version, len(shop.products), *sorted(shop.products)]
        reader.stdin.close()
    assert reader.returncode == 0
    store.drop()


def test_readers_never_miss_a_product_that_is_being_replaced(store: Store) -> None:
    numbers, shop, done = range(12), Shop(), Event()
    vectors = unit_vectors(1, 9 * len(numbers)).reshape(9, len(numbers), WIDTH)
    possible = {float(value) for each in vectors for value in cosine(QUERIES[:1], each)}

    def read() -> int:
        reads = 0
        while not done.is_set() or not reads:
            (hits,) = store.search(QUERIES[:1], None, None)
            assert set(hits.rows.tolist()) == set(numbers)
            assert possible >= set(hits.cosines.tolist())
            assert store.count(None) == len(numbers)
            reads += 1
        return reads

    store.apply(shop.change({number: Shown({}, vectors[0, number][None]) for number in numbers}))
    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        try:
            for generation in vectors[1:]:
                store.apply(shop.change({number: Shown({}, generation[number][None]) for number in numbers}))
            store.optimize()
        finally:
            done.set()
        assert all(reader.result() for reader in readers)
    check(store, shop)
