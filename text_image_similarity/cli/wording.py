"""Reword errors for the command line: `precision='fp16' needs a GPU` becomes `--precision fp16 needs a GPU`.

The other packages do not know the command line. If a message of another package names an option anyway, the parameter
follows in parentheses, as in `--force (force=True)`, and is removed here.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Iterable

QUOTES = ("'", '"')
_PLAIN = re.compile(r"[\w@+=:,./\\-]+")  # text that needs quotes neither in cmd nor in PowerShell
_PART = r"[^()]*"
for _ in range(3):  # levels of nested parentheses
    _PART = rf"(?:[^()]|\({_PART}\))*"
# The parentheses after an option: `--force (force=True)`, `--image-col (ProductColumns(images=...))`, `--files-under FOLDER (files_under)`.
_ASIDE = re.compile(
    rf"(--[a-z-]+[^()\n]{{0,80}}?) \([A-Za-z_]+(?:={_PART}|\({_PART}\))\)|(--[a-z-]+(?: [A-Z]+)?) \([a-z_]+(?:, [a-z_]+)*\)"
)
# Quoted text, which stays unchanged; or a parameter, with or without a value, that is not part of a path or URL.
_PARAMETER = re.compile(
    r"""(?<![\w=])(?:'[^'\n]*'|"[^"\n]*")|(?<![\w.'"/?&:=-])([a-z][a-z_]*)(?:=('[^']*'|"[^"]*"|[\w.+-]++(?![/:@]))|(?![\w'"/(=-]|\.\w))"""
)


def options_by_name(actions: Iterable[argparse.Action]) -> dict[str, tuple[str, bool]]:
    """Return the option for each parameter of a command, and whether it takes a value."""
    return {action.dest: (action.option_strings[-1], action.nargs != 0) for action in actions if action.option_strings}


def in_options(text: str, options: dict[str, tuple[str, bool]]) -> str:
    """Return an error's text with the command's options instead of Python's parameters.

    Args:
        text: The error's text.
        options: Options by parameter, from `options_by_name`.

    Example:
        >>> in_options("top_k=0 must be 1 to 1000", {"top_k": ("--top-k", True)})
        '--top-k 0 must be 1 to 1000'
    """

    def name(found: re.Match[str]) -> str:
        parameter, value = found.groups()
        if parameter is None:
            return found.group()
        option, takes_value = options.get(parameter, ("", False))
        if not option or (value is None and "_" not in parameter):  # a word such as `model` may also be plain English
            return found.group()
        if value is None or (value == "True" and not takes_value):
            return option
        if not takes_value:
            return found.group()
        return f"{option} {shlex.quote(value[1:-1]) if value[0] in QUOTES else value}"

    return _PARAMETER.sub(name, _ASIDE.sub(r"\1\2", text))


def command_line(words: Iterable[str], *, windows: bool = os.name == "nt") -> str:
    """Return a command that can be pasted into a shell; Windows' `cmd` knows only double quotation marks."""
    if not windows:
        return shlex.join(words)
    return " ".join(word if _PLAIN.fullmatch(word) else '"' + word.replace('"', '\\"') + '"' for word in words)
