"""Parsers whose options come from settings: name, type, default and text are written once, where the field is defined.

The text comes from the class's docstring, where the field is described under `Args`. `--help` shows this text as plain
text, and `scripts/document_options.py` writes the text into docs/command_line*.md.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache
from inspect import cleandoc
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from ..errors import printable_lines
from ..system import closest
from .environment import arguments_of
from .wording import options_by_name

_NUMBERS = {"int": "a whole number", "float": "a number"}
# Options that people try because other programs have them, and what to use here.
ADVICE = {
    "--resume": "a run resumes by itself when you repeat the command",
    "--threshold": "`filter --min` keeps the rows with at least a given score",
    "--min-score": "`filter --min` keeps the rows with at least a given score",
    "--output": "OUT is not an option; write it after IN",
    "--model-engine": "--backend chooses the engine that runs the model",
    "--gpu": "use --device cuda",
    "--fp16": "use --precision fp16",
    "--url-list": "use a table that also has a column of captions",
    "--input-format": "the format is determined by the file's suffix",
    "--output-format": "the format is determined by the file's suffix",
    "--num-workers": "use --io-workers",
    "--workers": "use --io-workers",
}


class Parser(argparse.ArgumentParser):
    """A parser with a short usage line, short errors, and help that shows defaults.

    The backticks of help texts are removed; the documentation keeps them.
    Numbers are checked more strictly than by Python, which accepts `1_0` for 10 and the digits of other scripts.
    """

    reads_environment = False  # whether environment variables may set options
    advice: Mapping[str, str] = ADVICE

    def __init__(self, **given: Any) -> None:
        super().__init__(**{"formatter_class": _HelpFormatter, **given})
        self.register("type", int, lambda text: int(plain_number(text)))
        self.register("type", float, lambda text: float(plain_number(text)))

    def add_argument_group(self, title: str | None = None, *given: Any, **more: Any) -> argparse._ArgumentGroup:
        """Return the group with this title, creating it on first use."""
        for group in self._action_groups:  # argparse has no public way to look up a group
            if title is not None and group.title == title:
                return group
        return super().add_argument_group(title, *given, **more)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse arguments, and report an unknown option under this command's name; argparse would use the program's."""
        if self.reads_environment:
            try:
                args = [*arguments_of(self._actions, os.environ, args), *args]
            except ValueError as exc:
                self.error(str(exc))
        found, unknown = super().parse_known_args(args, namespace)
        if unknown and self._subparsers is None:
            known = [name for action in self._actions for name in action.option_strings]
            names = [word.partition("=")[0] for word in unknown if word.startswith("--")]
            hints = [self.advice[name] for name in names if name in self.advice]
            near = _did_you_mean(closest(name, known) for name in names if name not in self.advice)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{near}{'; '.join(['', *hints])}")
        if self._subparsers is None:
            found.option_names = options_by_name(self._actions)
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Exit with code 2 and a message of two lines, which includes the usage only if arguments are missing."""
        message = re.sub(
            r"invalid (int|float) value: (.*)", lambda wrong: f"{wrong[2]} is not {_NUMBERS[wrong[1]]}", message
        )
        if wrong := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            message += _did_you_mean([closest(wrong[1], re.findall(r"[\w-]+", wrong[2]))])
        if "arguments are required" in message:
            message += f"; {' '.join(self.format_usage().split())}"
        self.exit(2, f"{self.prog}: error: {printable_lines(message)}\nsee {self.prog} --help\n")


def _did_you_mean(names: Iterable[str | None]) -> str:
    found = [name for name in names if name]
    return f"; did you mean {' '.join(found)}?" if found else ""


def plain_number(text: str) -> str:
    """Return a number's text, or raise a `ValueError` for spellings that Python accepts but other programs do not."""
    if "_" in text or not text.isascii():
        raise ValueError
    return text


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def add_usage(self, usage: str | None, actions: Any, groups: Any, prefix: str | None = None) -> None:
        """Write `IN OUT [options]` instead of every option."""
        options = [action for action in actions if action.option_strings]
        if usage is None and options:
            actions = [action for action in actions if not action.option_strings or action.required]
            actions.append(argparse.Action([], "options", metavar="[options]"))
            groups = []
        super().add_usage(usage, actions, groups, prefix)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Wrap a text that is a single line, and keep the line breaks of any other text."""
        if "\n" in text:
            return super()._fill_text(text, width, indent)
        return argparse.HelpFormatter._fill_text(self, text, width, indent)

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = (action.help or "").replace("`", "").replace("%", "%%"), default_of(action)
        return f"{text} (default: {default})" if default else text


def default_of(action: argparse.Action) -> str:
    """Return an option's default as text; empty for flags and for options without a default."""
    if action.nargs == 0 or action.default in (None, argparse.SUPPRESS) or action.default == []:
        return ""
    return f"{action.default:g}" if isinstance(action.default, float) else str(action.default)


def add_field(
    group: argparse._ActionsContainer, kind: type, name: str, option: str | None = None, **changes: Any
) -> None:
    """Add the option for a field of a settings class; its value is stored under the field's name.

    Args:
        group: A parser or an argument group.
        kind: The dataclass. Its fields are numbers, texts, literals or flags that are off by default.
        name: The field's name.
        option: The option's name; by default `--batch-size` for `batch_size`, and `--timeout` for `timeout_s`.
        changes: Other arguments of `add_argument`, which override those of the field.
    """
    hint, option = _hints(kind)[name], option or option_of(name)
    given: dict[str, Any] = {"dest": name, "help": _as_help(field_texts(kind).get(name, ""))}
    if hint is bool:
        given["action"] = "store_true"
    else:
        given["default"] = next(field.default for field in fields(kind) if field.name == name)
        if get_origin(hint) is Literal:
            given["choices"] = get_args(hint)
        elif hint in (int, float):
            given |= {"type": hint, "metavar": "N" if hint is int else "SECONDS" if name.endswith("_s") else "X"}
        else:
            given["metavar"] = option.rpartition("-")[2].upper()
    group.add_argument(option, **{**given, **changes})


_hints = cache(get_type_hints)


def option_of(name: str) -> str:
    """Return the option for a field, such as `--timeout` for `timeout_s`."""
    return f"--{name.removesuffix('_s').replace('_', '-')}"


@cache
def field_texts(kind: type) -> dict[str, str]:
    """Return the description of each field in a class's docstring; empty under `python -OO`, which drops docstrings."""
    _, _, behind = cleandoc(kind.__doc__ or "").partition("\nArgs:\n")
    section = re.match(r"(?: {4}.*(?:\n|\Z))*", behind)
    found = re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", section[0] if section else "", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def _as_help(text: str) -> str:
    """Return a sentence in the style of argparse's own help: `hub id, or ...`."""
    small = text[1:2].islower() or text[1:2] == " "
    return (text[:1].lower() if small else text[:1]) + text[1:].removesuffix(".")
