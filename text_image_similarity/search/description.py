"""What a catalogue is and holds."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

from .fields import ERROR
from .session import Session


def describe(session: Session) -> dict[str, Any]:
    """Return what a catalogue is and holds, in values that JSON holds."""
    ledger = session.ledger
    failures: Counter[str] = Counter()
    for error, count in ledger.values(ERROR, None).items():
        failures[str(error).partition(":")[0]] += count
    ((store,),) = ledger.database.read("SELECT value FROM setting WHERE name = ?", ("store",))
    return {
        "products": ledger.count(None),
        "failures": dict(sorted(failures.items())),
        "fields": [asdict(field) for field in ledger.fields],
        "store": store,
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
