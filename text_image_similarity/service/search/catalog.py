"""Catalogues that are served. The service's models encode their queries, in batches shared with other requests."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from ...config import Config
from ...errors import ConfigError, DatabaseError, RowError, TextImageSimilarityError, UsageError
from ...pipeline import Outcome
from ...search import Catalog, Matches, Query, contents, is_source, open_catalog, open_table_catalog
from ...search.answer import Checked
from ...search.ledger import Generation
from ..jobs import Answer, Span
from ..pool import ModelPool
from ..problems import ProblemError
from ..settings import Settings
from ..telemetry.search import SearchMetrics
from .errors import translated
from .results import Key, Results, Written, blocked_images, key_of
from .scans import Scans
from .threads import Threads
from .thumbnails import Thumbnails

logger = logging.getLogger("text_image_similarity")

_THREADS = 4
_LOOK_EVERY_S = 2.0  # interval at which generations that may soon be used are looked for
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answered:
    """The results of a query.

    Args:
        answer: The products as JSON, or the reason why a term cannot be encoded.
        generation: Number of the generation that was searched.
        milliseconds: Duration of each stage: `encode` and `search`, or only `cache` if the results were cached.
        work: The models' results and the time of the search, for traces.
        blocked: The query's images at blocked addresses, for the audit log.
    """

    answer: Written | RowError
    generation: int
    milliseconds: Mapping[str, float]
    work: tuple[Answer[Any], ...] = ()
    blocked: tuple[object, ...] = ()


class Reply(Protocol):
    """The response to a match request, whose parts are counted as they are written, on any thread.

    Raises:
        ProblemError: From each method, `too_many_bytes` or `queue_full`.
    """

    def write(self, found: Matches | RowError | None) -> Written | RowError:
        """Return the results of a query as JSON; None means that the products have too many characters."""

    def add(self, found: Written) -> None:
        """Count results that are already JSON, because they were cached."""

    def start_over(self) -> None:
        """Forget what has been counted, because all queries are answered again."""


class ServedCatalog:
    """A catalogue that the service searches and changes.

    Args:
        name: Name of the catalogue in requests.
        place: A folder, `postgresql://...`, or a table, which is read into memory.
        settings: Settings of the service; those of its default model apply to images that clients add.
        pool: Pool of models that encode queries.
        metrics: Metrics to record to.

    Attributes:
        thumbnails: Thumbnails of the catalogue's products.
    """

    def __init__(self, name: str, place: str, settings: Settings, pool: ModelPool, metrics: SearchMetrics) -> None:
        self.name, self.place, self._timeout_s = name, place, settings.request_timeout_s
        self._most = settings.max_body_bytes
        config = settings.models[settings.default]
        self._config, self._pool, self._metrics = config, pool, metrics
        self._results = Results()
        self._models: dict[int, str] = {}  # served names by generation
        self._catalog: Catalog | None = None
        self._scans: Scans | None = None
        self._watching: asyncio.Task[None] | None = None
        # Other reads, such as facets, may take a long time and must not delay searches.
        # Nor must they make a write time out halfway, so the checks of writes have separate threads.
        self._searching, self._reading, self._checking = (Threads(name, _THREADS, self._timeout_s) for _ in range(3))
        self.thumbnails = Thumbnails(config, self._timeout_s, self._check_file)

    @property
    def log_place(self) -> str | None:
        """Place of the catalogue's own match log; None for a table, which does not outlast the service."""
        return None if is_source(self.place) else self.place

    @property
    def config(self) -> Config:
        """Settings for fetching, decoding and encoding the images that clients add."""
        return self._config

    @property
    def catalog(self) -> Catalog:
        """The catalogue, once the service has started."""
        assert self._catalog is not None, "the service has not started"
        return self._catalog

    def open(self) -> None:
        """Open the catalogue, or read the table.

        Raises:
            UsageError, TableError, DatabaseError, ModelError: The catalogue cannot be opened.
        """
        if self._catalog is not None:
            return
        if is_source(self.place):
            limits = replace(self._config.limits, allow_local_files=True)  # the images of the operator's own table
            self._catalog, report = open_table_catalog(self.place, config=replace(self._config, limits=limits))
            logger.info("%s: %s of %s products read", self.name, f"{len(self._catalog):,}", f"{report.products:,}")
            for reason in report.refusals:
                logger.warning("%s: %s", self.name, reason)
        else:
            self._catalog = open_catalog(self.place, config=self._config)
        self._scans = Scans(self.name, self._catalog.searcher, self._most, timeout_s=self._timeout_s)
        self._metrics.watch_catalog(self.name, lambda: self.depth)

    async def start(self) -> None:
        """Prepare the catalogue, its model, and its vectors.

        Raises:
            ConfigError, TableError, ModelError: The catalogue cannot be opened.
        """
        try:
            await asyncio.to_thread(self.open)
            await self.prepare(self.catalog.searcher.live())
        except (UsageError, DatabaseError, ProblemError) as exc:
            said = exc.detail if isinstance(exc, ProblemError) else exc
            raise ConfigError(f"catalogue {self.name}: {said}") from exc
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Close the catalogue once the waiting searches are answered. Any other work in progress is lost."""
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
        if self._scans is not None:
            await asyncio.to_thread(self._scans.close)
        self.thumbnails.close()
        if self._catalog is not None:
            await asyncio.to_thread(self._catalog.close)
        for threads in (self._searching, self._reading, self._checking):
            threads.close()

    @property
    def depth(self) -> int:
        """Number of requests that wait for a search."""
        return 0 if self._scans is None else self._scans.depth

    async def match(self, queries: Sequence[Query], reply: Reply) -> list[Answered]:
        """Answer the queries of a request.

        Raises:
            ProblemError: A query cannot be answered, there is no room, or the response would be too long.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                with translated(self.name):
                    try:
                        return await self._match(queries, reply)
                    except DatabaseError as exc:  # for example, a generation was dropped in the meantime
                        logger.warning("catalogue %s: %s; trying once more", self.name, exc)
                        reply.start_over()
                        return await self._match(queries, reply)
        except TimeoutError as exc:
            late = f"{self.name} did not respond within the service's limit of {self._timeout_s:g} s"
            detail = f"{self.name}: {exc}" if str(exc) else late
            raise ProblemError("catalog_unavailable", detail, retry_after_s=1) from exc

    def _check_file(self, reference: str) -> None:
        with translated(self.name):
            self.catalog.searcher.check_file(reference)

    async def call(self, work: Callable[..., T], *given: Any, writes: bool = False) -> T:
        """Run a function of the catalogue on a thread.

        Args:
            work: The function.
            given: Arguments of the function.
            writes: Whether the function belongs to a write that has begun, which does not wait for other reads.

        Raises:
            ProblemError: The library raised an error, the function takes longer than a request may, or too many reads
                of the client are waiting.
        """
        with translated(self.name):
            return await (self._checking if writes else self._reading).run(work, *given, begun=writes)

    async def read_queries(self, read: Callable[[], T]) -> T:
        """Run a function that parses the queries of a request, whose filters may be long, on a thread for searches."""
        return await self._searching.run(read)

    async def _match(self, queries: Sequence[Query], reply: Reply) -> list[Answered]:
        began = time.perf_counter()
        generation, version, asked, keys = await self._searching.run(self._check, queries, begun=True)
        known = [self._results.get(key) for key in keys]
        for found in known:
            self._metrics.count_result(self.name, found=found is not None)
            if found is not None:
                reply.add(found)
        missing = [place for place, found in enumerate(known) if found is None]
        looked = {"cache": _milliseconds(began)}
        answered: dict[int, Answered] = {
            place: Answered(found, generation.number, looked) for place, found in enumerate(known) if found is not None
        }
        if missing:
            fresh = await self._answer(generation, [asked[place] for place in missing], reply)
            complete = await self._searching.run(self.catalog.searcher.has_followed, generation, version, begun=True)
            for place, each in zip(missing, fresh, strict=True):
                if complete and isinstance(each.answer, Written):
                    self._results.put(keys[place], each.answer)
                answered[place] = each
        return [answered[place] for place in range(len(queries))]

    def _check(self, queries: Sequence[Query]) -> tuple[Generation, int, list[Checked], list[Key]]:
        searcher = self.catalog.searcher
        version = searcher.version  # read first: later writes make the results newer than their key
        generation = searcher.live()
        names = [f"/queries/{number}" for number in range(len(queries))] if len(queries) > 1 else [""]
        asked = [searcher.check(query, generation, name) for query, name in zip(queries, names, strict=True)]
        keys = [
            key_of(query, generation.number, version) for query in queries
        ]  # on a thread, because images may be long
        return generation, version, asked, keys

    async def _answer(self, generation: Generation, asked: Sequence[Checked], reply: Reply) -> list[Answered]:
        assert self._scans is not None, "the service has not started"
        began = time.perf_counter()
        texts, images = contents([one.query for one in asked])
        work: tuple[Answer[Outcome], ...] = ()
        outcomes: tuple[Sequence[Outcome], Sequence[Outcome]] = [], []
        if texts or images:
            model = await self._model(generation)
            given: Any = images  # URLs and files, from the routes
            work = tuple(
                await asyncio.gather(
                    *([self._pool.embed_texts(model, texts)] if texts else []),
                    *([self._pool.embed_images(model, given)] if images else []),
                )
            )
            outcomes = work[0].results if texts else [], work[-1].results if images else []
        encoded, started = time.perf_counter(), time.time()
        found = await self._scans.answer(asked, *outcomes, reply.write)
        milliseconds = {"encode": 1000 * (encoded - began), "search": _milliseconds(encoded)}
        for stage, took in milliseconds.items():
            self._metrics.observe_search(self.name, stage, took / 1000)
        span: Answer[Any] = Answer(self.name, [], [[Span("search", started, time.time())]])
        blocked = blocked_images([one.query for one in asked], outcomes[1])
        return [
            Answered(each, generation.number, milliseconds, (*work, span), images)
            for each, images in zip(found, blocked, strict=True)
        ]

    def model_name(self, generation: Generation) -> str:
        """Return the name under which a generation's model is served, or else the name with which it was built."""
        return self._models.get(generation.number, generation.identity.model)

    async def _model(self, generation: Generation) -> str:
        """Return the served name of a generation's model, loading it if necessary."""
        if generation.number not in self._models:
            identity = generation.identity
            with translated(self.name):
                identity.check_place(self._config.model)
            config = replace(self._config, model=identity.model, revision=identity.revision)
            name = await self._pool.serve_model(config)
            # Writers need this model too; `lend` refuses any other.
            if (encoder := self._pool.encoder(name)) is not None:
                await asyncio.to_thread(self.catalog.searcher.lend, generation, encoder)
            self._models[generation.number] = name
        return self._models[generation.number]

    async def prepare(self, generation: Generation) -> None:
        """Load the model and vectors of a generation, so that no query has to wait for them."""
        await self._model(generation)
        await asyncio.to_thread(self.catalog.searcher.open, generation)

    async def _watch(self) -> None:
        """Prepare generations that may soon be used, and close dropped ones, no matter which process changes them."""
        prepared: set[int] = set()
        gone: dict[int, float] = {}  # the time since which each has been gone
        while True:
            try:
                for generation in await self._reading.run(lambda: self.catalog.generations):
                    if generation.state in ("ready", "live", "kept") and generation.number not in prepared:
                        await self.prepare(generation)
                        prepared.add(generation.number)
                gone = await self._close_dropped(gone)
            except (TextImageSimilarityError, ProblemError) as exc:
                logger.warning("catalogue %s: %s", self.name, exc.detail if isinstance(exc, ProblemError) else exc)
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _close_dropped(self, gone: Mapping[int, float]) -> dict[int, float]:
        """Close dropped generations once no query can use them; return the others, each with when it was first seen."""
        searcher, now = self.catalog.searcher, time.monotonic()
        since = {number: gone.get(number, now) for number in await self._reading.run(searcher.dropped)}
        for number in [number for number, began in since.items() if now - began > self._timeout_s]:
            await self._reading.run(searcher.forget, number)
            self._models.pop(number, None)
            del since[number]
        return since


def _milliseconds(began: float) -> float:
    return 1000 * (time.perf_counter() - began)
