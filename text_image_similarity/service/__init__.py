"""The scorer as an HTTP service: the same numbers, on request.

    Gate -> routes -> Backend -> ServedModel: fetch, decode (threads) -> Batcher -> encode -> score

`create_app` is the ASGI application, for any server; `serve` runs it in this process. It needs the extra `serve`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .settings import Settings

if TYPE_CHECKING:
    from .app import create_app
    from .server import serve

__all__ = ["Settings", "create_app", "serve"]


def __getattr__(name: str) -> Any:
    """Import what needs the extra when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from . import app, server
    except ModuleNotFoundError as exc:
        if exc.name and exc.name.partition(".")[0] == "text_image_similarity":
            raise
        raise ConfigError(f"the service needs {exc.name}: pip install 'text-image-similarity[serve]'") from exc
    return {"create_app": app.create_app, "serve": server.serve}[name]
