"""Score whole tables: rows in, the same rows with `similarity` and `error` columns out; and keep the best of them."""

from __future__ import annotations

from .failures import explain_failures
from .filter import FilterPlan, FilterSummary, PlannedThreshold, filter_table, plan_filter
from .frames import score_frame
from .options import Start, TableOptions
from .places import is_folder_output
from .rules import FilterRule
from .score import run_table, score_csv, score_table
from .summary import Summary
from .task import Task, scoring

__all__ = [
    "FilterPlan",
    "FilterRule",
    "FilterSummary",
    "PlannedThreshold",
    "Start",
    "Summary",
    "TableOptions",
    "Task",
    "explain_failures",
    "filter_table",
    "is_folder_output",
    "plan_filter",
    "run_table",
    "score_csv",
    "score_frame",
    "score_table",
    "scoring",
]
