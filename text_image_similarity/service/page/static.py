"""The web pages at `/` and `/search`: plain files, with headers that let them talk only to this service.

There is no build step and no template. The browser revalidates its copy by ETag on every visit, so a new version of the
service shows its own pages at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files

from fastapi import APIRouter, HTTPException, Request, Response

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
}
# Images are the visitor's own files, files fetched with the key (blob: URLs), or pasted data: URLs; no other host is
# contacted.
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
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class File:
    """A file of a page, shared by all responses."""

    content: bytes
    media_type: str
    etag: str

    @classmethod
    def of(cls, content: bytes, media_type: str) -> File:
        """Return a file with the ETag of its content."""
        return cls(content, media_type, f'"{sha256(content).hexdigest()[:32]}"')


def make_page_router() -> APIRouter:
    """Return the routes of the web pages at `/` and `/search`, and of their files under `/page/`.

    These routes are not in the OpenAPI document. An unknown file raises `HTTPException(404)`.
    """
    found = _read_files()
    router = APIRouter(include_in_schema=False, default_response_class=Response)

    async def index(request: Request) -> Response:
        return respond(request, found["index.html"])

    async def search(request: Request) -> Response:
        return respond(request, found["search.html"])

    async def part(request: Request, name: str) -> Response:
        if name not in found:
            raise HTTPException(404, "the page has no such file")
        return respond(request, found[name])

    methods = ["GET", "HEAD"]
    router.add_api_route("/", index, methods=methods)
    router.add_api_route("/search", search, methods=methods)
    router.add_api_route("/page/{name}", part, methods=methods)
    return router


def _read_files() -> dict[str, File]:
    """Return the page's files by name, from a folder or a zip file."""
    found = {}
    for place in files(__package__).iterdir():
        media_type = _TYPES.get(place.name.rpartition(".")[2])
        if media_type and place.is_file():
            found[place.name] = File.of(place.read_bytes(), media_type)
    return found


def respond(request: Request, file: File) -> Response:
    """Return a file, or a 304 response if the client has it."""
    headers = {**HEADERS, "ETag": file.etag}
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if file.etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
