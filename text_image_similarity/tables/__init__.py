"""Score whole tables: rows in, the same rows with `similarity` and `error` columns out.

The table is read twice: once to check its shape, count its rows and hash it before anything expensive starts, then part
by part while it is scored. Finished parts are kept beside the output (`workspace`), so that a run which stops, for
whatever reason, goes on with the same command; at the end they are put together, and the output appears complete.
"""

from __future__ import annotations

from .job import Engine, Progress
from .score import Start, TableOptions, score_csv
from .summary import Summary

__all__ = [
    "Engine",
    "Progress",
    "Start",
    "Summary",
    "TableOptions",
    "score_csv",
]
