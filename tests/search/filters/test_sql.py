"""Filters in SQL select what the reference says."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.filters import FIELDS, TEXTS, largest_filters, random_filters, random_products
from text_image_similarity.search.fields import Value
from text_image_similarity.search.filters import And, Compare, Exists, Not, OneOf, matches, parse_filter
from text_image_similarity.search.filters.sql import column_names, compile_sql, with_nul, without_nul
from text_image_similarity.search.filters.sqlite import SqliteWriter, sqlite_value

# More of them: FILTERS=10000 python -m pytest tests/search/filters/test_sql.py
FILTER_COUNT = int(os.environ.get("FILTERS", "1500"))
Products = Sequence[dict[str, Value | None]]


@pytest.fixture(scope="module")
def products() -> Products:
    return random_products(18, 400)


@pytest.fixture(scope="module")
def database(products: Products) -> Iterator[sqlite3.Connection]:
    names = column_names(FIELDS)
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(f"CREATE TABLE product (row INTEGER PRIMARY KEY, {', '.join(names.values())})")
        rows = [[sqlite_value(product[name]) for name in names] for product in products]
        marks = ", ".join("?" * len(names))
        connection.executemany(f"INSERT INTO product ({', '.join(names.values())}) VALUES ({marks})", rows)
        yield connection


def test_many_filters_agree_with_the_reference(database: sqlite3.Connection, products: Products) -> None:
    block, outcomes = 40, set()
    for number, where in enumerate(random_filters(18, FILTER_COUNT)):
        first = number * block % len(products)
        writer = SqliteWriter(FIELDS, "product")
        statement = f"SELECT row FROM product WHERE row > ? AND row <= ? AND {compile_sql(where, writer)} ORDER BY row"
        found = [row for (row,) in database.execute(statement, (first, first + block, *writer.parameters))]
        among = enumerate(products[first : first + block], first + 1)
        assert found == [row for row, product in among if matches(where, product)], where
        outcomes.add(len(found))
    assert outcomes == set(range(block + 1))


def test_leaves_under_not_are_never_null(database: sqlite3.Connection) -> None:
    for where in (
        *(Compare("price", "ne", 1.0), Compare("tags", "ne", "red"), Compare("price", "gt", 1.0), Exists("price")),
        *(OneOf("price", (1.0,), negated=True), OneOf("tags", ("a",), negated=True), OneOf("price", ())),
    ):
        writer = SqliteWriter(FIELDS)
        sql = compile_sql(Not(And((where,))), writer)
        assert database.execute(
            f"SELECT count(*) FROM product WHERE ({sql}) IS NULL", writer.parameters
        ).fetchone() == (0,)


def test_the_largest_filter_runs(database: sqlite3.Connection, products: Products) -> None:
    for where in largest_filters():
        writer = SqliteWriter(FIELDS)
        rows = database.execute(f"SELECT row FROM product WHERE {compile_sql(where, writer)}", writer.parameters)
        assert len(rows.fetchall()) == sum(matches(where, product) for product in products)


def test_names_and_values_stay_out_of_the_statement() -> None:
    writer = SqliteWriter(FIELDS)
    where = parse_filter({"select": "' OR 1=1 --", FIELDS[2].name: "x", "tags": ['"]']}, FIELDS)
    assert compile_sql(where, writer) == (
        "((f4 = ?) AND (f5 = ?) AND " "(f10 IS NOT NULL AND EXISTS (SELECT 1 FROM json_each(f10) WHERE value IN (?))))"
    )
    assert writer.parameters == ["' OR 1=1 --", "x", '"]']


AWKWARD = st.lists(st.sampled_from([*TEXTS, "\0", "\1", "\2", "\0\1"]), max_size=6).map("".join)


@given(AWKWARD, AWKWARD)
def test_nul_is_written_reversibly_and_in_order(text: str, other: str) -> None:
    assert "\0" not in without_nul(text)
    assert with_nul(without_nul(text)) == text
    assert (without_nul(text) < without_nul(other)) == (text < other)
