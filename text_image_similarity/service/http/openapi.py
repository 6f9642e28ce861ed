"""The OpenAPI document, which the framework derives from the routes, completed with the service's settings."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic_core import to_json

from ..settings import Settings
from .schema import Problem
from .search_schema import MatchImageRequest

_HEADERS = {
    "X-Request-Id": {
        "description": "The client's request id, or a generated one; also in the log.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
    },
    "Retry-After": {
        "description": "Seconds to wait before sending the same request again.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 60},
    },
}
_LISTS = (("SimilarityRequest", "pairs"), ("EmbeddingsRequest", "input"), ("MatchRequest", "queries"))
_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


def add_document_route(app: FastAPI) -> None:
    """Add `/openapi.json` to an application; it is generated once for each root path of the service."""
    app.openapi_url = "/openapi.json"
    made: dict[str, bytes] = {}

    async def document(request: Request) -> Response:
        root = request.scope.get("root_path", "").rstrip("/")  # from the server, never from a header
        if root not in made:
            servers = {"servers": [{"url": root}]} if root else {}
            made[root] = to_json({**app.openapi(), **servers})
        return Response(made[root], media_type="application/json")

    app.add_route(app.openapi_url, document, include_in_schema=False)


def complete_document(app: FastAPI, settings: Settings, open_paths: Collection[str]) -> None:
    """Add limits, headers, problems and keys to an application's OpenAPI document.

    Args:
        app: The application.
        settings: Settings of the service.
        open_paths: Paths that need no key.
    """
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = made()
            components = document["components"]
            components["schemas"]["Problem"] = Problem.model_json_schema()
            components["schemas"] |= _image_schemas()
            components["headers"] = _HEADERS
            for name, property_ in _LISTS:
                for part in _arrays(components["schemas"][name]["properties"][property_]):
                    part["maxItems"] = settings.max_pairs
            if settings.api_keys:
                components["securitySchemes"] = _KEYS
            for path, operations in document["paths"].items():
                for operation in operations.values():
                    _complete(operation, keyed=bool(settings.api_keys) and path not in open_paths)
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]


def _image_schemas() -> dict[str, Any]:
    """Return the schemas of a request with an image, as JSON and as a form with the file."""
    asked = MatchImageRequest.model_json_schema()
    file = {"type": "string", "format": "binary", "description": "The image's file."}
    others = {name: each for name, each in asked["properties"].items() if name not in ("image_url", "image_base64")}
    form = {**asked, "title": "MatchImageForm", "properties": {"image": file, **others}, "required": ["image"]}
    return {"MatchImageRequest": asked, "MatchImageForm": form}


def _complete(operation: dict[str, Any], *, keyed: bool) -> None:
    """Add the parts that all operations share to an operation of the document."""
    if keyed:
        operation["security"] = [{name: []} for name in _KEYS]
    for status, answer in operation["responses"].items():
        names = ["X-Request-Id", *(["Retry-After"] if status in ("429", "503") else [])]
        answer["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _arrays(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for part in (schema, *schema.get("anyOf", ())):
        if part.get("type") == "array":
            yield part
