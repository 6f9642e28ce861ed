"""A process that works on a catalogue until it is killed; test_crash.py runs it and reads what it says.

Before each step it writes what it begins, and afterwards `done`: that is what it was told is kept.
"""

from __future__ import annotations

import random
import sys

from tests.search.test_generations import DimEncoder
from tests.support.shop import FIELDS, product
from text_image_similarity import Catalog, Config, open_catalog
from text_image_similarity.encoders.testing import ColourEncoder

MODELS = {"colour": ColourEncoder, "dim": DimEncoder}


def open_shop(place: str, store: str | None = None) -> Catalog:
    """Open or make the catalogue, with the loaded model of each of its generations."""
    catalog = open_catalog(
        place, fields=FIELDS, store=store, config=Config(batch_size=4, io_workers=2), encoder=ColourEncoder()
    )
    for generation in catalog.generations:
        catalog._session.lend(generation, MODELS[generation.identity.model]())
    return catalog


def work(catalog: Catalog, draw: random.Random) -> None:
    """Take one random step."""
    step = draw.random()
    if step < 0.5:
        given = {f"p{draw.randrange(60)}": draw.randrange(256) for _ in range(draw.randrange(1, 6))}
        tell("add", *(f"{id}={green}" for id, green in given.items()))
        catalog.add(product(id, (255, green, 0), price=green) for id, green in given.items())
    elif step < 0.7:
        id = f"p{draw.randrange(60)}"
        tell("delete", id)
        catalog.delete(id)
    elif step < 0.8:
        tell("optimize")
        catalog.optimize()
    elif any(generation.state == "ready" for generation in catalog.generations):
        tell("switch")
        catalog.switch()
    else:
        tell("reindex")
        live = next(generation for generation in catalog.generations if generation.state == "live")
        other = "dim" if live.identity.model == "colour" else "colour"
        catalog.reindex(other, encoder=MODELS[other]())
    tell("done")


def tell(*words: str) -> None:
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    place, store, seed = sys.argv[1:]
    draw = random.Random(seed)
    with open_shop(place, store) as shop:
        tell("ready")
        while True:
            work(shop, draw)
