"""A finished table as one page to look at: scores, failures, throughput, and the rows worth a look with their images.

The page is one HTML file. It opens from disk, asks no network for anything, and shows what strangers wrote as text.
It does not edit, filter or compare tables; and it holds small copies of the images it shows, so pass it on as you would
the images.
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
