"""Changes to a catalogue while it is served: writes of products, and the switch to a new model."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from ...config import Config, Limits
from ...decode.isolation import module_path
from ...errors import UsageError
from ...search import AddReport, Product
from ...system import forget_failure
from ..clients import current
from ..problems import ProblemError
from ..shares import Client, FairQueue
from .catalog import ServedCatalog
from .errors import translated

logger = logging.getLogger("text_image_similarity")

AT_ONCE = 4  # requests that write at the same time, each from a different client
_MOST_WAITING = 16  # requests that write or wait to write; one client may have half, and every client at least one
_TURN_S = 10.0  # a write that takes longer lets others begin after its next transaction, and continues in its turn
_LONGEST_S = 600.0  # time limit of a request that writes, because proxies seldom wait longer
_MOST_SAID = 4096  # bytes at the end of the reindexing process's output, to show if it fails
_NICENESS = 19
# The arguments arrive on stdin, because they may contain passwords and every local user can read a command line.
_PROGRAM = "import json, sys; from text_image_similarity.cli.main import main; main(json.load(sys.stdin))"
# Without -P, Python would look for modules in the working folder first, which may be one that others write to.
_COMMAND = (sys.executable, "-P", "-c", _PROGRAM)
_OPTIONS = (  # of `catalog reindex`, by the fields of `Config`
    *("device", "precision", "backend", "triton_url", "preprocess", "embedding_cache", "model_cache", "batch_size"),
    *("timeout_s", "retries", "proxy", "ca_file", "headers_file", "base_dir", "files_under", "io_workers"),
)

# Called with products to write and ids to delete.
Check = Callable[[Sequence[Product], Sequence[str]], Coroutine[Any, Any, object]]
Given = tuple[Sequence[Product], Sequence[str], Check | None]


@dataclass(slots=True)
class _Writing:
    """A request that writes.

    Args:
        client: Client of the request.
        done: Future of the result.
        given: Products and ids that are left to write; empty if none are.
        context, loop: Where `check` runs.
    """

    client: Client
    done: Future[dict[str, Any]]
    given: list[Given]
    context: Context
    loop: asyncio.AbstractEventLoop
    until: float = 0.0  # when its time is up (`time.monotonic`), once the write has begun
    deleted: int | None = None
    report: AddReport = field(default_factory=AddReport)

    def count(self, report: AddReport) -> None:
        """Add the result of a turn to the report."""
        for name in ("added", "updated", "unchanged", "failures", "blocked"):
            setattr(self.report, name, getattr(self.report, name) + getattr(report, name))
        for reason in report.refusals:
            self.report.refuse(reason)

    def as_dict(self) -> dict[str, Any]:
        """Return the result in the form of the response, with the blocked references for the audit log."""
        return {
            "added": self.report.added,
            "updated": self.report.updated,
            "unchanged": self.report.unchanged,
            "deleted": self.deleted or 0,
            "refused": list(self.report.refusals),
            "failures": dict(self.report.failures),
            "blocked": self.report.blocked,
        }


class Upkeep:
    """Writes to a served catalogue, for clients in turn, and runs `catalog reindex` for it.

    Requests of one client are carried out one after another, in order. Slow image hosts delay mostly the client that
    refers to them, and never delay searches. Several clients may write at the same time, because each write holds the
    catalogue's lock only during its transactions. While others wait, a long write is interrupted between transactions.

    Args:
        served: The catalogue.
    """

    def __init__(self, served: ServedCatalog) -> None:
        self._served = served
        self._starting = asyncio.Lock()
        self._threads = ThreadPoolExecutor(AT_ONCE, "write")
        self._turns = FairQueue(lambda _, task: self._threads.submit(task), AT_ONCE, most_of_one=1)
        self._closing = False
        self._asked: dict[Future[dict[str, Any]], Client] = {}  # writes that wait or have begun
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
            check: Function that raises an error if a change is not allowed. It is called for everything first, and
                again for the products of each transaction; no other service writes between a check and the end of its
                transaction. None allows everything.

        Raises:
            ProblemError: `queue_full`, `catalog_unavailable`, or a refusal by `check` or the catalogue; products
                written so far are kept.
        """
        client = current.get()
        self._check_room(client)
        done: Future[dict[str, Any]] = Future()
        self._asked[done] = client
        task = asyncio.create_task(self._translated(done))
        task.add_done_callback(partial(self._count_down, done))
        writing = _Writing(client, done, [(products, deleted, check)], copy_context(), asyncio.get_running_loop())
        self._turns.put(client, partial(self._take_turn, writing))
        try:  # a write that has begun continues, and the client's next one waits for it
            return await asyncio.wait_for(asyncio.shield(task), _LONGEST_S)
        except TimeoutError as exc:
            if done.cancel():  # unless the write has begun
                writing.given.clear()  # the queue holds the task until its turn comes
            task.add_done_callback(forget_failure)
            detail = (
                f"the write to {self._served.name} did not finish within {_LONGEST_S:g} s, but it may still do so; "
                "send the same request again"
            )
            raise ProblemError("catalog_unavailable", detail, retry_after_s=5) from exc

    def _check_room(self, client: Client) -> None:
        own = 0 if client is None else list(self._asked.values()).count(client)
        if own >= _MOST_WAITING // 2 or (len(self._asked) >= _MOST_WAITING and (own or client is None)):
            waiting = f"{len(self._asked)} requests are waiting to write to {self._served.name}"
            detail = f"{waiting}, {own} of them with this key"
            raise ProblemError("queue_full", detail, retry_after_s=2, reason="queue_full")

    async def _translated(self, done: Future[dict[str, Any]]) -> dict[str, Any]:
        with translated(self._served.name):
            return await asyncio.wrap_future(done)

    def _count_down(self, done: Future[dict[str, Any]], task: asyncio.Task[dict[str, Any]]) -> None:
        del self._asked[done]
        if not task.cancelled():
            task.exception()  # the error has already been raised, unless no request waited that long

    async def switch(self, *, back: bool) -> None:
        """Switch to the new model, or back to the previous one.

        Raises:
            ProblemError: `conflict`, if there is no model to switch to.
        """
        catalog, wanted = self._served.catalog, "kept" if back else "ready"
        generations = await self._served.call(lambda: catalog.generations)
        with translated(self._served.name):
            generation = next((each for each in generations if each.state == wanted), None)
            if generation is None:
                what = "there is no model to go back to" if back else "no new model is ready; request a reindex first"
                raise ProblemError("conflict", what)
            await self._served.prepare(generation)  # prepare it first, so that no query waits for the model
            await asyncio.to_thread(catalog.rollback if back else catalog.switch)

    async def start_reindex(self, model: str) -> None:
        """Start to build the vectors of another model.

        Raises:
            ProblemError: `conflict`, if a model's vectors are being built here, or the catalogue is in memory.
        """
        async with self._starting:
            if self._process is not None and self._process.returncode is None:
                raise ProblemError(
                    "conflict", f"{self._served.name} is being reindexed; see GET /v1/catalogs/{self._served.name}"
                )
            if self._served.log_place is None:
                raise ProblemError(
                    "conflict",
                    f"{self._served.name} is a table in memory, which cannot be reindexed; create a catalogue from it",
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

    async def end(self) -> None:
        """End writes: cancel their downloads of images at once, and stop the rest after the current transaction."""
        self._closing = True
        await asyncio.to_thread(self._served.catalog.searcher.end_additions)

    async def close(self) -> None:
        """End writes and the reindexing process, if there is one; the next reindex keeps the vectors written so far."""
        await self.end()
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.terminate()
        if self._following is not None:
            await self._following
        await asyncio.to_thread(self._threads.shutdown)
        for done in tuple(self._asked):
            if not done.done():  # interrupted, or not begun
                done.set_exception(_stopping())

    async def _follow(self, process: Process, state: dict[str, Any]) -> None:
        assert process.stderr is not None
        end, lines = b"", [""]
        while piece := await process.stderr.read(_MOST_SAID):  # a line may have any length
            end = (end + piece)[-_MOST_SAID:]
            lines = end.decode(errors="replace").rstrip().split("\n")
            state["detail"] = lines[-1][-500:]
        code = await process.wait()
        state["state"] = "done" if code == 0 else "failed"
        if code != 0:
            said = " / ".join(lines)[-1000:]
            logger.warning("reindexing %s ended with exit code %d: %s", self._served.name, code, said)

    def _take_turn(self, writing: _Writing) -> None:
        """Write as much of a request as fits in a turn, and queue the rest."""
        done = writing.done
        if not writing.until:
            if not done.set_running_or_notify_cancel():
                return  # no request is waiting for this write
            writing.until = time.monotonic() + _LONGEST_S
        try:
            if not self._closing:
                self._write(writing)
        except BaseException as exc:  # raised again in the request
            ended = self._closing and isinstance(exc, UsageError)  # by `end`
            done.set_exception(_stopping() if ended else exc)
            return
        if writing.given and self._closing:
            done.set_exception(_stopping())
        elif writing.given:
            self._turns.put(writing.client, partial(self._take_turn, writing), first=True)
        else:
            done.set_result(writing.as_dict())

    def _write(self, writing: _Writing) -> None:
        """Write what is in `given`, and leave only the products for which there was no time in this turn."""
        catalog, turn_ends = self._served.catalog, time.monotonic() + _TURN_S
        products, deleted, check = writing.given.pop()

        def allow(products: Sequence[Product], deleted: Sequence[str] = ()) -> None:
            if check is not None:  # in the context of the request, so that clients take turns in reading
                writing.context.run(asyncio.run_coroutine_threadsafe, check(products, deleted), writing.loop).result()

        def ends() -> bool:
            now = time.monotonic()
            return (
                self._closing or now > writing.until or (now > turn_ends and self._turns.keeps_waiting(writing.client))
            )

        if writing.deleted is None:
            with catalog.searcher.checking():
                allow(products, deleted)
                writing.deleted = catalog.delete(deleted) if deleted else 0
        report = catalog.searcher.add(products, allow, ends=ends)
        writing.count(report)
        if (rest := products[report.products :]) and time.monotonic() <= writing.until:
            writing.given.append((rest, (), check))


def _stopping() -> ProblemError:
    return ProblemError("catalog_unavailable", "the service is shutting down; send the request again", retry_after_s=5)


def reindex_arguments(place: str, model: str, config: Config) -> list[str]:
    """Return the command line that reindexes a catalogue, with the service's settings for fetching and decoding.

    Args:
        place: The catalogue.
        model: The other model.
        config: The service's settings. Unlike images in requests, products are the operator's own, so the command also
            reads the local files that the catalogue's tables may name, and images as large as `catalog add` reads.
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
    """Return a limit in the form that `--limit` accepts."""
    if isinstance(limit, bool):
        return str(limit).lower()
    return (",".join(map(str, limit)) or "none") if isinstance(limit, (tuple, list)) else str(limit)


def _be_nice() -> None:
    os.nice(_NICENESS)
