"""Options that several commands have in common, and the `Config` they make."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import get_args

from ..config import DEFAULT_MODEL, BackendName, Config, Limits, Precision, PreprocessMode
from ..errors import UsageError
from .logs import LOG_FORMATS
from .terminal import ProgressBar


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a model and how it runs."""
    add = parser.add_argument
    add("--model", help=f"hub id, local folder, or one of fast, accurate, mini (default: fast, {DEFAULT_MODEL})")
    add("--revision", help="commit, tag or branch of a hub model (default: the pinned one)")
    add_runtime_options(parser)


def add_runtime_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how a model runs, whichever it is."""
    config = Config()
    add = parser.add_argument
    add("--device", default=config.device, help="auto, cpu, cuda, cuda:N or mps (default: %(default)s)")
    add("--precision", default=config.precision, choices=get_args(Precision), help="default: %(default)s")
    add(
        "--backend",
        default=config.backend,
        choices=get_args(BackendName),
        help="what runs the model (default: %(default)s)",
    )
    add(
        "--preprocess",
        default=config.preprocess,
        choices=get_args(PreprocessMode),
        help="exact, or fast: large JPEGs at a reduced scale, scores move a little (default: %(default)s)",
    )
    add("--embedding-cache", metavar="FILE", help="keep embeddings in FILE, for later runs and other processes")
    add("--cache-dir", metavar="FOLDER", help="where exported models are kept (default: the user's cache folder)")
    add("--batch-size", type=int, default=config.batch_size, help="pictures encoded at once (default: %(default)s)")


def add_fetch_options(parser: argparse.ArgumentParser, *, io_workers: int) -> None:
    """Add the options that say how pictures are fetched and decoded."""
    config = Config()
    add = parser.add_argument
    add("--timeout", type=float, default=config.timeout_s, help="seconds a download try (default: %(default)s)")
    add(
        "--total-timeout", type=float, default=config.limits.total_s, help="seconds a row in all (default: %(default)s)"
    )
    add("--retries", type=int, default=config.retries, help="further tries of a download (default: %(default)s)")
    add("--io-workers", type=int, default=io_workers, help="fetching threads (default: %(default)s)")
    add("--isolate-decoder", action="store_true", help="decode in worker processes, so that a crash costs one row")
    add("--allow-private-addresses", action="store_true", help="let URLs reach private and loopback addresses")
    add("--respect-opt-out", action="store_true", help="fetch no picture whose site opts out with X-Robots-Tag")
    add(
        "--proxy",
        metavar="URL",
        help="http://host:port to fetch through (default: none, whatever the environment says)",
    )


def add_column_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a table's columns."""
    add = parser.add_argument
    add("--url-col", default="url", help="column of image references (default: %(default)s)")
    add("--caption-col", default="caption", help="column of captions (default: %(default)s)")


def add_log_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what a job with an end tells on its way."""
    add = parser.add_argument
    add_log_format(parser)
    add(
        "--heartbeat",
        metavar="SECONDS",
        type=seconds,
        default=60.0,
        help="seconds between log lines about progress, where stderr is no terminal; 0 is never (default: 60)",
    )
    add("--quiet", action="store_true", help="no progress and no closing table")


def add_log_format(parser: argparse.ArgumentParser) -> None:
    """Add the option that says what stderr gets."""
    parser.add_argument(
        "--log-format", default="text", choices=LOG_FORMATS, help="what stderr gets (default: %(default)s)"
    )


def progress_bar(options: argparse.Namespace, unit: str) -> ProgressBar:
    """Return what shows the progress that the log options ask for."""
    return ProgressBar(unit, heartbeat_s=options.heartbeat, bar=draws_bars(options))


def draws_bars(options: argparse.Namespace) -> bool:
    """Say whether bars may be drawn: on a terminal, and not between lines of JSON."""
    return options.log_format == "text" and sys.stderr.isatty()


def setting(text: str) -> tuple[str, str]:
    """Read `key=value`."""
    key, equals, value = text.partition("=")
    if not (equals and key.strip()):
        raise argparse.ArgumentTypeError(f"{text} is not of the form key=value")
    return key.strip(), value.strip()


def check_output(path: Path, *, besides: Iterable[str | Path | None] = ()) -> None:
    """Refuse a file to write at the end of a long run, if it could not be written then.

    Args:
        path: What is to be written.
        besides: Files that it must not replace; None is no file.

    Raises:
        UsageError: It is a folder, or in none, or one of the others.
    """
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UsageError(f"{path} cannot be written: it is a folder, or lies in a folder that does not exist")
    if any(path.resolve() == Path(other).resolve() for other in besides if other is not None):
        raise UsageError(f"{path} is a file of the run itself and would be overwritten; name another one")


def seconds(text: str) -> float:
    """Read a number of seconds from 0 to a day."""
    if not 0 <= (value := float(text)) <= 86_400:
        raise argparse.ArgumentTypeError(f"{text} must be a number of seconds from 0 to 86400, a day")
    return value


def model_config(options: argparse.Namespace) -> Config:
    """Return the settings that the model options ask for.

    Raises:
        ConfigError: One is outside its choices or range.
    """
    config = runtime_config(options)
    return replace(config, model=options.model or config.model, revision=options.revision)


def runtime_config(options: argparse.Namespace) -> Config:
    """Return the settings that the runtime options ask for, with the default model.

    Raises:
        ConfigError: One is outside its choices or range.
    """
    return Config(
        device=options.device,
        precision=options.precision,
        backend=options.backend,
        preprocess=options.preprocess,
        embedding_cache=options.embedding_cache,
        cache_dir=options.cache_dir,
        batch_size=options.batch_size,
    )


def with_fetching(config: Config, options: argparse.Namespace) -> Config:
    """Return the settings with what the fetch options ask for.

    Raises:
        ConfigError: One is outside its choices or range.
    """
    return replace(
        config,
        timeout_s=options.timeout,
        retries=options.retries,
        io_workers=options.io_workers,
        isolate_decoder=options.isolate_decoder,
        proxy=options.proxy,
        limits=Limits(
            total_s=options.total_timeout,
            allow_private_addresses=options.allow_private_addresses,
            respect_opt_out=options.respect_opt_out,
        ),
    )
