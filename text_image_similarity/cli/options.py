"""Options that several commands share, and the `Config` made from them."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from ..config import Config, Dialect, Limits
from ..errors import UsageError
from ..files import path_text, place_of
from .logs import LOG_FORMATS
from .parser import add_field, field_texts, plain_number
from .terminal import ProgressBar

MULTIPLES = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10}

# The titles of the option groups.
INPUT, MODEL, FETCHING, RUN, OUTPUT, LOG = (
    "input",
    "model",
    "fetching and decoding",
    "run",
    "output",
    "progress and log",
)

# How a page of this package begins; a file that does not begin like this is not replaced.
PAGE = rb'<!doctype html>.*<meta name="generator" content="text-image-similarity">'


def add_model_options(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Add the options that choose one or several models and how they run."""
    group = parser.add_argument_group(MODEL)
    if several:
        text = field_texts(Config).get("model", "").removesuffix(".")
        text = f"{text[:1].lower()}{text[1:]}; may be repeated: each model then has its own column, such as "
        text += "`similarity_mini`"
        group.add_argument("--model", action=_Again, metavar="MODEL", help=text)
        group.add_argument(
            "--ensemble",
            choices=("mean", "probability"),
            help="add a column `similarity` that combines several models: the `mean` of their scores, or, with `probability`, the "
            "mean of the probabilities that their `calibration.json` files give",
        )
    else:
        add_field(group, Config, "model", default=None)  # None means that no model was named
    add_field(group, Config, "revision")
    add_runtime_options(parser)


def add_runtime_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for running a model."""
    group = parser.add_argument_group(MODEL)
    for name in ("device", "precision", "backend", "triton_url", "preprocess"):
        add_field(group, Config, name)
    add_field(group, Config, "embedding_cache", metavar="PLACE")
    add_field(group, Config, "model_cache", metavar="FOLDER")
    add_field(group, Config, "batch_size")


def add_fetch_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for fetching images."""
    group = parser.add_argument_group(FETCHING)
    add_field(group, Config, "timeout_s")
    add_field(group, Config, "retries")
    add_field(group, Config, "proxy", metavar="URL")
    add_field(group, Config, "ca_file", metavar="FILE")
    add_field(group, Config, "headers_file", metavar="FILE")
    group.add_argument(
        "--limit",
        dest="limits",
        metavar="NAME=VALUE",
        type=limit,
        action="append",
        default=[],
        help=f"a limit on what one row may use or access, such as `total_s=60`, `max_bytes=50MiB` or `allow_private_addresses=true`; "
        f"may be repeated. The limits are {', '.join(f'`{field.name}`' for field in fields(Limits))}; see "
        "docs/command_line.md#limits",
    )


def add_base_dir(parser: argparse.ArgumentParser) -> None:
    """Add the options for where relative paths start and which folder files must be in."""
    group = parser.add_argument_group(INPUT)
    add_field(group, Config, "base_dir", metavar="FOLDER", type=folder)
    add_field(group, Config, "files_under", metavar="FOLDER", type=folder)


def folder(text: str) -> Path:
    """Parse the name of an existing folder."""
    found = Path(path_text(text, "base_dir"))
    if not text or not found.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not a folder on this machine")
    return found


def add_worker_options(parser: argparse.ArgumentParser, *, io_workers: int) -> None:
    """Add the options for the threads and processes that fetch and decode images."""
    group = parser.add_argument_group(FETCHING)
    add_field(group, Config, "io_workers", default=io_workers)
    add_field(group, Config, "isolate_decoder")


def add_feeders(parser: argparse.ArgumentParser) -> None:
    """Add the option for the number of processes that load images, for commands that read a whole table or folder."""
    add_field(parser.add_argument_group(FETCHING), Config, "feeders", metavar="N", type=_feeders)


def _feeders(text: str) -> str | int:
    if text != "auto" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither auto nor a whole number")
    return text if text == "auto" else int(text)


def limit(text: str) -> tuple[str, object]:
    """Parse `NAME=VALUE` for a field of `Limits`."""
    name, _, value = text.partition("=")
    kinds = get_type_hints(Limits)
    if name not in kinds:
        raise argparse.ArgumentTypeError(f"{name!r} is not one of the limits {', '.join(kinds)}")
    read, form = _READERS[kinds[name]]
    try:
        if not value.isascii():  # int() accepts the digits of all scripts
            raise ValueError
        return name, read(value)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{name} must be {form}, not {value[:40]!r}") from exc


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError
    return text == "true"


def _whole_number(text: str) -> int:
    return int(text[:-3]) * MULTIPLES[text[-3:]] if text[-3:] in MULTIPLES else int(text)


def _listed(read: Callable[[str], object]) -> Callable[[str], object]:
    return lambda text: () if text == "none" else tuple(map(read, text.split(",")))


_READERS: dict[Any, tuple[Callable[[str], object], str]] = {
    bool: (_flag, "true or false"),
    float: (float, "a number of seconds"),
    int: (_whole_number, "a whole number, such as 500, 50_000 or 20MiB"),
    tuple[str, ...]: (_listed(str), "networks separated by commas, such as 10.1.0.0/16"),
    tuple[int, ...]: (_listed(int), "ports separated by commas, such as 81,8443"),
}


def add_column_options(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Add the options that name a table's columns; with `several`, there may be several columns of captions."""
    group = parser.add_argument_group(INPUT)
    add = group.add_argument
    add(
        "--url-col",
        metavar="COLUMN",
        help="column of images, or of paths or URLs of images; by default a column of images identified by its name and type, otherwise `url`; see "
        "docs/tables.md#which-columns",
    )
    text = "column of captions; by default `caption`"
    if several:
        text += "; may be repeated: each then has its own output columns, `similarity_COLUMN` and `error_COLUMN`"
        add("--caption-col", metavar="COLUMN", action=_Again, help=text)
        add(
            "--references-col",
            metavar="COLUMN",
            action=_Again,
            help="column of reference captions, for `--score ref_clipscore`; each cell is a list, a JSON list or a "
            "single text; may be repeated",
        )
    else:
        add("--caption-col", metavar="COLUMN", help=text)
    add_dialect(parser)


class _Again(argparse.Action):
    """Collects the values of a repeated option in a tuple."""

    def __call__(self, parser: argparse.ArgumentParser, options: argparse.Namespace, value: Any, *_: Any) -> None:
        setattr(options, self.dest, (*again(getattr(options, self.dest)), value))


def again(value: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the values of an option that may be repeated."""
    return value or ()


def columns_given(options: argparse.Namespace) -> dict[str, str]:
    """Return the columns that the options name, as keyword arguments; columns without an option keep their defaults."""
    given = {"col_url": options.url_col, "col_text": options.caption_col}
    return {name: column for name, column in given.items() if column is not None}


def add_dialect(parser: argparse.ArgumentParser) -> None:
    """Add the options for the dialect of CSV and TSV files."""
    group = parser.add_argument_group(INPUT)
    for field in fields(Dialect):
        add_field(group, Dialect, field.name)


def dialect_of(options: argparse.Namespace) -> Dialect:
    """Return the dialect from the options, or the default one if the command has no such options."""
    return Dialect(**{f.name: getattr(options, f.name) for f in fields(Dialect) if hasattr(options, f.name)})


def add_log_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for how a job reports its progress."""
    group = parser.add_argument_group(LOG)
    add = group.add_argument
    add_log_format(parser)
    add(
        "--heartbeat",
        metavar="SECONDS",
        type=seconds,
        default=60.0,
        help="seconds between log lines about progress, if stderr is not a terminal or the log is JSON; 0 disables them",
    )
    add("--quiet", action="store_true", help="show neither progress nor the final table, only warnings and errors")


def add_log_format(parser: argparse.ArgumentParser) -> None:
    """Add the option for the format of stderr."""
    group = parser.add_argument_group(LOG)
    text = "format of stderr: `text`, or `json` with one object per line; see docs/command_line.md#log-lines"
    group.add_argument("--log-format", default="text", choices=LOG_FORMATS, help=text)


def progress_bar(options: argparse.Namespace, unit: str) -> ProgressBar:
    """Return the progress bar or heartbeat that the log options select."""
    return ProgressBar(unit, heartbeat_s=options.heartbeat, bar=draws_bars(options))


def draws_bars(options: argparse.Namespace) -> bool:
    """Tell whether progress bars may be drawn: only on a terminal, and not between lines of JSON."""
    return options.log_format == "text" and sys.stderr.isatty()


def setting(text: str) -> tuple[str, str]:
    """Parse `KEY=VALUE`."""
    key, equals, value = text.partition("=")
    if not (equals and key.strip()):
        raise argparse.ArgumentTypeError(f"{text} must have the form KEY=VALUE")
    return key.strip(), value.strip()


def add_force(parser: argparse.ArgumentParser) -> None:
    """Add the option that lets a command replace any file."""
    group = parser.add_argument_group(OUTPUT)
    text = "replace an existing output file, even one that this command did not write"
    group.add_argument("--force", action="store_true", help=text)


def add_drop_columns(parser: argparse.ArgumentParser) -> None:
    """Add the option for leaving out columns."""
    group = parser.add_argument_group(OUTPUT)
    group.add_argument(
        "--drop-col",
        metavar="NAME",
        action="append",
        default=[],
        help="column of IN to leave out of OUT, such as a column of images; may be repeated",
    )


def check_output(path: Path, *, mark: bytes, force: bool = False, besides: Iterable[str | Path | None] = ()) -> None:
    """Check, before a long run, that its output file can be written and would replace nothing of value.

    Args:
        path: The file to write.
        mark: Pattern that matches the beginning of every file that the command writes.
        force: Whether files that the command did not write may be replaced.
        besides: Files that must never be replaced; an item that is None is ignored.

    Raises:
        UsageError: The path is a folder, is in a folder that does not exist, is a link out of its folder, is one of
            `besides`, or names a file that this command did not write.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file to write")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path} cannot be written: the folder {path.parent} does not exist; create it first")
    place = place_of(path)
    if any(place == Path(other).resolve() for other in besides if other is not None):
        raise UsageError(f"{path} is used by this run and would be overwritten; name another file")
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except FileNotFoundError:
        return
    except OSError as exc:
        raise UsageError(f"{path} cannot be replaced: {exc.strerror or exc}") from exc
    if head and not force and not re.match(mark, head, re.DOTALL):
        raise UsageError(f"{path} was not written by this command; name another file, or replace it with --force")


def seconds(text: str) -> float:
    """Parse a number of seconds, from 0 to a day."""
    if not 0 <= (value := float(plain_number(text))) <= 86_400:
        raise argparse.ArgumentTypeError(f"{text} must be a number of seconds from 0 to 86400 (one day)")
    return value


def config_of(options: argparse.Namespace) -> Config:
    """Return the settings from the options; settings without an option keep their defaults.

    Raises:
        ConfigError: A value is not valid, or values cannot be combined.
    """
    names = {field.name for field in fields(Config)} - {"limits", "dialect"}
    given = {name: value for name, value in vars(options).items() if name in names and value is not None}
    if isinstance(models := given.get("model"), tuple):  # several models do not fit in the setting
        given["model"] = models[0] if len(models) == 1 else Config().model
    return Config(**given, limits=Limits(**dict(options.limits)), dialect=dialect_of(options))
