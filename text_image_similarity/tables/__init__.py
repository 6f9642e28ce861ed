"""Score or embed whole tables, and filter scored tables."""

from __future__ import annotations

from .embed import EmbeddedSide, embed_table
from .failures import explain_failures
from .filter import FilterPlan, FilterSummary, PlannedThreshold, filter_table, plan_filter
from .frames import score_frame
from .matrix_file import write_matrix
from .options import Start, TableOptions
from .places import is_folder_output
from .probability import calibration_of
from .rules import FilterRule
from .score import run_table, score_csv, score_table
from .summary import Summary
from .summary_file import read_summary
from .task import Task, scoring

__all__ = [
    "EmbeddedSide",
    "FilterPlan",
    "FilterRule",
    "FilterSummary",
    "PlannedThreshold",
    "Start",
    "Summary",
    "TableOptions",
    "Task",
    "calibration_of",
    "embed_table",
    "explain_failures",
    "filter_table",
    "is_folder_output",
    "plan_filter",
    "read_summary",
    "run_table",
    "score_csv",
    "score_frame",
    "score_table",
    "scoring",
    "write_matrix",
]
