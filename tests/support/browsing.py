"""Chromium on a page of the service: opened, watched, and handed files as by a visitor."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import sync_playwright

from tests.support.processes import tool

HOSTILE = [
    "<img src=https://evil.example/x onerror=\"document.title='pwned'\">",
    "<script>document.title='pwned'</script><b id=pwned>bold</b>",
    "</textarea></bdi></li><svg onload=document.title='pwned'><a id=pwned href=javascript:alert(1)>x</a>",
    "=HYPERLINK(\"https://evil.example\";'click')",
    "left \u202eright\u200b \x1b[31m",
    "javascript:document.title='pwned'",
    "https://evil.example/x?\"onmouseover=\"document.title='pwned'",
]


@contextmanager
def chromium() -> Iterator[Any]:
    """Start Chromium without a window."""
    with sync_playwright() as driver:
        running = driver.chromium.launch(
            executable_path=tool("chromium"), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield running
        running.close()


@contextmanager
def watched(browser: Any, service: str, ready: str) -> Iterator[Callable[..., Any]]:
    """Open pages; afterwards check that they asked nobody but the service, and that nothing failed in them unseen.

    Yields:
        A function of the page's path and options of its context, which waits until the page says that it is ready.
    """
    contexts, asked, wrong = [], [], []

    def opened(path: str = "", **options: Any) -> Any:
        context = browser.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(20_000)
        context.on("request", lambda request: asked.append(request.url))
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if _is_wrong(message) else None)
        page.goto(service + path)
        page.wait_for_function(ready)
        return page

    try:
        yield opened
    finally:
        for context in contexts:
            context.close()
    assert asked
    assert [url for url in asked if not url.startswith((service, "data:", f"blob:{service}"))] == []
    assert wrong == []


def _is_wrong(message: Any) -> bool:
    """Say whether the browser complains of the page, and not only of an answer's status."""
    return message.type in ("error", "warning") and not message.text.startswith("Failed to load resource")


def drop(page: Any, *files: tuple[str, str, bytes]) -> None:
    """Drop files (name, type, content) on the page, as from a file manager."""
    page.dispatch_event("h1", "drop", {"dataTransfer": _transfer(page, *files)})


def paste_file(page: Any, *files: tuple[str, str, bytes]) -> None:
    """Paste files (name, type, content), as from a program for pictures."""
    page.evaluate(
        "held => document.body.dispatchEvent(new ClipboardEvent('paste', {bubbles: true, cancelable: true, clipboardData: held}))",
        _transfer(page, *files),
    )


def _transfer(page: Any, *files: tuple[str, str, bytes]) -> Any:
    return page.evaluate_handle(
        """files => {
            const held = new DataTransfer();
            for (const [name, type, text] of files)
                held.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], name, {type}));
            return held;
        }""",
        [(name, kind, base64.b64encode(content).decode()) for name, kind, content in files],
    )
