"""Write the tables of options and limits in docs/command_line*.md from the parsers; `make docs` runs it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path

from text_image_similarity import Limits
from text_image_similarity.cli.main import make_parser
from text_image_similarity.cli.options import MULTIPLES
from text_image_similarity.cli.parser import default_of, field_texts

DOCS = Path(__file__).resolve().parent.parent / "docs"
MARKED = re.compile(r"(<!-- ([\w -]+): written by make docs -->\n).*?(<!-- end -->\n)", re.DOTALL)


def pages() -> dict[Path, str]:
    """Return the pages about the command line, each with its text."""
    return {path: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("command_line*.md"))}


def documented(texts: Mapping[Path, str]) -> dict[Path, str]:
    """Return the pages with up-to-date tables between their markers."""
    tables = {"limits": _limits()} | {name: _options(parser) for name, parser in make_parser()[1].items()}
    if sorted(name for text in texts.values() for _, name, _ in MARKED.findall(text)) != sorted(tables):
        raise ValueError(f"the pages must have one mark for each of {', '.join(tables)}")
    return {
        path: MARKED.sub(lambda found: f"{found[1]}{tables[found[2]]}{found[3]}", text) for path, text in texts.items()
    }


def _options(parser: argparse.ArgumentParser) -> str:
    rows = []
    for action in parser._actions:  # argparse has no public way to list its actions
        if action.option_strings and action.dest != "help":
            option = " ".join(filter(None, (action.option_strings[-1], _value(action))))
            default = "off" if action.nargs == 0 else default_of(action) and f"`{default_of(action)}`"
            rows.append((f"`{option}`", default, action.help or ""))
    return _table("option", rows)


def _value(action: argparse.Action) -> str:
    if action.nargs == 0 or action.choices:
        return ""
    value = str(action.metavar or action.dest.upper())
    return f"[{value}]" if action.nargs == "?" else value


def _limits() -> str:
    texts = field_texts(Limits)
    return _table("limit", ((f"`{f.name}`", f"`{_limit(f.default)}`", texts[f.name]) for f in fields(Limits)))


def _limit(value: object) -> str:
    """Return a limit as `--limit` reads it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, bool) or not isinstance(value, int):
        return f"{value:g}" if isinstance(value, float) else str(value).lower()
    multiples = (f"{value // size}{unit}" for unit, size in MULTIPLES.items() if value % size == 0)
    return next(multiples, f"{value:_}")


def _table(kind: str, rows: Iterable[tuple[str, str, str]]) -> str:
    lines = [(kind, "default", "meaning"), ("---", "---", "---"), *rows]
    return "".join(f"| {' | '.join(_linked(cell).replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _linked(text: str) -> str:
    """Turn a text's references to the documentation into links."""

    def link(found: re.Match[str]) -> str:
        page, anchor = found[1], found[2] or ""
        headings = re.findall(r"^#+ (.+)$", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)
        name, *_ = [name for name in headings if _anchor(name) == anchor] if anchor else headings
        return f"[{name}]({page}{anchor})"

    return re.sub(r"docs/([\w-]+\.md)(#[\w-]+)?", link, text)


def _anchor(heading: str) -> str:
    """Return the anchor of a heading, as the site makes it."""
    return "#" + re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


if __name__ == "__main__":
    for path, text in documented(pages()).items():
        path.write_text(text, encoding="utf-8")
