"""Descriptions of catalogues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from .fields import ERROR
from .filters import Exists, Filter
from .products import Product, code_of
from .session import Session


def describe(session: Session) -> dict[str, Any]:
    """Return a description of a catalogue as JSON values."""
    ledger = session.ledger
    failures: Counter[str] = Counter()
    for error, count in ledger.values(ERROR, None).items():
        failures[code_of(str(error))] += count
    return {
        "products": ledger.count(None),
        "failures": dict(sorted(failures.items())),
        "fields": [asdict(field) for field in ledger.fields],
        "store": session.store_kind,
        "generations": [
            {
                "number": generation.number,
                "state": generation.state,
                "model": generation.identity.model,
                "revision": generation.identity.revision,
                "embed_dim": generation.identity.embed_dim,
                "calibrated": generation.calibration is not None,
            }
            for generation in session.generations.all()
        ],
    }


def every_product(session: Session, where: Filter | None) -> Iterator[Product]:
    """Yield the products that pass a filter, ordered by id."""
    after: tuple[None, str] | None = None
    while chunk := session.ledger.browse(where, None, after, 1000):
        yield from (found.product for found, _ in chunk)
        after = (None, chunk[-1][0].product.id)


def failures(session: Session) -> Iterator[tuple[Product, str]]:
    """Yield the products with an image that failed, ordered by id, each with its first error."""
    after: tuple[None, str] | None = None
    while chunk := session.ledger.browse(Exists(ERROR), None, after, 1000):
        errors = session.ledger.column(ERROR, [found.number for found, _ in chunk])
        yield from ((found.product, str(errors[found.number])) for found, _ in chunk if errors.get(found.number))
        after = (None, chunk[-1][0].product.id)
