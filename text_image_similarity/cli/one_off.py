"""`score IMAGE CAPTION`: score one image against captions, without a table."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from ..errors import UsageError
from .logs import tell
from .options import again, config_of

_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic")
_TABLE = re.compile(r"\S+\.(csv|tsv|jsonl|ndjson|parquet)(\.gz|\.zst)?", re.ASCII | re.IGNORECASE)
Kind = Literal["image", "table"]


def kind_of(options: argparse.Namespace) -> Kind:
    """Tell whether IN is a single image, followed by its captions, or a table.

    Raises:
        UsageError: The arguments are neither an image with captions nor a table and an output.
    """
    place = options.in_path
    if "-" in (place, options.out_path):
        raise UsageError("standard input and output cannot be used, because runs resume from files; name files instead")
    if is_image(place):
        if _TABLE.fullmatch(options.out_path):
            raise UsageError(
                f"{place} is one image, so a caption must follow, but {options.out_path} looks like a table; write "
                f"the caption, or score a table that names {place}"
            )
        return "image"
    if is_image(options.out_path):
        raise UsageError(f"the image comes first: score {options.out_path} {place!r}")
    out = options.out_path
    if _is_folder(place) and not _names_output(out):
        raise UsageError(
            f"{place} is a folder, and {out!r} is not the name of a table to write, such as scored.csv; the captions of images in a "
            "folder are in files next to them, such as dog.jpg and dog.txt, or in a table"
        )
    if options.captions and _TABLE.fullmatch(options.out_path):
        raise UsageError(
            f"IN must be one table, but both {place} and {options.out_path} are given; if the shell expanded a pattern, put it in quotes: "
            '"tables/*.csv"'
        )
    if options.captions:
        raise UsageError(
            f"{place} is not an image ({', '.join(_ENDINGS)}), so it is scored as a table, and only OUT may follow; quote a path that has spaces"
        )
    return "table"


def _names_output(place: str) -> bool:
    from ..formats import ending_of  # these imports load Arrow
    from ..tables import is_folder_output

    return bool(ending_of(place)) or is_folder_output(place)


def _is_folder(place: str) -> bool:
    try:
        return Path(place).is_dir()
    except (OSError, ValueError):  # raised for a text that is too long to be a file's name
        return False


def is_image(place: str) -> bool:
    """Tell from a path's or URL's suffix whether it names an image."""
    path = urlsplit(place).path if place.startswith(("http://", "https://")) else place
    return path.lower().endswith(_ENDINGS)


def is_single_image(place: str) -> bool:
    """Tell whether a place that should be a table or a folder is one image, and not a pattern for several."""
    return is_image(place) and "*" not in place


def run_one_off(options: argparse.Namespace) -> int:
    """Print the score of each caption, and return the exit code: 1 if any caption has no score."""
    if options.service_url is not None or options.engine != "local" or len(again(options.model)) > 1:
        raise UsageError(
            "a single image is scored in this process by one model; leave out --engine and --service-url, and name "
            "one model"
        )
    config = config_of(options)
    # Imported here so that wrong options are reported without loading torch.
    from ..pipeline import score_pairs
    from ..records import Record

    curve = None
    if options.probability or options.calibration is not None:
        from ..tables import TableOptions, calibration_of  # these imports load Arrow

        curve = calibration_of(config, TableOptions(probability=options.probability, calibration=options.calibration))
    captions = (options.out_path, *options.captions)
    results = list(score_pairs([Record(options.in_path, caption) for caption in captions], config))
    for caption, result in zip(captions, results, strict=True):
        if result.error is None:
            cells = [f"{result.similarity:.4f}"]
            cells += [] if curve is None else [f"{float(curve.probability(result.similarity)):.4f}"]
            sys.stdout.write("  ".join([*cells, *([caption] if len(captions) > 1 else [])]) + "\n")
        else:
            tell(options.log_format, "error", result.error + (f" (caption {caption!r})" if len(captions) > 1 else ""))
    return 0 if all(result.error is None for result in results) else 1
