"""The options of `score` with which a running service scores the rows."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import Config
from ..errors import UsageError

if TYPE_CHECKING:
    from ..client import Comparison, ServiceEngine
    from ..pipeline import Engine

_KEY = "TEXT_IMAGE_SIMILARITY_API_KEY"
_NAMES = {"timeout_s": "timeout", "total_s": "total-timeout"}  # of settings, as options


def add_client_options(parser: argparse.ArgumentParser) -> None:
    """Add them to a parser."""
    add = parser.add_argument_group("a running service").add_argument
    add(
        "--service-url",
        metavar="URL",
        help="let the service there score the rows, such as http://host:8000; --model names one of its models",
    )
    add(
        "--service-connections",
        metavar="N",
        type=int,
        default=8,
        help="requests to the service at one time (default: %(default)s)",
    )
    add("--api-key-file", metavar="FILE", type=Path, help=f"what the service wants to be shown (default: ${_KEY})")
    add(
        "--compare",
        metavar="FILE",
        type=Path,
        help="first time single requests against batch requests, and write a small CSV about it",
    )


def service_engine(options: argparse.Namespace, config: Config) -> ServiceEngine:
    """Return the service that the options name.

    Raises:
        UsageError: Another option would decide nothing, or the key cannot be read.
        ConfigError: The URL, the key or the number of connections cannot be one.
    """
    from ..client import ServiceEngine, settings_of_the_service

    theirs = [_NAMES.get(name, name.replace("_", "-")) for name in settings_of_the_service(config)]
    theirs += ["engine"] * (options.engine != "local") + ["engine-conf"] * bool(options.engine_conf)
    if theirs:
        raise UsageError(
            f"{', '.join(f'--{name}' for name in theirs)} would decide nothing with --service-url: the service fetches "
            "the pictures and runs the model with settings of its own"
        )
    key = os.environ.get(_KEY, "").strip() or None if options.api_key_file is None else _key_of(options.api_key_file)
    return ServiceEngine(options.service_url, api_key=key, model=options.model, connections=options.service_connections)


def _key_of(path: Path) -> str:
    try:
        keys = path.read_text(encoding="utf-8").split()
    except (OSError, ValueError) as exc:
        raise UsageError(f"{path} cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc
    if len(keys) != 1:
        raise UsageError(f"{path} holds {len(keys)} words; an API key file for --service-url holds one key")
    return keys[0]


def compare(options: argparse.Namespace, config: Config, engine: Engine | None) -> list[Comparison]:
    """Compare single requests with batch requests if that is asked for, and write what came out."""
    if options.compare is None:
        return []
    from ..client import ServiceEngine, compare_table, write_comparison

    assert isinstance(engine, ServiceEngine)
    found = compare_table(options.in_path, (options.url_col, options.caption_col), config, engine)
    write_comparison(found, options.compare)
    return found


def comparison_table(comparison: Sequence[Comparison]) -> str:
    """Lay out single requests against batch requests for a terminal."""
    line = "{:<8}{:>10}{:>8}{:>10}{:>10}{:>10}".format
    rows = [
        line(c.mode, c.requests, c.images, f"{c.seconds:.2f}", f"{c.images_per_second:,.1f}", f"{c.speed_up:.2f}")
        for c in comparison
    ]
    return "\n".join([line("mode", "requests", "images", "seconds", "images/s", "speed-up"), *rows])
