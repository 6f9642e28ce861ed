"""The client of the service: `ServiceEngine` scores the parts of a table through it.

    from text_image_similarity.client import ServiceEngine
    with ServiceEngine("http://localhost:8000") as engine:
        score_csv("pairs.csv", "scored.csv", Config(), engine=engine)

What comes out is what `score_csv` writes with the service's model on this machine. A part is cut into requests, several
of which are under way at once; one that is refused, or not answered, is sent again.
"""

from __future__ import annotations

from .comparison import Comparison, compare_table, write_comparison
from .engine import ServiceEngine, settings_of_the_service

__all__ = ["Comparison", "ServiceEngine", "compare_table", "settings_of_the_service", "write_comparison"]
