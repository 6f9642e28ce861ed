"""The API's documentation page at `/docs`: Swagger UI, served with its files from this server."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files

from fastapi import APIRouter, FastAPI, HTTPException, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html

from .static import HEADERS, File, respond

_FILES = {
    "swagger-ui-bundle.js": "application/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def make_documentation_router(app: FastAPI) -> APIRouter:
    """Return the routes of `/docs` and of its files under `/swagger/`; they are not in the OpenAPI document.

    An unknown file raises `HTTPException(404)`.
    """
    place = files("fastapi_swagger.resources")
    found = {name: File.of((place / name).read_bytes(), media_type) for name, media_type in _FILES.items()}
    router = APIRouter(include_in_schema=False, default_response_class=Response)

    async def page(request: Request) -> Response:
        root = request.scope.get("root_path", "").rstrip("/")  # never the Host header, which the client controls
        answer = get_swagger_ui_html(
            openapi_url=f"{root}{app.openapi_url}",
            title=f"{app.title} - Swagger UI",
            swagger_js_url=f"{root}/swagger/swagger-ui-bundle.js",
            swagger_css_url=f"{root}/swagger/swagger-ui.css",
            swagger_favicon_url=f"{root}/swagger/favicon-32x32.png",
            swagger_ui_parameters={"tryItOutEnabled": True},
        )
        answer.headers.update({**HEADERS, "Content-Security-Policy": _policy_of(bytes(answer.body).decode())})
        return answer

    async def part(request: Request, name: str) -> Response:
        if name not in found:
            raise HTTPException(404, "the documentation has no such file")
        return respond(request, found[name])

    router.add_api_route("/docs", page, methods=["GET", "HEAD"])
    router.add_api_route("/swagger/{name}", part, methods=["GET", "HEAD"])
    return router


def _policy_of(html: str) -> str:
    """Return a policy that allows only the page's own scripts, and no resources from elsewhere."""
    hashes = [b64encode(sha256(script.encode()).digest()).decode() for script in _SCRIPT.findall(html)]
    return "; ".join(
        (
            "default-src 'none'",
            " ".join(["script-src 'self'", *(f"'sha256-{each}'" for each in hashes)]),
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
