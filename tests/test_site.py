"""The documentation as a site: whole, and of this repository alone. `make check` builds it."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from mkdocs.structure.pages import Page

import text_image_similarity
from scripts import site_pages
from tests.support.pages import fenced
from tests.support.paths import ROOT

PAGE = Page(None, File("index.md", "docs", "site", use_directory_urls=False), MkDocsConfig())


def test_every_public_name_is_documented_once() -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "python").glob("*.md"))
    named = re.findall(r"^::: text_image_similarity\.(\w+)$", pages, re.MULTILINE)
    assert sorted(named) == sorted(set(text_image_similarity.__all__) - {"__version__"})


def test_the_first_page_prints_what_it_says() -> None:
    page = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    (program,), (promised,) = fenced(page, "python"), fenced(page, "text")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == promised


@pytest.mark.parametrize(
    "tag",
    [
        '<script src="https://x.example/a.js">',
        '<img alt="" src=//x.example/a.png>',
        '<link rel=icon href="http://x/i">',
    ],
)
def test_a_page_that_loads_from_another_host_is_refused(tag: str) -> None:
    with pytest.raises(PluginError, match=r"index\.md loads .* from another host"):
        site_pages.on_post_page(f"<p>{tag}", page=PAGE)
    harmless = '<p><img src="a.png"><script src="assets/a.js"></script><a href="https://x.example">x</a>'
    assert site_pages.on_post_page(harmless, page=PAGE) == harmless


def test_links_out_of_docs_lead_to_what_is_published() -> None:
    given = "[a](../README.md#use) [b](../deploy/ray/serve.yaml) [c](images.md#proxies) [d](https://x.example/../a)"
    expected = "[a](index.md) [b](project/deploy/ray/serve.yaml) [c](images.md#proxies) [d](https://x.example/../a)"
    assert site_pages.on_page_markdown(given, page=PAGE) == expected


def test_the_http_page_names_every_path_and_body() -> None:
    document = {
        "components": {"schemas": {"Pair": {"properties": {"text": {"type": "string"}}, "required": ["text"]}}},
        "paths": {
            "/v1/x": {
                "post": {
                    "summary": "Score.",
                    "parameters": [
                        {"name": "limit", "in": "query", "schema": {"type": "integer"}, "description": "a|b"}
                    ],
                    "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Pair"}}}},
                    "responses": {"200": {"description": "Fine."}, "429": {"description": "Come back."}},
                }
            }
        },
    }
    page = site_pages.http_page(document)
    assert page.count("## POST /v1/x\n\nScore.\n") == 1
    assert r"| `limit` | query | integer | a\|b |" in page
    assert "| `application/json` | `text` (required): string |" in page
    assert "| 429 | Come back. |" in page
    assert "Responses: 200, 429." in page
