"""What the documents hold, for the tests that run it."""

from __future__ import annotations

import re

from tests.support.paths import ROOT

DOCS = ROOT / "docs"


def fenced(text: str, language: str) -> list[str]:
    """Return the blocks of a language in a text."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def blocks(page: str, heading: str, language: str) -> list[str]:
    """Return the blocks of a language in a section of a page, up to the next heading of its own level or a higher one."""
    text = (DOCS / page).read_text(encoding="utf-8")
    level = len(heading) - len(heading.lstrip("#"))
    section = re.split(rf"^#{{1,{level}}} ", text.split(f"\n{heading}\n")[1], flags=re.MULTILINE)[0]
    return fenced(section, language)


def probability_line(scored: str) -> str:
    """Return the line of Python that docs/evaluation.md gives for a column of probabilities, by what was scored."""
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    (line,) = re.findall(rf"^\| {scored} \| `(.*)` \|$", page, re.MULTILINE)
    return str(line)
