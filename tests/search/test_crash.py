"""A catalogue whose process is killed at any moment: what was acknowledged is there, once, and it opens again."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.search.crashing import open_shop
from tests.support.paths import ROOT
from text_image_similarity import Query

# More of them, each at another moment: KILLS=100 python -m pytest tests/search/test_crash.py
KILLS = int(os.environ.get("KILLS", "1"))


@pytest.mark.slow
@pytest.mark.parametrize("store", ["sqlite", "lancedb", "pgvector"])
def test_nothing_that_was_acknowledged_is_lost_by_a_kill(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = str(tmp_path / "shop.catalog")
    if store == "pgvector":
        place = request.getfixturevalue("postgres_url")
    draw = random.Random(7)
    known: dict[str, int | None] = {}  # the acknowledged green of each product, None where it was deleted
    for kill in range(KILLS):
        uncertain = _run_until_killed(place, store, f"{store} {kill}", draw.randrange(1, 40), known)
        _check(place, known, uncertain)


def _run_until_killed(
    place: str, store: str, seed: str, steps: int, known: dict[str, int | None]
) -> dict[str, int | None]:
    """Let a process take some steps and kill it in the next one; return what that one may have done."""
    arguments = [sys.executable, "-m", "tests.search.crashing", place, store, seed]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        begun: dict[str, int | None] = {}
        while steps > 0:
            line = process.stdout.readline().split()
            assert line, "the process ended by itself"
            if line[0] == "done":
                known |= begun
                begun, steps = {}, steps - 1
            else:
                begun = _effect(line)
        process.kill()
        for line in map(str.split, process.stdout):  # what it did before the signal came
            if line and line[0] == "done":
                known |= begun
                begun = {}
            elif line:
                begun = _effect(line)
    return begun


def _effect(line: list[str]) -> dict[str, int | None]:
    if line[0] == "add":
        return {id: int(green) for id, _, green in (pair.partition("=") for pair in line[1:])}
    return dict.fromkeys(line[1:]) if line[0] == "delete" else {}


def _check(place: str, known: dict[str, int | None], uncertain: dict[str, int | None]) -> None:
    with open_shop(place) as catalog:
        products = {product.id: product for product in catalog.products()}
        assert len(products) == len(catalog)
        for id in known | uncertain:
            now = int(products[id].fields["price"]) if id in products else None
            assert now in {known.get(id), uncertain.get(id, known.get(id))}
            known[id] = now
        assert [generation.state for generation in catalog.generations].count("live") == 1
        found = catalog.match(Query("green", top_k=100))
        assert sorted(match.product.id for match in found) == sorted(products)
        for match in found:
            green = products[match.product.id].fields["price"]
            (same,) = catalog.match(Query("green", where={"_id": match.product.id, "price": green}))
            assert same.similarity == match.similarity
            assert match.image == products[match.product.id].images[0]
