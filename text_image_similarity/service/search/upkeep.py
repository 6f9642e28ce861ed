"""Changes to a catalogue while it is served: products, and a new model."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from asyncio.subprocess import Process
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import asdict, replace
from typing import Any

from ...config import Config, Limits
from ...decode.isolation import module_path
from ...search import Product
from ..problems import ProblemError
from .catalog import ServedCatalog
from .errors import translated

logger = logging.getLogger("text_image_similarity")

_MOST_WAITING = 16  # waiting requests that write
_LONGEST_S = 600.0  # time limit of a request that writes; proxies do not wait longer
_LINES = 20  # lines of the process's output to show when it fails
_NICENESS = 19
# The arguments arrive on stdin, because they may contain passwords and every user of the machine can read a command line.
_PROGRAM = "import json, sys; from text_image_similarity.cli.main import main; main(json.load(sys.stdin))"
# Without -P, Python would look for modules in the working folder first, which may be one that others write to.
_COMMAND = (sys.executable, "-P", "-c", _PROGRAM)
_OPTIONS = (  # of `catalog reindex`, by the fields of `Config`
    *("device", "precision", "backend", "triton_url", "preprocess", "embedding_cache", "model_cache", "batch_size"),
    *("timeout_s", "retries", "proxy", "ca_file", "headers_file", "base_dir", "files_under", "io_workers"),
)

Check = Callable[[], Coroutine[Any, Any, object]]


class Upkeep:
    """Writes to a served catalogue, one request at a time, and runs `catalog reindex` for it.

    Args:
        served: The catalogue.
    """

    def __init__(self, served: ServedCatalog) -> None:
        self._served = served
        self._writing, self._starting = asyncio.Lock(), asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "write")  # slow image hosts do not delay searches
        self._waiting = 0
        self._process: Process | None = None
        self._state: dict[str, Any] | None = None
        self._following: asyncio.Task[None] | None = None

    @property
    def reindexing(self) -> dict[str, Any] | None:
        """State of the latest reindex requested here: `model`, `state` (`running`, `done` or `failed`), `detail`."""
        return self._state

    async def write(self, products: Sequence[Product], deleted: Sequence[str], check: Check | None) -> dict[str, Any]:
        """Add, replace and delete products, and return the result.

        Args:
            products, deleted: Products to write and ids to delete.
            check: Function that raises an error if the change is not allowed; no other process writes between this
                check and the end. None allows everything.

        Raises:
            ProblemError: `queue_full`, `catalog_unavailable`, or what `check` or the catalogue refuses.
        """
        if self._waiting >= _MOST_WAITING:
            detail = f"{self._waiting} requests wait to write to {self._served.name}"
            raise ProblemError("queue_full", detail, retry_after_s=2, reason="queue_full")
        self._waiting += 1
        task = asyncio.create_task(self._write_in_turn(products, deleted, check))
        task.add_done_callback(self._count_down)
        try:  # a write that has begun continues, and the next one waits for it
            return await asyncio.wait_for(asyncio.shield(task), _LONGEST_S)
        except TimeoutError as exc:
            detail = (
                f"{self._served.name}: not written within {_LONGEST_S:g} s, but the write may still finish; "
                "send the same request again"
            )
            raise ProblemError("catalog_unavailable", detail, retry_after_s=5) from exc

    async def _write_in_turn(
        self, products: Sequence[Product], deleted: Sequence[str], check: Check | None
    ) -> dict[str, Any]:
        async with self._writing:
            with translated(self._served.name):
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._thread, self._write, products, deleted, check, loop)

    def _count_down(self, task: asyncio.Task[dict[str, Any]]) -> None:
        self._waiting -= 1
        if not task.cancelled():
            task.exception()  # it has already been raised, unless no request waited that long

    async def switch(self, *, back: bool) -> None:
        """Switch to the new model, or back to the previous one.

        Raises:
            ProblemError: `conflict`, if there is no such model.
        """
        catalog, wanted = self._served.catalog, "kept" if back else "ready"
        generations = await self._served.call(lambda: catalog.generations)
        with translated(self._served.name):
            generation = next((each for each in generations if each.state == wanted), None)
            if generation is None:
                what = "there is no model to go back to" if back else "no new model is ready; ask for a reindex first"
                raise ProblemError("conflict", what)
            await self._served.prepare(generation)  # prepare it first, so that no query waits for the model
            await asyncio.to_thread(catalog.rollback if back else catalog.switch)

    async def start_reindex(self, model: str) -> None:
        """Start to build the vectors of another model.

        Raises:
            ProblemError: `conflict`, if one is being built here, or the catalogue is in memory.
        """
        async with self._starting:
            if self._process is not None and self._process.returncode is None:
                raise ProblemError(
                    "conflict", f"{self._served.name} is being reindexed; see GET /v1/catalogs/{self._served.name}"
                )
            if self._served.log_place is None:
                raise ProblemError(
                    "conflict",
                    f"{self._served.name} is a table in memory; create a catalogue from it to reindex",
                )
            self._process = process = await asyncio.create_subprocess_exec(
                *_COMMAND,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(module_path())},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                preexec_fn=_be_nice,
            )
            assert process.stdin is not None
            process.stdin.write(json.dumps(reindex_arguments(self._served.place, model, self._served.config)).encode())
            process.stdin.close()
            self._state = {"model": model, "state": "running", "detail": None}
            self._following = asyncio.create_task(self._follow(self._process, self._state))

    async def close(self) -> None:
        """End the process, if it is running; its vectors are kept, and the next process continues."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.terminate()
        if self._following is not None:
            await self._following
        await asyncio.to_thread(self._thread.shutdown)

    async def _follow(self, process: Process, state: dict[str, Any]) -> None:
        assert process.stderr is not None
        lines: list[str] = []
        async for line in process.stderr:
            lines = [*lines, line.decode(errors="replace").rstrip()][-_LINES:]
            state["detail"] = lines[-1][-500:]
        code = await process.wait()
        state["state"] = "done" if code == 0 else "failed"
        if code != 0:
            said = " / ".join(lines)[-1000:]
            logger.warning("reindexing %s ended with exit code %d: %s", self._served.name, code, said)

    def _write(
        self, products: Sequence[Product], deleted: Sequence[str], check: Check | None, loop: asyncio.AbstractEventLoop
    ) -> dict[str, Any]:
        catalog = self._served.catalog
        with nullcontext() if check is None else catalog.searcher.checking():
            if check is not None:
                asyncio.run_coroutine_threadsafe(check(), loop).result()
            gone = catalog.delete(deleted) if deleted else 0
            report = catalog.add(products)
        return {
            "added": report.added,
            "updated": report.updated,
            "unchanged": report.unchanged,
            "deleted": gone,
            "refused": list(report.refusals),
            "failures": dict(report.failures),
        }


def reindex_arguments(place: str, model: str, config: Config) -> list[str]:
    """Return the command line that reindexes a catalogue, with the service's settings for fetching and decoding.

    Args:
        place: The catalogue.
        model: The other model.
        config: The service's settings. Local files that the catalogue's tables could name are also read, and images as
            large as `catalog add` reads: products are the operator's own, unlike images in requests.
    """
    given = {name: getattr(config, name) for name in _OPTIONS}
    usual = Limits()
    larger = {name: max(getattr(config.limits, name), getattr(usual, name)) for name in ("max_bytes", "max_pixels")}
    limits = asdict(replace(config.limits, allow_local_files=True, **larger))
    return [
        *("catalog", "reindex", place),
        f"--model={model}",  # as one word, because a name that begins with - would be taken for an option
        *(
            f"--{name.removesuffix('_s').replace('_', '-')}={value}"
            for name, value in given.items()
            if value is not None
        ),
        *(["--isolate-decoder"] if config.isolate_decoder else []),
        *(f"--limit={name}={_as_text(value)}" for name, value in limits.items()),
    ]


def _as_text(limit: object) -> str:
    """Write a limit as `--limit` reads it."""
    if isinstance(limit, bool):
        return str(limit).lower()
    return (",".join(map(str, limit)) or "none") if isinstance(limit, (tuple, list)) else str(limit)


def _be_nice() -> None:
    os.nice(_NICENESS)
