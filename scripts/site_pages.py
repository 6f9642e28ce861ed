"""Extend the mkdocs site: pages in the repository's root, files that pages link to, and the HTTP reference.

mkdocs calls the functions `on_...` by name. Pages in docs/ link to files outside docs/ with relative paths, as
GitHub expects, so those files are published under project/.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from text_image_similarity import Config
from text_image_similarity.service import Settings, create_app

ROOT = Path(__file__).resolve().parent.parent
PROJECT_PAGES = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
README_LINK = re.compile(r"\]\(\.\./README\.md[^)]*\)")
OUTSIDE = re.compile(r"\]\(\.\./([^)#]+)")
FROM_ROOT = re.compile(r"\]\((?!https?:|#|mailto:)([^)]+)\)")
LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed|link)\b[^>]*?\b(?:src|href)="?((?:https?:)?//[^\s">]+)"""
)
HTTP_INTRODUCTION = """# HTTP

The requests and responses of [the service](service.md), generated from its OpenAPI document.
A running service shows them at `/docs`, with a form for each request.
"""


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages and files that are not in docs/."""
    linked = _linked(files)
    for name in PROJECT_PAGES:
        text = FROM_ROOT.sub(lambda found: f"]({_from_project(found[1])})", (ROOT / name).read_text(encoding="utf-8"))
        files.append(File.generated(config, f"project/{name}", content=text))
    files.append(File.generated(config, "http.md", content=http_page(_openapi())))
    for name in sorted(linked - set(PROJECT_PAGES)):
        files.append(File.generated(config, f"project/{name}", abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Point links out of docs/ to the published files of the repository."""
    if "/" in page.file.src_uri:
        return markdown
    return OUTSIDE.sub(r"](project/\1", README_LINK.sub("](index.md)", markdown))


def on_post_page(output: str, *, page: Page, **_: Any) -> str:
    """Reject a page that would load something from another host.

    Raises:
        PluginError: The page would load something from another host.
    """
    if found := LOADED.search(output):
        raise PluginError(f"{page.file.src_uri} loads {found[1]} from another host; publish the file in docs/")
    return output


def http_page(document: dict[str, Any]) -> str:
    """Return the HTTP reference of a service as Markdown.

    Args:
        document: The service's OpenAPI document.
    """
    lines = [HTTP_INTRODUCTION, *_rows(("status", "when"), _statuses(document))]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            lines += [f"## {method.upper()} {path}", "", operation.get("description") or operation["summary"], ""]
            lines += _rows(("parameter", "in", "type", "what"), _parameters(operation))
            lines += _rows(("body", "fields"), _bodies(operation, document))
            lines += [f"Responses: {', '.join(operation['responses'])}.", ""]
    return "\n".join(lines)


def _openapi() -> dict[str, Any]:
    settings = Settings(models={"mini": Config(model="mini")}, catalogs={"products": str(ROOT / "sample_catalog")})
    return create_app(settings).openapi()


def _parameters(operation: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for each in operation.get("parameters", ()):
        yield f"`{each['name']}`", each["in"], _type(each["schema"]), each.get("description", "")


def _bodies(operation: dict[str, Any], document: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for kind, body in operation.get("requestBody", {}).get("content", {}).items():
        schema = body.get("schema", {})
        found = document["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], schema)
        fields = (
            f"`{name}`{' (required)' if name in found.get('required', ()) else ''}: {_type(each)}"
            for name, each in found.get("properties", {}).items()
        )
        yield f"`{kind}`", "; ".join(fields)


def _statuses(document: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the meaning of each status, over all operations, except for success."""
    operations = (each for operations in document["paths"].values() for each in operations.values())
    answers = {status: answer for each in operations for status, answer in each["responses"].items()}
    for status in sorted(answers):
        if status >= "400":
            yield status, answers[status]["description"]


def _type(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"`{each}`" for each in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("$ref", "").rpartition("/")[2] or schema.get("type", "any"))


def _rows(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> list[str]:
    """Return the lines of a table, or none if it has no rows."""
    found = [
        f"| {' | '.join(cell.replace('|', chr(92) + '|').replace(chr(10), ' ') for cell in row)} |" for row in rows
    ]
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *found, ""] if found else []


def _linked(files: Files) -> set[str]:
    """Return the files outside docs/ that its pages link to."""
    pages = [file.content_string for file in files if file.src_uri.endswith(".md")]
    return {name for page in pages for name in OUTSIDE.findall(page)} - {"README.md"}


def _from_project(link: str) -> str:
    """Return where a link on a page in the repository's root leads, as seen from project/."""
    if link.startswith("docs/"):
        return f"../{link.removeprefix('docs/')}"
    return "../index.md" if link.startswith("README.md") else link
