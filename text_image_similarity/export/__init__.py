"""Export a model to a folder that runs without torch, or without this package, and compare its results.

Names are imported when they are first used, so `export --help` does not load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..system import lazy_names

if TYPE_CHECKING:
    from .check import check_export
    from .export import ExportSummary, export_model
    from .gate import Parity, TowerParity
    from .options import ExportOptions

__all__ = ["ExportOptions", "ExportSummary", "Parity", "TowerParity", "check_export", "export_model"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "check": ("check_export",),
        "export": ("ExportSummary", "export_model"),
        "gate": ("Parity", "TowerParity"),
        "options": ("ExportOptions",),
    },
)
