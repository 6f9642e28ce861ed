"""The service as an ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import chain

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.routing import Route
from starlette.types import Lifespan

from ...system import package_version
from ..audit import AuditLog, Note
from ..inference.local import LocalModelPool
from ..page.documentation import make_documentation_router
from ..page.static import make_page_router
from ..pool import ModelPool
from ..search.catalog import ServedCatalog
from ..search.journal import Journal
from ..search.upkeep import Upkeep
from ..settings import Settings
from ..shares import OneByOne
from ..telemetry.metrics import Metrics
from ..telemetry.search import SearchMetrics
from ..telemetry.tracing import Tracing
from . import catalog_routes, legacy, routes, search_routes
from .access import check_keys
from .auditing import Auditor
from .bodies import WorkRoute, add_problems
from .middleware import Gate
from .openapi import add_document_route, complete_document
from .shared_value import SharedValue

_ABOUT = """Score how well images match their captions, embed both, and search catalogues of products.

If a whole request fails, the response is an RFC 9457 problem with a `code`; if a single pair fails, its result contains
an error instead of a score. Every response has an `X-Request-Id`."""


_MATCHING = (search_routes.work, search_routes.images, catalog_routes.similar)
_KEEPING = (
    catalog_routes.admin,
    catalog_routes.writes,
    catalog_routes.batches,
    catalog_routes.products,
    catalog_routes.puts,
    catalog_routes.about,
)


def create_app(settings: Settings, *, pool: ModelPool | None = None, metrics: Metrics | None = None) -> FastAPI:
    """Return the service as an application, which loads its models when it starts.

    Args:
        settings: Settings of the service.
        pool: Pool that processes the requests; None keeps the models in this process.
        metrics: Metrics that `pool` records to; None creates new ones.

    Example:
        >>> from text_image_similarity import Config
        >>> create_app(Settings(models={"mini": Config(model="mini")})).title
        'text_image_similarity'
    """
    metrics = metrics or Metrics()
    pool = pool or LocalModelPool(settings, metrics)
    tracing = Tracing(settings.otlp_endpoint)
    searching = SearchMetrics(metrics.registry if settings.catalogs else CollectorRegistry())
    catalogs = {
        name: ServedCatalog(name, place, settings, pool, searching) for name, place in settings.catalogs.items()
    }
    journal = Journal(settings, catalogs, searching)
    audit = AuditLog(settings.audit_log)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as parts:
            parts.callback(tracing.close)
            await _start_audit(audit, parts)
            await pool.start()
            parts.push_async_callback(pool.close)
            await _start_catalogs(app, parts)
            yield

    app = _bare_app(lifespan)
    app.state.settings, app.state.pool, app.state.metrics = settings, pool, metrics
    app.state.catalogs, app.state.journal, app.state.upkeep = catalogs, journal, {}
    app.state.audit, app.state.reading, app.state.facts = audit, OneByOne(), SharedValue()
    app.state.draining = False  # set once the service has been told to end
    app.include_router(make_documentation_router(app))
    documentation = list(app.routes)  # `/openapi.json`, and `/docs` with its files
    keyed = (routes.work, routes.uploads, routes.about, legacy.work, legacy.batches, *_MATCHING, *_KEEPING)
    open_to_all = (routes.probes, legacy.about, catalog_routes.health, make_page_router())
    for router in (*keyed, *open_to_all):
        app.include_router(router)
    open_routes = [*documentation, *chain.from_iterable(router.routes for router in open_to_all)]
    work_routes = [route for router in keyed for route in router.routes if isinstance(route, WorkRoute)]
    every = [route for router in (*keyed, *open_to_all) for route in router.routes if isinstance(route, Route)]
    add_problems(app, every)
    complete_document(app, settings, {route.path for route in open_routes if isinstance(route, Route)})
    app.add_middleware(
        Gate,
        settings=settings,
        pool=pool,
        metrics=metrics,
        tracing=tracing,
        work_routes=work_routes,
        open_routes=open_routes,
        match_routes=[route for router in _MATCHING for route in router.routes],
        journal=journal,
        auditor=Auditor(audit, settings.keys, every),
    )
    return app


def _bare_app(lifespan: Lifespan[FastAPI]) -> FastAPI:
    """Return an application whose only route is that of the OpenAPI document."""
    app = FastAPI(
        title="text_image_similarity",
        description=_ABOUT,
        version=package_version(),
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        swagger_ui_oauth2_redirect_url=None,
    )
    add_document_route(app)
    return app


def open_catalogs(app: FastAPI) -> None:
    """Open catalogues and logs before the service starts, so that errors are reported at once.

    Raises:
        ConfigError, UsageError, TableError, DatabaseError, ModelError: A catalogue or log cannot be opened.
    """
    app.state.audit.open()
    for served in app.state.catalogs.values():
        served.open()
        check_keys(app.state.settings.keys, served)
    app.state.journal.open()


async def _start_audit(audit: AuditLog, parts: AsyncExitStack) -> None:
    """Start the audit log; its last line records the end of the service."""
    await asyncio.to_thread(audit.open)
    audit.record(Note("service_started", package_version()))
    parts.push_async_callback(asyncio.to_thread, audit.close)
    parts.callback(audit.record, Note("service_stopped", package_version()))


async def _start_catalogs(app: FastAPI, parts: AsyncExitStack) -> None:
    """Start the catalogues, which stop before the models, and the match log, which stops after the last response."""
    catalogs: Mapping[str, ServedCatalog] = app.state.catalogs
    for served in catalogs.values():
        parts.push_async_callback(served.close)
        await served.start()
        check_keys(app.state.settings.keys, served)
    parts.push_async_callback(asyncio.to_thread, app.state.journal.close)
    await asyncio.to_thread(app.state.journal.open)
    for name, served in catalogs.items():
        app.state.upkeep[name] = upkeep = Upkeep(served)
        parts.push_async_callback(upkeep.close)
