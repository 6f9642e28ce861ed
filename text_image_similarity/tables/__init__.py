"""Score whole tables: rows in, the same rows with `similarity` and `error` columns out."""

from __future__ import annotations

from .failures import explain_failures
from .frames import score_frame
from .options import Start, TableOptions
from .score import run_table, score_csv, score_table
from .summary import Summary
from .task import Task

__all__ = [
    "Start",
    "Summary",
    "TableOptions",
    "Task",
    "explain_failures",
    "run_table",
    "score_csv",
    "score_frame",
    "score_table",
]
