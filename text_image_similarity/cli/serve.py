"""`serve`: run the scorer as an HTTP service."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..config import Config
from ..errors import UsageError
from ..service.keys import ApiKey, read_keys
from ..service.settings import AUDIT_VARIABLE, CACHE_VARIABLE, KEYS_VARIABLE, TRACES_VARIABLE, Settings
from .options import (
    LOG,
    MODEL,
    add_fetch_options,
    add_log_format,
    add_runtime_options,
    add_worker_options,
    config_of,
    folder,
    seconds,
)
from .parser import Parser, add_field
from .terminal import logger

MAX_PIXELS = (
    25_000_000  # half the limit for a table's images: a few bytes from a stranger can declare an image of any size
)
MAX_BYTES = 10 << 20
_MEGABYTE = 1 << 20
_UNITS = {"GiB": 1 << 30, "MiB": 1 << 20, "GB": 10**9, "MB": 10**6}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    description = "Score pairs and search catalogues on request, as an HTTP service."
    command = commands.add_parser("serve", help=description, description=description)
    if isinstance(command, Parser):  # a program that embeds this command may bring an argparse.ArgumentParser
        command.reads_environment = True
    add_service_options(command)
    add_log_format(command)
    text = "do not log requests; warnings and errors are still logged"
    command.add_argument_group(LOG).add_argument("--quiet", action="store_true", help=text)
    command.set_defaults(run=run, interrupted="the service had not started yet")


def _port(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, which is a whole number from 0 to 65535")
    return int(text)


def add_service_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for the service's settings."""
    add = parser.add_argument_group("server").add_argument
    add("--host", default="127.0.0.1", help="address to listen on; `0.0.0.0` means all addresses of the machine")
    add(
        "--port",
        type=_port,
        metavar="N",
        default=8000,
        help="port to listen on; 0 picks a free port, which the log shows",
    )
    add(
        "--allowed-host",
        dest="allowed_hosts",
        metavar="NAME",
        action="append",
        help="host name that requests may use in their Host header, such as `scores.example.com` or `*.example.com`, besides "
        "IP addresses and `localhost`; may be repeated. By default, any name is allowed, or only `localhost` if `--host` is a loopback address",
    )
    add(
        "--api-key-file",
        metavar="FILE",
        type=Path,
        help="file with one API key per line, either the key alone or a JSON object with a name, a role and a filter; see docs/catalog-service.md#keys; every client must send one of these keys. By default, the keys come from "
        f"the environment variable `{KEYS_VARIABLE}`, separated by commas",
    )
    add(
        "--audit-log",
        metavar="FILE",
        help="audit log: a file that gets a JSON line for each refused key, blocked address, exceeded limit and change to a "
        "catalogue, or `-` for stderr; see docs/service-security.md#the-audit-log; by default, the one named by the "
        f"environment variable `{AUDIT_VARIABLE}`",
    )
    add(
        "--otlp-endpoint",
        metavar="URL",
        help="collector that traces are sent to, as OTLP over HTTP, such as `http://collector:4318`; see "
        f"docs/monitoring.md#traces; by default, the one named by the environment variable `{TRACES_VARIABLE}`",
    )
    _add_model_options(parser)
    add_runtime_options(parser)
    _add_request_limits(parser)
    _add_image_limits(parser)
    _add_catalog_options(parser)
    add_fetch_options(parser)
    add_worker_options(parser, io_workers=128)


def _add_request_limits(parser: argparse.ArgumentParser) -> None:
    """Add the options that limit how much work is accepted and how long it may take."""
    group = parser.add_argument_group("requests")
    add = group.add_argument
    add_field(group, Settings, "cache_entries")
    add(
        "--max-wait-ms",
        type=float,
        metavar="N",
        default=5.0,
        help="longest time in milliseconds that an incomplete batch waits for more pairs",
    )
    for name in ("max_queue", "max_inflight", "max_pairs"):
        add_field(group, Settings, name)
    add(
        "--max-body-mb",
        type=int,
        metavar="N",
        default=32,
        help="largest body of a request, or of the response to a search, in MiB",
    )
    add_field(group, Settings, "request_timeout_s", type=seconds)
    add_field(group, Settings, "drain_delay_s", type=seconds)


def _add_image_limits(parser: argparse.ArgumentParser) -> None:
    """Add the options that limit the size of images."""
    group = parser.add_argument_group("requests")
    add = group.add_argument
    add(
        "--max-pixels",
        type=int,
        metavar="N",
        default=MAX_PIXELS,
        help="largest image in a request, in pixels; `--limit max_pixels=...` is the same",
    )
    add(
        "--max-bytes",
        type=int,
        metavar="N",
        default=MAX_BYTES,
        help="largest image file in a request, in bytes; `--limit max_bytes=...` is the same",
    )


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for the models to serve."""
    group = parser.add_argument_group(MODEL)
    add = group.add_argument
    add(
        "--model",
        dest="models",
        metavar="[NAME=]MODEL[@REVISION]",
        action="append",
        help="hub id, folder or alias of a model; NAME is its name in requests; may be repeated; the first is the default. "
        "By default, `fast` is loaded at the start and `accurate` on its first request",
    )
    add("--lazy", action="store_true", help="load models other than the first only when they are first requested")
    add_field(group, Settings, "model_memory", metavar="SIZE", type=_memory)
    add(
        "--split",
        dest="splits",
        metavar="NAME=MODEL:WEIGHT,MODEL:WEIGHT",
        action="append",
        default=[],
        help="model name whose requests are split between models, for canary releases; may be repeated",
    )
    add_field(group, Settings, "ensemble", choices=("mean", "probability"), metavar=None)


def _add_catalog_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for searching catalogues and for logging the searches."""
    group = parser.add_argument_group("catalogues")
    add = group.add_argument
    add(
        "--catalog",
        dest="catalogs",
        metavar="[NAME=]PLACE",
        action="append",
        default=[],
        help="catalogue to search: a folder, `postgresql://...`, or a table of products, which is read into memory; "
        "NAME is its name in requests; may be repeated; the first is the default",
    )
    add_field(group, Config, "files_under", metavar="FOLDER", type=folder)
    add_field(group, Settings, "match_log")
    add_field(group, Settings, "log_queries")
    add_field(group, Settings, "log_place", "--log-to", metavar="PLACE")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    settings = settings_of(options, os.environ)
    from ..service import serve

    if not settings.keys and not _is_loopback(options.host):
        logger.warning(
            "no API key is set, so anyone who can reach the port can use the service; to set one, use --api-key-file"
        )
    serve(settings, host=options.host, port=options.port)
    return 0


def settings_of(options: argparse.Namespace, environment: Mapping[str, str]) -> Settings:
    """Return the service's settings from the options.

    Raises:
        UsageError: An option has a wrong value.
    """
    if ("allow_local_files", True) in options.limits:
        raise UsageError("--limit allow_local_files=true cannot be used with a service, which never reads local files")
    given = {"max_pixels": options.max_pixels, "max_bytes": options.max_bytes} | dict(options.limits)
    options.limits = list(given.items())
    base = config_of(options)
    if base.embedding_cache is None and (cache := environment.get(CACHE_VARIABLE)):
        base = replace(base, embedding_cache=cache)
    models = _models(options.models or ("fast", "accurate"), base)
    lazy = options.lazy or not options.models
    return Settings(
        models=models,
        lazy=frozenset(list(models)[1:]) if lazy else frozenset(),
        model_memory=options.model_memory,
        splits=dict(map(_split, options.splits)),
        ensemble=options.ensemble,
        max_wait_s=options.max_wait_ms / 1000,
        max_queue=options.max_queue,
        max_inflight=options.max_inflight,
        max_pairs=options.max_pairs,
        max_body_bytes=options.max_body_mb * _MEGABYTE,
        request_timeout_s=options.request_timeout_s,
        drain_delay_s=options.drain_delay_s,
        allowed_hosts=_hosts(options.allowed_hosts, options.host),
        api_keys=_keys(options.api_key_file, environment),
        catalogs=_catalogs(options.catalogs),
        match_log=options.match_log,
        log_queries=options.log_queries,
        log_place=options.log_place,
        cache_entries=options.cache_entries,
        audit_log=options.audit_log or environment.get(AUDIT_VARIABLE) or None,
        otlp_endpoint=options.otlp_endpoint or environment.get(TRACES_VARIABLE) or None,
    )


def _hosts(given: list[str] | None, listening: str) -> tuple[str, ...]:
    """Return the allowed host names; on a loopback address, only `localhost` by default, against DNS rebinding."""
    if given:
        return ("localhost", *given)
    return ("localhost",) if _is_loopback(listening) else ("*",)


def _is_loopback(host: str) -> bool:
    name = host.strip("[]")
    return name in ("localhost", "::1") or name.startswith("127.")


def _memory(text: str) -> int:
    """Parse a number of bytes with its unit."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(GiB|MiB|GB|MB)", text, re.ASCII)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 6GiB or 800MB (GiB, MiB, GB or MB)")
    return int(float(found[1]) * _UNITS[found[2]])


def _models(texts: Sequence[str], base: Config) -> dict[str, Config]:
    """Return the settings of each model by its name, from texts of the form `[NAME=]MODEL[@REVISION]`."""
    found: dict[str, Config] = {}
    for text in texts:
        name, config = _model(text, base)
        if name in found:
            raise UsageError(
                f"--model {text}: two models are called {name}; give this one another name, with NAME={config.model}"
            )
        found[name] = config
    return found


def _model(text: str, base: Config) -> tuple[str, Config]:
    """Return the name and the settings of a model, from a text of the form `[NAME=]MODEL[@REVISION]`."""
    name, equals, model = text.partition("=")
    model = model if equals else name
    found, at, revision = model.rpartition("@")
    if not at or model.startswith(("/", ".", "~")):  # a folder's name may contain an @
        found, revision = model, ""
    return name if equals else found, replace(base, model=found, revision=revision or None)


def _catalogs(texts: Sequence[str]) -> dict[str, str]:
    """Return places by name, from `[NAME=]PLACE`; the default name is the place's last part, up to its first dot."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, place = text.partition("=")
        if not equals or not name.replace("-", "").replace("_", "").isalnum():  # such as a URL with a query
            place, name = text, Path(text.partition("?")[0].rstrip("/")).name.partition(".")[0]
        if name in found:
            raise UsageError(
                f"--catalog {text}: two catalogues are called {name}; give this one another name, with NAME={place}"
            )
        found[name] = place
    return found


def _split(text: str) -> tuple[str, dict[str, float]]:
    """Return a split's name, and the weight of each model, from a text `NAME=MODEL:WEIGHT,MODEL:WEIGHT`."""
    name, _, shares = text.partition("=")
    try:
        return name, {model: float(weight) for model, _, weight in (s.rpartition(":") for s in shares.split(","))}
    except ValueError as exc:
        raise UsageError(f"--split {text}: write NAME=MODEL:WEIGHT,MODEL:WEIGHT, such as fast=old:95,new:5") from exc


def _keys(file: Path | None, environment: Mapping[str, str]) -> tuple[ApiKey, ...]:
    if file is None:
        keys = read_keys(environment.get(KEYS_VARIABLE, "").split(","))
        if environment.get(KEYS_VARIABLE) and not keys:
            raise UsageError(f"{KEYS_VARIABLE} contains no key")
        return keys
    try:
        keys = read_keys(file.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeError) as exc:
        raise UsageError(f"--api-key-file {file} cannot be read: {exc}") from exc
    if not keys:
        raise UsageError(f"--api-key-file {file} contains no key")
    return keys
