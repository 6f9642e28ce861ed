"""The service as an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_swagger import patch_fastapi  # type: ignore[import-untyped]

from ...system import package_version
from ..inference.local import LocalBackend
from ..page.static import add_page
from ..pool import Backend
from ..settings import Settings
from ..telemetry.metrics import Metrics
from ..telemetry.tracing import Tracing
from . import legacy, routes
from .bodies import add_problems
from .middleware import Gate
from .openapi import add_document

_ABOUT = """Score how well images match their captions, and embed both.

Errors of whole requests are RFC 9457 problem details with a `code`; a pair's own error stands beside the other pairs'
scores. Every answer carries `X-Request-Id`."""


def create_app(settings: Settings, *, backend: Backend | None = None, metrics: Metrics | None = None) -> FastAPI:
    """Return the service; its models are loaded when it starts.

    Args:
        settings: Those of the service.
        backend: Answers the requests; None keeps the models in this process.
        metrics: What the backend tells its metrics to, where one is given.

    Example:
        >>> from text_image_similarity import Config
        >>> create_app(Settings(models={"mini": Config(model="mini")})).title
        'text_image_similarity'
    """
    metrics = metrics or Metrics()
    backend = backend or LocalBackend(settings, metrics)
    tracing = Tracing(settings.otlp_endpoint)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await backend.start()
        try:
            yield
        finally:
            await backend.close()
            tracing.close()

    app = FastAPI(
        title="text_image_similarity",
        description=_ABOUT,
        version=package_version(),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        swagger_ui_oauth2_redirect_url=None,
    )
    app.state.settings, app.state.backend, app.state.metrics = settings, backend, metrics
    app.state.draining = False  # set when the service is about to end
    for router in (routes.work, routes.about, legacy.work, legacy.about):
        app.include_router(router)
    patch_fastapi(app, redirect_from_root_to_docs=False, swagger_ui_parameters={"tryItOutEnabled": True})
    add_page(app)
    add_problems(app)
    add_document(app, settings)

    app.add_middleware(Gate, settings=settings, backend=backend, metrics=metrics, tracing=tracing)
    return app
