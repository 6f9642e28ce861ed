"""How well mini finds things in the sample catalogue, whose truth is in its columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.support.paths import ROOT
from text_image_similarity import Catalog, Field, Product, Query, Term, open_catalog
from text_image_similarity.search import AWAY, Matches


@pytest.fixture(scope="module")
def sample() -> Iterator[Catalog]:
    fields = [Field("kind"), Field("color"), Field("pattern")]
    with open_catalog(":memory:", fields=fields, model="mini") as catalog:
        catalog.add_table(ROOT / "sample_catalog" / "products.csv")
        yield catalog


def of(product: Product) -> tuple[str, str]:
    return product.fields["kind"], product.fields["color"]


def test_a_picture_and_a_text_find_more_than_either_alone(sample: Catalog) -> None:
    products = list(sample.products())
    # This one, but in another colour that it comes in.
    wanted = [
        (given, other)
        for given in products
        for other in products
        if given.fields["kind"] == other.fields["kind"] and given.fields["color"] != other.fields["color"]
    ]
    assert len(wanted) > 100
    asked: list[Callable[[Product, Product], list[Term]]] = [
        lambda given, other: [Term(image=given.images[0]), Term(other.fields["color"])],
        lambda given, other: [Term(image=given.images[0])],
        lambda given, other: [Term(other.fields["color"])],
        lambda given, other: [Term(f"a {other.fields['color']} {other.fields['kind']}")],
    ]
    both, picture, colour, words = (_recall(sample, wanted, [terms(*pair) for pair in wanted]) for terms in asked)
    assert both > max(picture, colour, words) + 0.1


def _recall(catalog: Catalog, wanted: Sequence[tuple[Product, Product]], terms: Sequence[Sequence[Term]]) -> float:
    """Return how often the first product found, besides the one given, is of the kind and colour wanted."""
    queries = [
        Query(list(some), top_k=1, where={"not": {"_id": given.id}})
        for (given, _), some in zip(wanted, terms, strict=True)
    ]
    answers = catalog.match_many(queries)
    hits = [
        isinstance(found, Matches) and of(found[0].product) == of(other)
        for found, (_, other) in zip(answers, wanted, strict=True)
    ]
    return sum(hits) / len(hits)


@pytest.mark.parametrize(
    ("words", "without", "field", "named"),
    [
        ("a shoe", "a red shoe", "color", "red"),
        ("a shoe", "a boot", "kind", "boot"),
        ("a bag", "a backpack", "kind", "backpack"),
        ("clothes", "a hat", "kind", "hat"),
    ],
)
def test_a_negative_term_halves_what_it_names(
    sample: Catalog, words: str, without: str, field: str, named: str
) -> None:
    before, after = (
        sum(match.product.fields[field] == named for match in sample.match(Query(terms)))
        for terms in ([Term(words)], [Term(words), Term(without, weight=AWAY)])
    )
    assert before >= 2
    assert after <= before / 2
