"""Advice for requests that are too large, or would have too long a response; it depends on the route."""

from __future__ import annotations

_CATALOG = "/v1/catalogs/{catalog}"
_LISTS = {  # the lists of a body that is longer the more it asks for
    "/v1/similarity": ("pairs",),
    "/v1/embeddings": ("input",),
    "/evaluator/v1/evaluation/batch": ("evaluations",),
    f"{_CATALOG}/match": ("queries",),
    f"{_CATALOG}/products:batch": ("products", "delete"),
}
_ANSWERS = {
    f"{_CATALOG}/match": "a smaller top_k, or fewer facets or queries",
    f"{_CATALOG}/facets": "a smaller most, or fewer fields",
    f"{_CATALOG}/products/{{id:path}}/similar": "a smaller top_k",
}
_IMAGES = (
    "/v1/similarity/upload",
    "/evaluator/v1/evaluation/single",
    "/match-image",
    f"{_CATALOG}/products/{{id:path}}",
)


def advise_on_body(path: str) -> str:
    """Return how to make the body of a request to a route shorter."""
    if path in _LISTS:
        return f"send fewer {'inputs' if _LISTS[path] == ('input',) else _LISTS[path][0]} at a time"
    return "send a smaller image" if path in _IMAGES else "send a shorter body"


def advise_on_list(path: str, name: str, *, is_fixed: bool) -> str:
    """Return what to do about a list with too many items.

    Args:
        path: Path of the route.
        name: Name of the list in the body.
        is_fixed: Whether the limit is the route's own, instead of the service's `max_pairs`.
    """
    if name not in _LISTS.get(path, ()):
        return "send a shorter list"
    client = " (LangChain: chunk_size)" if name == "input" else ""
    return f"send several requests{client}" + ("" if is_fixed else ", or ask for a higher --max-pairs on the service")


def advise_on_answer(path: str) -> str:
    """Return how to make the response of a search shorter."""
    return f"request {_ANSWERS.get(path, 'a smaller top_k, or fewer facets')}"
