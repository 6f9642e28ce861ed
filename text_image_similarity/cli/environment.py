"""Options read from environment variables, the usual way to configure a container."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence

# SERVE avoids a clash: Kubernetes sets TEXT_IMAGE_SIMILARITY_PORT in pods for a Service named text-image-similarity.
PREFIX = "TEXT_IMAGE_SIMILARITY_SERVE_"
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


def variable_of(option: str) -> str:
    """Return the environment variable for an option of `serve`.

    Example:
        >>> variable_of("--max-queue")
        'TEXT_IMAGE_SIMILARITY_SERVE_MAX_QUEUE'
    """
    return PREFIX + option.lstrip("-").replace("-", "_").upper()


def arguments_of(
    actions: Iterable[argparse.Action], environment: Mapping[str, str], given: Sequence[str]
) -> Iterator[str]:
    """Yield the arguments for options that are set by environment variables and not on the command line.

    The variable of an option that may be repeated can contain several values, separated by spaces; that of a flag is
    `true`, `1`, `false` or `0`. An empty variable is ignored.

    Args:
        actions: The options.
        environment: The variables.
        given: The command line.

    Raises:
        ValueError: The variable of a flag has another value, or a quotation mark is not closed.
    """
    there = {word.partition("=")[0] for word in given}
    for action in actions:
        if action.option_strings and action.dest != "help" and there.isdisjoint(action.option_strings):
            option = action.option_strings[-1]
            if value := environment.get(variable_of(option), "").strip():
                yield from _arguments(action, option, value)


def _arguments(action: argparse.Action, option: str, value: str) -> Iterator[str]:
    if action.nargs == 0:
        if value.lower() not in _FLAGS:
            raise ValueError(f"the environment variable {variable_of(option)} must be true or false, not {value!r}")
        return iter([option] if _FLAGS[value.lower()] else [])
    try:
        values = shlex.split(value) if isinstance(action, argparse._AppendAction) else [value]
    except ValueError as exc:
        raise ValueError(f"the environment variable {variable_of(option)} cannot be read: {exc}") from exc
    return (f"{option}={each}" for each in values)
