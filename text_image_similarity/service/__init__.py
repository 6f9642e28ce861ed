"""The scorer as an HTTP service that gives the same scores as a run.

    Gate -> routes -> ModelPool -> ServedModel: fetch, decode (threads) -> Batcher -> encode -> score

`create_app` returns the ASGI application, for any server; `serve` runs it in this process. Both functions need the
extra `serve`, and are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..system import lazy_names

if TYPE_CHECKING:
    from .http.app import create_app
    from .http.server import serve
    from .settings import Settings

__all__ = ["Settings", "create_app", "serve"]

__getattr__, __dir__ = lazy_names(
    __name__, {"http.app": ("create_app",), "http.server": ("serve",), "settings": ("Settings",)}
)
