"""Queries: terms and their weights, filters, totals, facets, pages, groups, orders, and the reasons that add up."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from threading import Event
from typing import Any

import numpy as np
import pytest

from tests.support.images import inline, make_png
from tests.support.shop import all_pages, ids, product, shop
from text_image_similarity import Catalog, InputTypeError, Product, Query, RowError, Term, UsageError
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.search import listing, rank_fusion
from text_image_similarity.search.cursor import digest_of
from text_image_similarity.search.fields import BUILT_IN, Value
from text_image_similarity.search.filters import matches
from text_image_similarity.search.ledger import Ledger
from text_image_similarity.search.products import stored_values
from text_image_similarity.search.time_limit import time_limit


def thing(number: int, draw: random.Random) -> Product:
    """Return one of 90 products: three kinds, prices 0 to 29, groups of three, some without a picture."""
    return Product(
        f"p{number:02}",
        draw.choice(["big", "small"]) + " thing",
        [] if number % 15 == 0 else inline(tuple(draw.randrange(256) for _ in range(3))),
        fields={
            "kind": ["bag", "shoe", None][number % 3],
            "price": number % 30,
            "tags": draw.sample(["a", "b", "c"], draw.randrange(4)),
        },
        group=None if number % 10 == 0 else f"g{number // 3}",
    )


@pytest.fixture(scope="module")
def colours() -> Iterator[Catalog]:
    with shop() as catalog:
        catalog.add(thing(number, random.Random(number)) for number in range(90))
        yield catalog


QUERIES = [
    Query("red"),
    Query("red", where="price < 20"),
    Query("red", group=True),
    Query("red", min_similarity=0.5),
    Query("red", min_similarity=0.5, group=True),
    Query("red", sort="price"),
    Query("red", sort="-price", where={"kind": "bag"}),
    Query("red", sort="-price", min_similarity=0.4),
    Query("red", sort="kind", min_similarity=0.4, group=True),
    Query(sort="price", group=True),
    Query(),
    Query("big red", fusion="rrf"),
    Query("big red", fusion="rrf", group=True),
    Query([Term("red"), Term("blue", weight=-0.5)]),
]


@pytest.mark.parametrize("query", QUERIES, ids=range(len(QUERIES)))
def test_pages_together_are_one_long_answer_and_counts_do_not_depend_on_them(colours: Catalog, query: Query) -> None:
    whole = colours.match(replace(query, top_k=100, facets=["kind", "tags"]))
    assert whole.next is None
    assert len(whole) == whole.total > 10
    assert [match.rank for match in whole] == list(range(1, len(whole) + 1))
    assert all_pages(colours, replace(query, top_k=7)) == ids(whole)
    page = colours.match(replace(query, top_k=3, facets=["kind", "tags"]))
    assert (page.total, page.facets) == (whole.total, whole.facets)
    second = colours.match(replace(query, top_k=3, facets=["kind", "tags"], after=page.next))
    assert (second.total, second.facets) == (whole.total, whole.facets)
    assert [match.rank for match in second] == [4, 5, 6]


# The fusion of ranks is tested by itself.
PLAIN = [query for query in QUERIES if query.fusion != "rrf"]


@pytest.mark.parametrize("query", PLAIN, ids=range(len(PLAIN)))
def test_answers_are_what_a_plain_loop_finds(colours: Catalog, query: Query) -> None:
    whole = colours.match(replace(query, top_k=100, facets=["kind"]))
    wanted = _plainly(colours, query)
    assert ids(whole) == wanted
    if not query.group:
        kinds = [product.fields.get("kind") for product in map(colours.get, wanted) if product is not None]
        assert whole.facets["kind"] == {kind: kinds.count(kind) for kind in {*kinds} - {None}}


def _plainly(catalog: Catalog, query: Query) -> list[str]:
    """Answer a query in the plainest way."""
    encoder = ColourEncoder()
    products = list(catalog.products(query.where))
    if query.parts:
        fused = sum(term.weight * encoder.encode_text([term.text or ""])[0] for term in query.parts)
        score = {}
        for each in products:
            found = [match.similarity for match in catalog.match(Query(Term(vector=fused), where={"_id": each.id}))]
            score[each.id] = found[0] if found else None
        if query.sort is None or query.min_similarity is not None:
            least = -1 if query.min_similarity is None else query.min_similarity
            products = [each for each in products if (similarity := score[each.id]) is not None and similarity >= least]
        if query.sort is None:
            products.sort(key=lambda each: (-(score[each.id] or 0), each.id))
    if query.sort is not None:
        name, down = query.sort.removeprefix("-"), query.sort.startswith("-")
        present = [each for each in products if each.fields.get(name) is not None]
        present.sort(key=lambda each: each.fields[name], reverse=down)
        groups = {
            each.fields[name]: [p for p in products if p.fields.get(name) == each.fields[name]] for each in present
        }
        products = [p for group in groups.values() for p in sorted(group, key=lambda p: p.id)] + [
            each for each in products if each.fields.get(name) is None
        ]
    seen: set[str] = set()
    if query.group:
        products = [each for each in products if each.group is None or not (each.group in seen or seen.add(each.group))]  # type: ignore[func-returns-value]
    return [each.id for each in products]


def test_pages_hold_while_others_write() -> None:
    with shop() as catalog:
        catalog.add(product(f"{number:02}", (255, number * 2, 0)) for number in range(40))
        query, seen = Query("red", top_k=5), list[str]()
        there = {f"{number:02}" for number in range(40)}
        for step in range(20):
            page = catalog.match(query)
            seen += ids(page)
            if page.next is None:
                break
            catalog.add(product(f"new{step}", (255, step, 0)))  # before or behind what was shown
            gone = f"{39 - step // 2:02}"
            catalog.delete([gone])
            there -= {gone}
            query = replace(query, after=page.next)
        assert len(seen) == len(set(seen))
        assert there <= set(seen)


@pytest.mark.parametrize(
    "query",
    [
        Query("red"),
        Query("red", min_similarity=0.1),
        Query("red", fusion="rrf"),
        Query(sort="price"),
        Query("red", sort="-price", min_similarity=0.1),
    ],
    ids=["rank", "min_similarity", "rrf", "list", "sort"],
)
def test_no_group_is_shown_twice_or_left_out_while_others_write(query: Query) -> None:
    def variant(name: str, group: str, value: int) -> Product:
        return Product(name, images=inline((200, value, 90)), fields={"price": value}, group=group)

    with shop() as catalog:
        catalog.add(
            variant(f"{group}{place}", group, 10 * number + place)
            for number, group in enumerate("abcdef")
            for place in (1, 2, 3)
        )
        query, seen = replace(query, group=True, top_k=2), list[str | None]()
        while True:
            page = catalog.match(query)
            seen += [match.product.group for match in page]
            if page.next is None:
                break
            query = replace(query, after=page.next)
            catalog.delete([match.product.id for match in page])  # another one would stand for its group now
            if len(seen) == 2:  # a better one of each group, before what was shown
                catalog.add([variant(f"{group}0", group, value) for group in "abcdef" for value in (0, 80)])
        assert sorted(map(str, seen)) == list("abcdef")


def test_ranks_that_move_repeat_and_skip_nothing() -> None:
    with shop() as catalog:
        catalog.add(product(f"{number:02}", (255, number * 9, 0)) for number in range(20))
        query, seen = Query("red thing", fusion="rrf", top_k=4), list[str]()
        for added in range(9):
            page = catalog.match(query)
            seen += ids(page)
            if page.next is None:
                break
            query = replace(query, after=page.next)
            catalog.add(product(f"new{added}", (255, added, 0)))
            catalog.delete(seen[:1])
        assert len(seen) == len(set(seen))
        assert {f"{number:02}" for number in range(20)} <= set(seen)


def test_words_alone_find_products_without_pictures() -> None:
    with shop() as catalog:
        catalog.add(
            Product(f"{number}", f"{colour} boots", fields={"price": number})
            for number, colour in enumerate(["red", "blue", "red"])
        )
        query = Query("red boots", top_k=1, facets=["price"])
        assert all_pages(catalog, query) == all_pages(catalog, replace(query, fusion="rrf")) == ["0", "2", "1"]
        found = catalog.match(query)
        assert (found.total, found[0].similarity, found[0].why[0].term) == (3, None, "words")
        assert catalog.match(Query("red boots", where="price > 1")).total == 1
        assert catalog.match(Query("red boots", fusion="sum")).total == 0
        assert catalog.match(Query("red boots", min_similarity=0.1)).total == 0
        assert ids(catalog.match(Query("red boots", sort="-price"))) == ["2", "1", "0"]
        catalog.add(product("3", "red", price=3))
        assert ids(catalog.match(replace(query, after=found.next, top_k=9))) == ["3", "2", "1"]  # as it began
        assert ids(catalog.match(query)) == ["3"]
        assert ids(catalog.match(Query("red boots", where="price < 3"))) == ["0", "2", "1"]


def test_filters_pass_what_the_reference_passes(colours: Catalog) -> None:
    where = 'kind in ("bag", "shoe") and not tags = "a" and (price >= 10 or price exists and price < 3)'
    names = [field.name for field in (*BUILT_IN, *colours.fields)]
    from text_image_similarity.search.filters import parse_filter

    given = parse_filter(where, colours.fields)
    assert given is not None
    wanted = [
        each.id
        for each in colours.products()
        if matches(given, dict(zip(names, stored_values(each, colours.fields), strict=True)))
    ]
    assert 5 < len(wanted) < 60
    assert ids(colours.match(Query(where=where, top_k=100))) == wanted
    assert colours.match(Query("red", where=where)).total == sum(bool(colours.get(id).images) for id in wanted)  # type: ignore[union-attr]


def test_a_filter_that_leaves_few_still_gives_all_of_them(colours: Catalog) -> None:
    found = colours.match(Query("blue", where={"price": {"gte": 28}, "kind": "shoe"}, top_k=10))
    assert len(found) == found.total == 3


def test_a_negative_term_leads_away() -> None:
    with shop() as catalog:
        catalog.add([product("r", "red"), product("y", "yellow"), product("m", "magenta")])
        assert ids(catalog.match(Query("red"))) == ["r", "m", "y"]
        assert ids(catalog.match(Query([Term("red"), Term("blue", weight=-0.5)]))) == ["r", "y", "m"]
        assert ids(catalog.match(Query([Term("yellow"), Term("green", weight=-1)]))) == ["r", "m", "y"]


def test_pictures_products_and_vectors_are_terms_too() -> None:
    with shop() as catalog:
        catalog.add([product("r", "red"), product("b", "blue"), product("m", "magenta"), product("y", "yellow")])
        for image in (inline("blue"), make_png("blue"), np.full((8, 8, 3), (0, 0, 255), np.uint8)):
            assert ids(catalog.match(Query(Term(image=image), top_k=2))) == ["b", "m"]
        similar = catalog.match(Query(Term(product="r"), facets=["kind"]))
        assert (ids(similar), similar.total) == (["m", "y", "b"], 3)
        assert ids(catalog.match(Query(Term(vector=np.array([0.0, 0, 7])), top_k=1))) == ["b"]
        assert ids(catalog.match(Query([Term(product="r"), Term("blue")], top_k=1))) == ["m"]


def test_a_facet_is_what_a_filter_takes() -> None:
    days = ["2026-01-31", "2026-01-31T00:00", "2026-01-31T09:30:00.5+01:00"]
    with shop() as catalog:
        catalog.add(product(str(number), added=day, price=7.5) for number, day in enumerate(days))
        for query in (Query(), Query("red"), Query("red", fusion="rrf"), Query("red", min_similarity=0.5)):
            found = catalog.match(replace(query, facets=["added", "price", "_id"]))
            assert found.facets["added"] == {"2026-01-31": 2, "2026-01-31T08:30:00.500000+00:00": 1}
            assert json.loads(json.dumps(found.as_dict()))["facets"]["added"][0] == {"value": "2026-01-31", "count": 2}
            for name, counts in found.facets.items():
                assert all(catalog.match(Query(where={name: value})).total == counts[value] for value in counts)


@pytest.mark.parametrize("fusion", ["sum", "rrf"])
def test_reasons_add_up_to_the_score(colours: Catalog, fusion: str) -> None:
    terms = [Term("big red"), Term(image=inline("green"), weight=0.5), Term("blue", weight=-0.3)]
    found = colours.match(Query(terms, fusion=fusion, top_k=50))  # type: ignore[arg-type]
    for match in found:
        assert match.score is not None
        assert sum(reason.contribution for reason in match.why) == pytest.approx(match.score, abs=1e-6)
    if fusion == "sum":
        best = found[0]
        assert [reason.term for reason in best.why][::2] == ["text 'big red'", "text 'blue'"]
        assert best.similarity == best.score
        whole = np.array([1, 0.5, -0.3]) @ ColourEncoder().encode_text(["red", "green", "blue"])
        (alone,) = colours.match(Query(Term(vector=whole), where={"_id": best.product.id}))
        assert best.similarity == pytest.approx(alone.similarity, abs=1e-6)


def test_what_leads_away_changes_the_order_and_not_what_is_found() -> None:
    with shop() as catalog:
        catalog.add(Product(colour, images=inline(colour)) for colour in ("red", "magenta", "blue", "lime"))
        catalog.add([Product("bare", "red boots"), Product("hat", "a blue hat")])
        found = catalog.match(Query([Term("red"), Term("blue", weight=-1)], fusion="rrf"))
        assert ids(found)[:2] == ["red", "bare"]
        assert (sorted(ids(found)), found.total) == (["bare", "blue", "lime", "magenta", "red"], 5)
        why = {match.product.id: {reason.term: reason for reason in match.why} for match in found}
        away = {id: reasons["text 'blue'"].contribution for id, reasons in why.items()}
        assert away["blue"] == -1 / 61
        assert away["bare"] == pytest.approx(sum(away[id] for id in ("red", "magenta", "blue", "lime")) / 4)
        assert why["blue"]["text 'blue'"].similarity == pytest.approx(1.0)
        assert why["bare"]["text 'blue'"].similarity is None
        for match in found:
            assert sum(reason.contribution for reason in match.why) == pytest.approx(match.score, abs=1e-9)


def test_images_that_lead_away_are_read_in_parts_up_to_a_number_and_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(self: Ledger, generation: int, numbers: Sequence[int]) -> dict[int, Any]:
        read.append(len(numbers))
        if wait_s:
            pause.wait(wait_s)  # and reads nothing, so that only the time between the parts is looked at
            return {}
        return image_outcomes(self, generation, numbers)

    image_outcomes, read, pause, wait_s = Ledger.image_outcomes, list[int](), Event(), 0.0
    query = Query([Term("red"), Term("blue", weight=-1)], fusion="rrf", top_k=7)
    with shop() as catalog:
        colours = random.Random(0).choices(("red", "magenta", "blue", "lime", "yellow"), k=60)
        catalog.add(Product(f"p{number:02}", images=inline(colour)) for number, colour in enumerate(colours))
        whole = all_pages(catalog, query)
        monkeypatch.setattr(Ledger, "image_outcomes", count)
        monkeypatch.setattr(rank_fusion, "_AT_ONCE", 7, raising=False)
        assert all_pages(catalog, query) == whole
        assert max(read) == 7
        read.clear()
        monkeypatch.setattr(rank_fusion, "_MOST_LED", 20, raising=False)
        found = catalog.match(replace(query, top_k=60))
        away = [reason for match in found for reason in match.why if reason.term == "text 'blue'"]
        assert (found.total, len(away), len([each for each in away if each.similarity is not None])) == (60, 60, 20)
        assert read[:3] == [7, 7, 6]
        read.clear()
        monkeypatch.setattr(rank_fusion, "_MOST_LED", 60, raising=False)
        wait_s = 0.05
        with time_limit(0.12), pytest.raises(TimeoutError):
            catalog.match(query)
        assert 0 < len(read) < 5


def test_ranks_are_fused_as_in_the_paper() -> None:
    with shop() as catalog:
        catalog.add([Product("a", "red boots", inline("blue")), Product("b", "a hat", inline("red"))])
        found = catalog.match(Query("red boots", fusion="rrf"))
        assert {match.product.id: match.score for match in found} == {
            "a": pytest.approx(1 / 62 + 1 / 61),  # second by picture, first by words
            "b": pytest.approx(1 / 61),
        }


def test_many_queries_are_answered_as_one_by_one(colours: Catalog) -> None:
    queries = [*QUERIES, Query(Term(image="data:,broken"))]
    *found, failed = colours.match_many(queries)
    assert isinstance(failed, RowError)
    assert failed.code == "not_an_image"
    assert found == [colours.match(query) for query in QUERIES]


def test_equal_products_come_in_the_order_of_their_ids() -> None:
    with shop() as catalog:
        catalog.add(product(id, "red") for id in ("d", "b", "a", "e", "c"))
        assert ids(catalog.match(Query("red", top_k=2))) == ["a", "b"]
        assert all_pages(catalog, Query("red", top_k=2)) == list("abcde")


AWKWARD = ["it's", 'say "x"', "a\0b", "😀", "x" * 1000, "select", "-- drop", "%_", "\\", "é", "e\u0301x"]


def test_awkward_ids_and_values_round_trip() -> None:
    with shop() as catalog:
        given = [
            Product(id, id, inline("red"), id, {"kind": id, "tags": [id], "price": price}, id)
            for id, price in zip(AWKWARD, [-0.0, 1e308, *range(9)], strict=True)
        ]
        catalog.add(given)
        assert {each.id: each for each in catalog.products()} == {each.id: each for each in given}
        for each in given:
            for where in ({"kind": each.id}, {"tags": each.id}, {"_id": each.id}, {"_group": each.id}):
                found = ids(catalog.match(Query("red", where=where, top_k=20)))
                assert found == [each.id]
        assert ids(catalog.match(Query(where="price = 0", top_k=20))) == sorted([AWKWARD[0], AWKWARD[2]])
        assert ids(catalog.match(Query(where="price >= 1e308"))) == [AWKWARD[1]]
        assert catalog.delete(AWKWARD) == len(AWKWARD)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Query(top_k=0), "top_k=0 must be a whole number of at least 1"),
        (lambda: Query(top_k=1001), "more than 1,000; request several pages, each with the cursor"),
        (lambda: Query(7), "Query.terms must be a string, a Term"),  # type: ignore[arg-type]
        (lambda: Query(["a", 7]), r"Query.terms\[1\] must be a string or a Term"),  # type: ignore[list-item]
        (lambda: Query(["a"] * 17), "at most 16 terms"),
        (lambda: Query(Term("a", weight=-1)), "needs at least one term with a weight above 0"),
        (lambda: Query("a", min_similarity=2), "must be a cosine, -1 to 1"),
        (lambda: Query(min_similarity=0.1), "min_similarity has no effect without a term"),
        (lambda: Query("a", fusion="max"), "fusion='max' is not one of sum, rrf"),  # type: ignore[arg-type]
        (lambda: Query("a", fusion="rrf", sort="price"), "fusion='rrf' cannot be combined with min_similarity or sort"),
        (lambda: Term(), "exactly one of .*, not none"),
        (lambda: Term("a", product="b"), "exactly one"),
        (lambda: Term("  "), "Term.text must say what to look for"),
        (lambda: Term("a", weight=float("nan")), "must be a number from -10 to 10"),
        (lambda: Term("a", weight="much"), "Term.weight must be a number"),  # type: ignore[arg-type]
        (lambda: Term(image=7), "Term.image must be a PIL image"),  # type: ignore[arg-type]
        (lambda: Term(vector=np.array([np.nan])), "Term.vector must be a finite vector"),
        (lambda: Term(vector=["a", "b"]), "Term.vector must be a finite vector of numbers"),  # type: ignore[arg-type]
        (lambda: Term(vector=[[1, 2], [1]]), "Term.vector must be a finite vector"),  # type: ignore[arg-type]
        (lambda: Term(vector=np.array([1j])), "Term.vector must be a finite vector"),
        (lambda: Term(vector=[]), "Term.vector must be a finite vector"),  # type: ignore[arg-type]
        (lambda: Term(image=""), "Term.image is '', which is not an image"),
        (lambda: Term(image=float("nan")), "Term.image is nan, which is not an image"),  # type: ignore[arg-type]
        (lambda: Term("a\ud800"), "Term.text contains a lone surrogate"),
        (lambda: Term(product="a\ud800"), "Term.product contains a lone surrogate"),
        (lambda: Term(product=5), "Term.product must be a product's id, which is a string, not an int"),  # type: ignore[arg-type]
        (lambda: Query({"a": 1}), "Query.terms must be a string, a Term, or a list of them, not a dict"),  # type: ignore[arg-type]
        (lambda: Query(top_k=True), "top_k=True must be a whole number of at least 1"),
        (lambda: Query(sort=5), "Query.sort must be the name of a field, .*, not an int"),  # type: ignore[arg-type]
        (lambda: Query(facets=5), "Query.facets must be the name of a field, or several, not an int"),  # type: ignore[arg-type]
        (lambda: Query(facets=["a", 5]), r"Query.facets\[1\] must be a string, not an int"),  # type: ignore[list-item]
        (lambda: Query(where=5), "Query.where must be an expression, .*, not an int"),  # type: ignore[arg-type]
        (lambda: Query(after=5), "Query.after must be the `next` of the previous page, not an int"),  # type: ignore[arg-type]
        (lambda: Query("a", min_similarity="x"), "min_similarity='x' must be a cosine"),  # type: ignore[arg-type]
    ],
)
def test_queries_that_cannot_be_asked(make: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (Query("a", where="colour = 1"), "colour"),
        (Query("a", facets=["colour"]), "the field 'colour' does not exist; the fields are kind, price"),
        (Query("a", sort="tags"), "products cannot be sorted by 'tags', which contains lists"),
        (Query("a", sort="-colour"), "the field 'colour'"),
        (Query(Term(product="nobody")), "there is no product 'nobody'"),
        (Query(Term(product="p00")), "product 'p00' has no image with a vector"),
        (Query(Term(vector=np.ones(4))), "has 4 values, but vectors of the catalogue's model have 3"),
        (Query(Term(vector=np.zeros(3))), "a vector of zeros has no direction"),
        (Query([Term("red"), Term("red", weight=-1)]), "cancel each other out"),
        (Query("a", after="nonsense"), "the cursor in `after` is not valid"),
        (
            Query("a", after=base64.urlsafe_b64encode(json.dumps(["x", 1, 0.5, "a", 3, "sum"]).encode()).decode()),
            "another query",
        ),
    ],
)
def test_queries_that_this_catalogue_cannot_answer(colours: Catalog, query: Query, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        colours.match(query)


def test_a_cursor_belongs_to_its_query(colours: Catalog) -> None:
    after = colours.match(Query("red", top_k=3)).next
    assert after is not None
    with pytest.raises(UsageError, match="the cursor in `after` belongs to another query"):
        colours.match(Query("blue", top_k=3, after=after))
    assert colours.match(Query("red", top_k=5, after=after)).matches[0].rank == 4


def test_cursors_tell_queries_apart_by_all_of_their_terms(colours: Catalog) -> None:
    start = "red " + "x" * 300
    after = colours.match(Query(start + "a", top_k=3)).next
    with pytest.raises(UsageError, match="the cursor in `after` belongs to another query"):
        colours.match(Query(start + "b", top_k=3, after=after))


def test_a_long_reference_is_digested_without_being_copied_as_a_literal() -> None:
    class Reference(str):
        __slots__ = ()

        def __repr__(self) -> str:
            raise AssertionError

    start = "data:;base64," + 2000 * "\x7f"
    digests = [digest_of(Query(Term(image=Reference(start + end)))) for end in ("AAAA", "AAAA", "BBBB")]
    digests.append(digest_of(Query(Term(image=(start + "AAAA").encode()))))
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    of_start = blake2b(start.encode()).hexdigest()  # a short reference is never taken for the digest of another one
    short = [
        digest_of(Query(Term(image=each))) for each in (of_start, f"text {of_start}", f"digest of text {of_start}")
    ]
    assert len({*short, digest_of(Query(Term(image=start))), digest_of(Query(Term(image=start.encode())))}) == 5


def meddled_with(catalog: Catalog, query: Query, place: int, value: object) -> str:
    """Return the cursor of a query's second page with another value in a place."""
    after = catalog.match(query).next
    assert after is not None
    content, _, marks = after.partition(".")
    parts = json.loads(base64.urlsafe_b64decode(content + "=" * (-len(content) % 4)))
    parts[place] = value
    return ".".join([base64.urlsafe_b64encode(json.dumps(parts).encode()).decode(), *([marks] if marks else [])])


@pytest.mark.parametrize(
    ("place", "value"),
    [(1, True), (2, float("inf")), (2, []), (3, 7), (3, "\ud800"), (4, -50), (4, 10**400), (5, "max")],
)
def test_a_cursor_that_was_meddled_with_is_refused(colours: Catalog, place: int, value: object) -> None:
    query = Query("red", top_k=3)
    with pytest.raises(UsageError, match="the cursor in `after` is not valid"):
        colours.match(replace(query, after=meddled_with(colours, query, place, value)))


@pytest.mark.parametrize("value", ["zzz", 1.5, True, None, 10**400, {}])
@pytest.mark.parametrize("least", [None, -1.0])
def test_a_cursor_with_a_value_that_its_field_cannot_have_is_refused(
    colours: Catalog, value: object, least: float | None
) -> None:
    kinds = {"kind": str, "price": float, "new": bool, "added": float, "_id": str}
    for sort, kind in [(None, float), *kinds.items(), *((f"-{name}", kind) for name, kind in kinds.items())]:
        query = Query("red", top_k=3, sort=sort, min_similarity=least)
        made = replace(query, after=meddled_with(colours, query, 2, value))
        if type(value) is kind or (value is None and sort is not None):
            assert colours.match(made).total > 0
        else:
            with pytest.raises(UsageError, match="the cursor in `after` is not valid"):
                colours.match(made)


def test_a_cursor_cannot_ask_a_store_for_more_pictures_than_there_are(
    colours: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = Query("red", top_k=3)
    made = replace(query, after=meddled_with(colours, query, 4, 999_999_999))
    second = ids(colours.match(replace(query, after=colours.match(query).next)))
    store = colours.searcher._session.store(colours.generations[0])
    search, limits = store.search, []

    def watched(*given: Any, **named: Any) -> Any:
        limits.append(given[2])
        return search(*given, **named)

    monkeypatch.setattr(store, "search", watched)
    assert ids(colours.match(made)) == second
    assert max(limits) < 1000


def test_a_product_that_is_a_term_is_not_listed_either(colours: Catalog) -> None:
    listed = colours.match(Query(Term(product="p01"), sort="price", top_k=100))
    assert "p01" not in ids(listed)
    assert listed.total == len(listed) == 89


@pytest.mark.parametrize("scale", [1e-25, 1e20, 1e39])
def test_the_length_of_a_vector_does_not_matter(colours: Catalog, scale: float) -> None:
    vector = np.array([3.0, 4.0, 0.0])
    assert (
        colours.match(Query(Term(vector=vector * scale))).matches == colours.match(Query(Term(vector=vector))).matches
    )


def test_what_is_not_a_query_is_refused(colours: Catalog) -> None:
    with pytest.raises(InputTypeError, match=r"query must be a string or a Query, not an int"):
        colours.match(7)  # type: ignore[arg-type]
    for given in (7, "red", Query("red")):
        with pytest.raises(InputTypeError, match=r"queries must be a list of texts and Query objects, not a"):
            colours.match_many(given)  # type: ignore[arg-type]
    with pytest.raises(InputTypeError, match=r"queries\[1\] must be a string or a Query, not an int"):
        colours.match_many(["red", 7])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (Query(facets=["colour"]), "the field 'colour'"),
        (Query(where="price < "), "the filter cannot be read"),
        (Query("red", after="x"), "the cursor in `after` is not valid"),
        (Query(Term(product="nobody")), "there is no product 'nobody'"),
        (Query(Term(vector=[1, 2])), "Term.vector has 2 values"),  # type: ignore[arg-type]
        (Query([Term("red"), Term("red", weight=-1)]), "the terms of the query cancel each other out"),
    ],
)
def test_of_several_queries_the_wrong_one_is_named(colours: Catalog, query: Query, message: str) -> None:
    with pytest.raises(UsageError, match=rf"^queries\[1\]: {message}"):
        colours.match_many(["red", query, "blue"])
    with pytest.raises(UsageError, match=rf"^{message}"):
        colours.match(query)


@pytest.mark.parametrize(
    "query",
    [
        Query("red"),
        Query("red", min_similarity=0.1),
        Query("red", min_similarity=0.1, sort="price"),
        Query("red", fusion="rrf"),
    ],
    ids=["rank", "min_similarity", "sort", "rrf"],
)
def test_what_is_shown_passes_the_filter_though_it_was_changed_since_the_search(
    query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(self: Ledger, field: str, numbers: Sequence[int], *rest: Any) -> dict[int, Value | None]:
        found = column(self, field, numbers, *rest)
        if field == "_id":
            monkeypatch.undo()
            catalog.add(product("b", (250, 0, 0), kind="theirs"))
        return found

    column = Ledger.column
    with shop() as catalog:
        catalog.add(product(id, (250, 0, 0), kind="ours") for id in "abc")
        monkeypatch.setattr(Ledger, "column", change)
        found = catalog.match(replace(query, where={"kind": "ours"}))
        assert [match.product.fields["kind"] for match in found] == ["ours", "ours"]
        assert ids(found) == ["a", "c"]


def test_of_products_that_tie_only_those_shown_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(self: Ledger, numbers: Sequence[int], *rest: Any) -> dict[int, Product]:
        read.extend(numbers)
        return by_number(self, numbers, *rest)

    by_number, read = Ledger.by_number, list[int]()
    with shop() as catalog:
        catalog.add(product(f"p{number:03}") for number in random.Random(0).sample(range(300), 300))
        monkeypatch.setattr(Ledger, "by_number", count)
        for query in (Query("red", top_k=60), Query("red", top_k=60, min_similarity=-1)):
            assert all_pages(catalog, query) == [f"p{number:03}" for number in range(300)]
            assert len(read) < 500
            read.clear()


def test_a_list_of_few_groups_is_read_in_parts_that_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(self: Ledger, *given: Any) -> Any:
        sizes.append(given[-1])
        return list_ids(self, *given)

    list_ids, sizes, query = Ledger.list_ids, list[int](), Query(group=True, top_k=2)
    with shop() as catalog:
        catalog.add(Product(f"p{n:02}", group=f"g{n // 25}") for n in range(75))
        pages = all_pages(catalog, query)
        monkeypatch.setattr(Ledger, "list_ids", count)
        monkeypatch.setattr(listing, "_AT_ONCE", 2)
        monkeypatch.setattr(listing, "_MOST_AT_ONCE", 32)
        assert all_pages(catalog, query) == pages
        assert sizes[:4] == [2, 8, 32, 32]


def test_a_cursor_cannot_hide_more_than_it_has_shown() -> None:
    with shop() as catalog:
        catalog.add(Product(f"p{n}", group=f"g{n}") for n in range(9))
        query = Query(group=True, top_k=3)
        after = catalog.match(query).next
        assert after is not None
        head, _, marks = after.partition(".")
        assert len(catalog.match(replace(query, after=after))) == 3
        for forged in (f"{head}.{marks}{marks}", f"{head}.{'A' * 32}"):
            with pytest.raises(UsageError, match="the cursor in `after` is not valid"):
                catalog.match(replace(query, after=forged))
