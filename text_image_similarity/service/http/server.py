"""The service as a process: a listening socket and a graceful shutdown."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from ...errors import UsageError
from ..audit import AuditLog
from ..inference.local import LocalModelPool
from ..settings import Settings
from ..telemetry.metrics import Metrics
from .app import create_app, open_catalogs
from .connections import LimitedProtocol
from .peers import allow_open_files
from .small_reads import SmallReads, new_buffer

logger = logging.getLogger("text_image_similarity")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_CLOSING_S = 0.01  # until the event loop has released a listening socket
_GRACE_S = 1.0  # for the first request of a connection that was opened just before listening ended


def serve(settings: Settings, *, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Load the models, listen, and return after SIGTERM or SIGINT once all accepted requests are answered.

    On the first signal, /readyz fails and responses ask clients to close their connections; after `drain_delay_s`,
    listening stops. A second signal ends the delay, and a third one ends the process.

    Args:
        settings: Settings of the service.
        host: Address to listen on; 0.0.0.0 means all addresses of this machine.
        port: Port to listen on; 0 picks a free port, which the log shows.

    Raises:
        ConfigError, ModelError: A model cannot be loaded.
        UsageError, TableError, DatabaseError: The service cannot listen on the address, or a catalogue cannot be
            opened.
    """
    listener = _bind(host, port)
    with listener:
        for library in ("uvicorn.error", "python_multipart"):  # these log a line for each malformed request
            logging.getLogger(library).setLevel(logging.ERROR)
        signal.signal(signal.SIGTERM, _stop_loading)
        metrics = Metrics()
        pool = LocalModelPool(settings, metrics)
        pool.load()
        app = create_app(settings, pool=pool, metrics=metrics)
        open_catalogs(app)
        allow_open_files()
        config = uvicorn.Config(
            app,
            http=protocol_of(app.state.audit),  # type: ignore[arg-type]
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            # By default, uvicorn would trust the X-Forwarded-For header of any client on this machine.
            proxy_headers=bool(os.environ.get("FORWARDED_ALLOW_IPS")),
            timeout_keep_alive=75,  # longer than load balancers keep an idle connection
            timeout_graceful_shutdown=max(1, round(2 * settings.request_timeout_s)),
        )
        _Server(config, app, settings.drain_delay_s).run(sockets=[listener])
        gc.unfreeze()  # otherwise, libraries complain at exit


class _Server(uvicorn.Server):
    """Uvicorn's server, which continues to listen for a while after the signal to end."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, drain_delay_s: float) -> None:
        super().__init__(config)
        self._app, self._delay = app, drain_delay_s

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Treat signals as requests to end, and exit with code 0 afterwards."""
        loop = asyncio.get_running_loop()

        def handle(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self._end)

        earlier = {number: signal.signal(number, handle) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)

    def _end(self) -> None:
        if self.should_exit:
            self.force_exit = True
        elif self._app.state.draining:
            self.should_exit = True
        else:
            logger.info("draining: waiting %.0f s for load balancers, then finishing accepted requests", self._delay)
            self._app.state.draining = True
            asyncio.get_running_loop().call_later(self._delay, self._stop_listening)

    def _stop_listening(self) -> None:
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        _calm_collector()
        for listener in sockets or []:
            address = _authority(*listener.getsockname()[:2])
            logger.info("serving on http://%s (page: /, API: /docs); models: %s", address, _describe_models(self._app))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, respond to connected clients, and finish."""
        queues = [listener.dup() for listener in sockets or []]
        for server in self.servers:
            server.close()
        await asyncio.sleep(_CLOSING_S)
        for queue in queues:
            await self._accept_pending(queue)
        end = time.monotonic() + _GRACE_S
        while time.monotonic() < end and not self.force_exit and any(c.cycle is None for c in self._connections()):
            await asyncio.sleep(0.01)
        ending = asyncio.create_task(self._end_writes())
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    async def _end_writes(self) -> None:
        """After a request's time limit, end writes to catalogues: a slow image host must not delay the shutdown."""
        await asyncio.sleep(self._app.state.settings.request_timeout_s)
        for upkeep in self._app.state.upkeep.values():
            await upkeep.end()

    def _connections(self) -> list[Any]:
        return list(self.server_state.connections)

    async def _accept_pending(self, queue: socket.socket) -> None:
        """Accept the connections that the system has already completed, which closing the socket would reset."""
        last = []
        with queue, suppress(BlockingIOError):
            while True:
                last.append(queue.accept()[0])
        for connection in last:
            connection.setblocking(False)
            await asyncio.get_running_loop().connect_accepted_socket(self._make_protocol, connection)

    def _make_protocol(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made


def _calm_collector() -> None:
    """Make Python's garbage collector run rarely, and skip permanent objects.

    The collector stops all threads while it runs: 50 to 100 ms with libraries and models loaded, about every second
    under load.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def _stop_loading(number: int, frame: FrameType | None) -> None:
    """Exit while models are loading, with SystemExit, because libraries may catch an Exception."""
    raise SystemExit(128 + number)


def _bind(host: str, port: int) -> socket.socket:
    """Bind the address before models are loaded, so that an unusable one is reported at once."""
    try:
        name = host[1:-1] if host.startswith("[") and host.endswith("]") else host  # as written in a URL
        family = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)[0][0]
        with ExitStack() as unless_bound:
            listener = unless_bound.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((name, port))
            unless_bound.pop_all()
    except (OSError, OverflowError) as exc:
        taken = isinstance(exc, OSError) and exc.errno == errno.EADDRINUSE
        advice = "; stop the program that listens there, or choose another port with --port" if taken else ""
        raise UsageError(f"cannot listen on {_authority(host, port)}: {exc}{advice}") from exc
    return listener


def _describe_models(app: FastAPI) -> str:
    """Return the names of the models, with the devices of those that are loaded."""
    models = app.state.pool.models()
    return ", ".join(name if facts is None else f"{name} on {facts['device']}" for name, facts in models.items())


def _authority(host: str, port: int) -> str:
    """Return an address and a port as written in a URL."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def protocol_of(audit: AuditLog) -> Callable[..., asyncio.BaseProtocol]:
    """Return a function that creates the protocol of a connection; exceeded limits are written to the audit log."""
    audited = type("AuditedProtocol", (LimitedProtocol,), {"audit": audit})
    buffer = new_buffer()
    return lambda **options: SmallReads(audited(**options), buffer)
