"""English: the patterns that a native speaker stumbles over most stay out of messages, docstrings, comments and documents."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

from tests.support.paths import ROOT

# What not to write, and what to write instead. "there is no ..." and "is no longer ..." are plain English.
PATTERNS = {
    r"(?<!there )\b(is|are) no (?!longer\b|faster\b|more\b|further\b)": "is not a",
    r"\b(parts?|files?|pairs?|rows?|pictures?|images?|requests?|are|is) in work\b": "in progress, or current",
    r"\bcan(not)? be had\b|\bto be had\b": "is unavailable, or cannot be fetched",
    r"\b(afresh|anew)\b": "again, or from scratch",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\blast words\b": "the final message",
}
PLACES = ("text_image_similarity", "docs", "deploy", "benchmarks", "scripts", "examples")
KINDS = {".py", ".md", ".js", ".html", ".yaml", ".yml", ".sh", ".sql", ".toml"}
# In the rooms and documents that have been gone through for these as well.
STRICTER = {
    r"\bgoes on (where|from|with the same|after)\b|\b(call|command) goes on\b": "resumes",
    r"\ball the same\b": "anyway",
    r"\bas ever\b": "as always",
    r"\bmade if (it|they)\b": "created if",
    r"\btime is over\b": "time is up",
    r"\bin vain\b": "without a result",
    r"\bbehind (the (last|end|others|cursor)|that dot)\b": "after",
    r"\bwill do[.,;]": "works",
    r"\bmay be given again\b": "may be repeated",
    r"\b(notices?|notice) (nothing|but)\b|\bdo(es)? not notice\b": "is unaffected",
}
# Those that have not are outside of the package.
OLDER = ("benchmarks/", "scripts/", "deploy/")


@cache
def prose(path: Path) -> str:
    """Return a file's text, of Python its strings and comments alone, with all white space as single spaces."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        kinds = (tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", -1))
        text = "\n".join(
            token.string for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type in kinds
        )
        text = re.sub(r'"\s*\n\s*f?"|\n\s*# ', " ", text)  # a sentence goes on in the next string or comment
    return " ".join(text.split())


def found_in(text: str, patterns: Mapping[str, str] = PATTERNS) -> list[str]:
    """Return the passages that hold a pattern, each with what to write instead."""
    return [
        f"{text[max(0, match.start() - 40) : match.end() + 40]!r}: write {better!r}"
        for pattern, better in patterns.items()
        for match in re.finditer(pattern, text, re.IGNORECASE)
    ]


def files() -> list[Path]:
    inside = (path for place in PLACES for path in (ROOT / place).rglob("*") if path.suffix in KINDS)
    tops = (ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"))
    return sorted(path for path in (*inside, *tops) if path.is_file() and "node_modules" not in path.parts)


def test_words_are_plain_english() -> None:
    wrong = [f"{path.relative_to(ROOT)}: {passage}" for path in files() for passage in found_in(prose(path))]
    assert not wrong, "\n".join(wrong)


def test_words_are_those_of_a_native_speaker() -> None:
    gone_through = [path for path in files() if not str(path.relative_to(ROOT)).startswith((*OLDER, "CHANGELOG"))]
    assert len(gone_through) > 300
    wrong = [
        f"{path.relative_to(ROOT)}: {passage}" for path in gone_through for passage in found_in(prose(path), STRICTER)
    ]
    assert not wrong, "\n".join(wrong)


def explained(path: Path) -> str:
    """Return what a file explains in words: a document without its code and links, or the docstrings of a module."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        text = "\n".join(ast.get_docstring(node) or "" for node in ast.walk(ast.parse(text)) if isinstance(node, kinds))
        text = re.sub(r"^ *(>>>|\.\.\.).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^( *)```.*?^\1```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^    .*$|`[^`]*`|\]\([^)]*\)", "", text, flags=re.MULTILINE if path.suffix == ".md" else 0)


def test_an_image_is_called_an_image() -> None:
    about_a_drawing = re.compile(r"data-flow picture|the picture in \[CONTRIBUTING|in one picture")
    places = [*(ROOT / "docs").glob("**/*.md"), ROOT / "README.md", *(ROOT / "text_image_similarity").glob("**/*.py")]
    ours = [path for path in places if not str(path.relative_to(ROOT)).startswith(OLDER)]
    assert len(ours) > 250
    for path in ours:
        found = re.search(
            r".{0,40}\b(?<!\.)pictures?\b.{0,40}", about_a_drawing.sub("", explained(path)), re.IGNORECASE
        )
        assert not found, f"{path.relative_to(ROOT)}: {found[0]!r}: write image"


@pytest.mark.parametrize(
    "text",
    [
        "x is no model",
        "links are\nno files",
        "the part in work is lost",
        "it cannot be had",
        "score it anew",
        "mend the row",
    ],
)
def test_patterns_are_found(text: str) -> None:
    assert len(found_in(" ".join(text.split()))) == 1


def test_plain_english_passes() -> None:
    assert not found_in(
        "There is no table. It is no longer there. It will work in work places; recommend it. An amendment."
    )


def test_of_python_only_strings_and_comments_count(tmp_path: Path) -> None:
    path = tmp_path / "example.py"
    path.write_text(
        'for each in work:\n    raise ValueError(\n        "x is "\n        f"no model"\n    )  # the row in\n    # work\n'
    )
    assert len(found_in(prose(path))) == 2
