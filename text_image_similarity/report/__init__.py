"""Reports about finished tables: one page with scores, failures, throughput, and notable rows with their images.

The page is one HTML file. The page opens from disk, makes no network requests, and shows untrusted content as text. The
report does not edit, filter or compare tables. The page contains small copies of the images that it shows, so share it
only with people who may see the images.
"""

from __future__ import annotations

from .additions import write_additions
from .comparison import ComparedPair, write_comparison
from .matches import FoundItem, write_matches
from .tally import ReportRow, Tally
from .thumbnails import small_jpeg, thumbnails
from .write import make_report, report_rows, wanted_images, write_report

__all__ = [
    "ComparedPair",
    "FoundItem",
    "ReportRow",
    "Tally",
    "make_report",
    "report_rows",
    "small_jpeg",
    "thumbnails",
    "wanted_images",
    "write_additions",
    "write_comparison",
    "write_matches",
    "write_report",
]
