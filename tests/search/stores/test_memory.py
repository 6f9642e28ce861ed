"""The store in memory: what a search works on stays as it was, while more is added."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.images import inline
from tests.support.shop import shop
from tests.support.stores import ALL_FIELDS, WIDTH, Shop, Shown, unit_vectors
from text_image_similarity import Product, Query
from text_image_similarity.search.counting import count_passing
from text_image_similarity.search.fields import Field, FieldKind, Scalar, Value
from text_image_similarity.search.filters import And, Compare, Exists, OneOf
from text_image_similarity.search.stores import Changes, MemoryStore, memory
from text_image_similarity.search.stores.columns import Growing, TextColumn, TextsColumn, make_column
from text_image_similarity.search.time_limit import time_limit


def test_what_was_read_of_an_array_stays_as_it_was() -> None:
    growing = Growing(np.empty((0, 2), np.float32))
    seen, right = [], []
    for number in range(200):
        growing.extend(np.full((3, 2), number, np.float32))
        seen.append(growing.filled)
        right.append(np.repeat(np.arange(number + 1), 3))
    for before, after in zip(seen, right, strict=True):
        assert before.shape == (len(after), 2)
        assert np.array_equal(before[:, 0], after)


def test_an_array_with_room_for_all_is_never_copied() -> None:
    growing = Growing(np.empty((0, 2), np.float32))
    growing.reserve(600)
    first = growing.filled
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    for _ in range(200):
        growing.extend(rows, np.array([2, 0, 1]))
    assert np.array_equal(growing.filled, np.tile(rows[[2, 0, 1]], (200, 1)))
    assert growing.filled.base is first.base


@pytest.mark.parametrize(
    ("kind", "value", "wanted"),
    [
        ("text", "red", "red"),
        ("number", 7.0, 7.0),
        ("bool", True, True),
        ("date", 7.0, 7.0),
        ("texts", ("red", "blue"), "red"),
    ],
)
def test_a_column_answers_for_the_rows_that_were_there(kind: FieldKind, value: Value, wanted: Scalar) -> None:
    column = make_column(kind)
    column.extend([value, None], np.array([0, 1]))
    column.extend([value], np.array([0, 0]))
    assert column.compare("eq", wanted, 2).tolist() == [True, False]
    assert column.present(2).tolist() == [True, False]
    assert column.compare("eq", wanted, 4).tolist() == [True, False, True, True]
    assert column.among([wanted], 2).tolist() == [True, False]
    assert column.among([wanted, *([] if kind == "bool" else [8.0])], 4).tolist() == [True, False, True, True]
    assert not column.among([], 4).any()
    assert column.counts(np.array([0, 1]))[wanted] == 1


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("text", ["red", "blue", None, "green", "blue"]),
        ("texts", [("red",), ("blue", "red"), None, ("green",), ("blue",)]),
    ],
)
def test_texts_that_nothing_has_any_more_are_forgotten(kind: FieldKind, values: list[Value | None]) -> None:
    column = make_column(kind)
    column.extend(values, np.arange(5))
    kept = column.only(np.array([2, 3, 4]))
    assert isinstance(kept, TextColumn | TextsColumn)
    assert set(kept._known) == {"blue", "green"}
    assert kept.present(3).tolist() == [False, True, True]
    assert kept.compare("eq", "green", 3).tolist() == [False, True, False]
    assert kept.compare("eq", "red", 3).tolist() == [False, False, False]
    assert kept.counts(np.arange(3)) == {"blue": 1, "green": 1}
    kept.extend([values[0]], np.array([0]))
    assert kept.compare("eq", "red", 4).tolist() == [False, False, False, True]


def numbered(numbers: range) -> dict[int, Shown]:
    return {number: Shown({"_id": str(number)}, unit_vectors(number, 1)) for number in numbers}


@pytest.mark.parametrize("place", ["_extend", "_compact", "_show"])
def test_an_interrupted_change_is_read_again(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: MemoryStore, *given: object) -> None:
        original(self, *given)
        raise KeyboardInterrupt

    store, shop, original = MemoryStore(ALL_FIELDS, WIDTH), Shop(), getattr(MemoryStore, place)
    store.apply(shop.change(numbered(range(1, 9))))
    changes = shop.change(numbered(range(9, 11)), deleted=range(1, 8))
    monkeypatch.setattr(MemoryStore, place, interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.apply(changes)
    monkeypatch.undo()
    assert store.version == 0
    # What was interrupted may be there or not, but each vector has its own product's values.
    assert store.count(None) == len(store.search(unit_vectors(9, 1), None, 100)[0].rows) in (3, 8)
    all_of_it = shop.change(numbered(range(8, 11)))
    store.apply(part(all_of_it))
    assert store.count(None) in (3, 8), "a part of what is read again is not shown"
    store.apply(all_of_it)
    assert store.version == shop.version
    for number in range(1, 11):
        (found,) = store.search(unit_vectors(number, 1), Compare("_id", "eq", str(number)), 5)
        assert found.rows.tolist() == [number] * (number >= 8)
        assert found.cosines.tolist() == pytest.approx([1.0] * (number >= 8))


def part(changes: Changes) -> Changes:
    """Return the first product of changes that are read from the begin."""
    return Changes(
        0,
        changes.rows[:1],
        {name: values[:1] for name, values in changes.columns.items()},
        changes.owners[:1],
        changes.slots[:1],
        changes.vectors[:1],
        changes.deleted[:0],
    )


@pytest.mark.parametrize("queries", [1, 2, 5, 9, 40])
def test_many_queries_find_what_each_finds_alone(queries: int) -> None:
    rng = np.random.default_rng(queries)
    vectors = rng.standard_normal((queries + 700, 24)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    asked, kept = vectors[:queries], vectors[queries:]
    numbers = np.arange(len(kept))
    store = MemoryStore((Field("kind"),), 24)
    columns: dict[str, list[Value | None]] = {"kind": [f"{number % 3}" for number in numbers]}
    zeros = np.zeros(len(kept), np.int64)
    store.apply(Changes(1, numbers, columns, numbers, zeros, kept, np.empty(0, np.int64)))
    for where in (None, Compare("kind", "eq", "1"), Compare("kind", "ne", "1")):
        together = store.search(asked, where, 9)
        for place, hits in enumerate(together):
            (alone,) = store.search(asked[place : place + 1], where, 9)
            assert hits.rows.tolist() == alone.rows.tolist()
            assert hits.cosines.tolist() == alone.cosines.tolist()


def test_a_filter_is_checked_once_for_a_search_its_total_and_its_facets(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(where: Any, columns: Any, size: int) -> Any:
        checked.append(where)
        return mask(where, columns, size)

    mask, checked = memory._mask, list[Any]()
    with shop() as catalog:
        catalog.add(Product(f"p{n}", images=inline("red"), fields={"kind": "ab"[n % 2], "price": n}) for n in range(9))
        monkeypatch.setattr(memory, "_mask", count)
        query = Query("red", where='kind in ("a", "c") and price < 7', facets=["kind", "price"] * 16)
        found = catalog.match(query)
        assert (len(found), found.total, found.facets["kind"]) == (4, 4, {"a": 4})
        assert len(checked) == 3  # the whole and its parts
        catalog.add([Product("p10", images=inline("red"), fields={"kind": "a", "price": 3})])
        assert catalog.match(query).total == 5
        for number in range(100):
            catalog.match(Query("red", where=f"price < {number}"))
        assert len(catalog._session.opened(catalog._session.generations.live())._state.masks) <= 16  # type: ignore[attr-defined]


def test_a_query_in_memory_ends_when_its_time_is_up() -> None:
    with shop() as catalog:
        catalog.add(Product(f"p{n}", images=inline("red"), fields={"kind": "a"}) for n in range(9))
        session = catalog._session
        store = session.store(session.generations.live())
        vectors = np.eye(1, session.generations.live().identity.embed_dim, dtype=np.float32)
        where = And((Compare("kind", "eq", "a"), OneOf("kind", ("a", "b")), Exists("price", wanted=False)))
        for ask in (
            lambda: store.count(where),
            lambda: store.values("kind", Exists("kind")),
            lambda: store.search(vectors, None, 3),
            lambda: count_passing(store, Query(facets=["kind"]), None),
        ):
            with time_limit(-1), pytest.raises(TimeoutError, match="took too long"):
                ask()
            ask()
