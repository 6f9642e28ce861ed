"""Score whole tables: rows in, the same rows with `similarity` and `error` columns out."""

from __future__ import annotations

from .failures import explain_failures
from .options import Start, TableOptions
from .score import score_csv, score_table
from .summary import Summary

__all__ = ["Start", "Summary", "TableOptions", "explain_failures", "score_csv", "score_table"]
