"""The options of `score` for letting a running service score the rows."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import Config
from ..errors import UsageError
from .options import again
from .parser import option_of

if TYPE_CHECKING:
    from ..client import Comparison, ServiceEngine
    from ..pipeline import Engine

_KEY = "TEXT_IMAGE_SIMILARITY_API_KEY"


def add_client_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for a running service to a parser."""
    add = parser.add_argument_group("a running service").add_argument
    add(
        "--service-url",
        metavar="URL",
        help="URL of a service that scores the rows, such as `http://host:8000`; `--model` then names one of its "
        "models, and its settings decide how images are fetched and encoded; see docs/service-tables.md",
    )
    add(
        "--service-connections",
        metavar="N",
        type=int,
        default=8,
        help="number of concurrent requests to the service",
    )
    add(
        "--service-key-file",
        metavar="FILE",
        type=Path,
        help=f"file with the API key for the service; by default, the key comes from the environment variable `{_KEY}`",
    )
    add(
        "--compare",
        metavar="FILE",
        type=Path,
        help="before scoring, compare the speed of single requests with that of batch requests, and write the result to a small CSV file; see "
        "docs/service-tables.md#single-requests-against-batches",
    )


def service_engine(options: argparse.Namespace, config: Config) -> ServiceEngine:
    """Return the engine for the service that the options name.

    Raises:
        UsageError: Another option would have no effect with a service, or the key cannot be read.
        ConfigError: The URL, the key or the number of connections is not valid.
    """
    from ..client import ServiceEngine, settings_of_the_service

    theirs = [
        f"--limit {name.removeprefix('limits.')}" if name.startswith("limits.") else option_of(name)
        for name in settings_of_the_service(config)
    ]
    theirs += ["--engine"] * (options.engine != "local") + ["--engine-conf"] * bool(options.engine_conf)
    if theirs:
        raise UsageError(
            f"{', '.join(theirs)} would have no effect with --service-url: the service fetches images and runs the model "
            "with its own settings"
        )
    key = (
        os.environ.get(_KEY, "").strip() or None
        if options.service_key_file is None
        else _key_of(options.service_key_file)
    )
    return ServiceEngine(
        options.service_url,
        api_key=key,
        model=next(iter(again(options.model)), None),
        connections=options.service_connections,
    )


def _key_of(path: Path) -> str:
    try:
        keys = path.read_text(encoding="utf-8").split()
    except (OSError, ValueError) as exc:
        raise UsageError(f"{path} cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc
    if len(keys) != 1:
        raise UsageError(f"{path} contains {len(keys)} words; --service-key-file must name a file with exactly one key")
    return keys[0]


def compare(options: argparse.Namespace, config: Config, engine: Engine | None) -> list[Comparison]:
    """If `--compare` is given, compare single requests with batch requests, and write and return the result."""
    if options.compare is None:
        return []
    from ..client import ServiceEngine, compare_table, write_comparison

    assert isinstance(engine, ServiceEngine)
    if len(again(options.caption_col)) > 1 or options.references_col:
        raise UsageError("--compare needs a single --caption-col, and no --references-col")
    found = compare_table(
        options.in_path, (options.url_col, next(iter(again(options.caption_col)), None)), config, engine
    )
    write_comparison(found, options.compare)
    return found


def comparison_table(comparison: Sequence[Comparison]) -> str:
    """Lay out a comparison of single requests and batch requests for a terminal."""
    line = "{:<8}{:>10}{:>8}{:>10}{:>10}{:>10}".format
    rows = [
        line(c.mode, c.requests, c.images, f"{c.seconds:.2f}", f"{c.images_per_second:,.1f}", f"{c.speed_up:.2f}")
        for c in comparison
    ]
    return "\n".join([line("mode", "requests", "images", "seconds", "images/s", "speed-up"), *rows])
