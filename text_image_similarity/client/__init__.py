"""Client of the service: `ServiceEngine` scores the parts of a table through it.

    from text_image_similarity.client import ServiceEngine
    with ServiceEngine("http://localhost:8000") as engine:
        score_csv("pairs.csv", "scored.csv", Config(), engine=engine)

The output is the same as that of a local run with the same model. A part is split into requests, several
of which run concurrently; requests that are refused or get no response are sent again.
"""

from __future__ import annotations

from .comparison import Comparison, compare_table, write_comparison
from .engine import ServiceEngine, settings_of_the_service

__all__ = ["Comparison", "ServiceEngine", "compare_table", "settings_of_the_service", "write_comparison"]
