"""The web page at `/`: plain files of this package, with headers that let them ask this service and nobody else.

There is no build step and no template. The browser checks its copy by ETag on every visit, so a new version of the service
shows its own page at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files

from fastapi import FastAPI, HTTPException, Request, Response

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
}
# Pictures are those that the visitor handed over (blob:) or pasted (data:); no address of a stranger is ever asked.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media_type: str
    etag: str


def add_page(app: FastAPI) -> None:
    """Serve the web page at `/` and what it loads under `/page/`.

    Args:
        app: Gets two routes, which are not in its OpenAPI document. An unknown file raises `HTTPException(404)`.
    """
    found = _read()

    async def index(request: Request) -> Response:
        return _answer(request, found["index.html"])

    async def part(request: Request, name: str) -> Response:
        if name not in found:
            raise HTTPException(404, "the page has no such file")
        return _answer(request, found[name])

    methods = ["GET", "HEAD"]
    app.add_api_route("/", index, methods=methods, include_in_schema=False, response_class=Response)
    app.add_api_route("/page/{name}", part, methods=methods, include_in_schema=False, response_class=Response)


def _read() -> dict[str, _File]:
    """Return the page's files by name, from a folder or from a place in a zip."""
    found = {}
    for place in files(__package__).iterdir():
        media_type = _TYPES.get(place.name.rpartition(".")[2])
        if media_type and place.is_file():
            content = place.read_bytes()
            found[place.name] = _File(content, media_type, f'"{sha256(content).hexdigest()[:32]}"')
    return found


def _answer(request: Request, file: _File) -> Response:
    headers = {**_HEADERS, "ETag": file.etag}
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if file.etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
