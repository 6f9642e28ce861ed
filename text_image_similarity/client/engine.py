"""Engine that scores the parts of a table through a service, in requests of bounded size."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields, replace
from itertools import islice
from types import TracebackType
from typing import Any

import httpx

from ..checks import at_least, excerpt
from ..config import Config, Limits, pair_score
from ..encoders import ModelInfo
from ..errors import ConfigError, ErrorCode, ModelUnavailableError, RowError, TableError, UsageError, printable
from ..pipeline import RunStats, Tag, TaggedRows, score_concurrently
from ..records import Record, ScoreResult
from ..similarity import score_range
from .connection import Connection
from .pairs import Pairs

_OURS = frozenset({"model", "score", "chunk_size", "base_dir", "files_under", "dialect", "limits", "proxy", "ca_file"})
_OUR_LIMITS = frozenset({"max_bytes", "allow_local_files"})
_MOST_BYTES = 8 * 1024 * 1024  # bytes of a request, unless a single image is larger
_MOST_PAIRS = 10_000  # pairs of a request, however many the service accepts
_MOST_PARTS = 256  # parts in progress; each is in memory, and a thread waits for it
_LONGEST_FACT = 4096  # characters of a model's name or path in a service's response
_SHOWN, _MOST_NAMES = 200, 50  # characters of a model's name, and such names, in an error
_LONGEST_REQUEST_S = 86_400.0  # largest `request_timeout_s` that a service may state
_REPLICAS = 20  # largest number of replicas, each of which may have to load a model
_SPLIT = frozenset({408, 413})  # a smaller request may succeed
_LATE = "timeout: the service did not finish within its "  # beginning of the error of a pair that may succeed next time

Waiting = list[tuple[int, bytes]]  # a record's index in its part, and its pair as JSON


class ServiceEngine:
    """Engine that scores the parts of a table through a running service; a context manager.

    Args:
        url: URL of the service, such as `http://host:8000`.
        api_key: API key, if the service requires one.
        model: Name of one of the service's models. None uses `config.model` if it is not the default, or else the
            service's default model.
        connections: Number of concurrent requests.
        patience_s: Seconds for which a request is repeated if it is refused, or has no response or a 5xx response.
        transport: Transport for requests, for tests and for client certificates; None is the network.

    Attributes:
        requests: Number of requests for scores so far, not counting repetitions.

    Raises:
        ConfigError: The URL, the key or the number of connections is not valid.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        model: str | None = None,
        connections: int = 8,
        patience_s: float = 300.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        at_least("connections", connections, 1)
        self._service = Connection(url, api_key=api_key, patience_s=patience_s, transport=transport)
        self._name, self._wanted = "", model
        self._connections = connections
        self._pool = ThreadPoolExecutor(connections, thread_name_prefix="score-service")
        self._pairs = Pairs(Config())
        self._config = Config()
        self._info = ModelInfo("")
        self.requests = 0
        self.max_pairs = self._max_queue = 1
        self._max_body = _MOST_BYTES

    def __enter__(self) -> ServiceEngine:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._service.close()
        self._pool.shutdown(cancel_futures=True)
        self._pairs.close()

    @property
    def _pairs_of_a_request(self) -> int:
        # All connections together send twice as many pairs as the service may queue, so that the service is never idle
        # and rarely refuses a request.
        return min(self.max_pairs, max(1, 2 * self._max_queue // self._connections))

    def start(self, config: Config) -> ModelInfo:
        """Choose the model, wait until it is loaded, and return its description.

        Requests use `config.proxy`, and trust the certificates in `config.ca_file`.

        Raises:
            ConfigError: `config` changes settings that only the service decides, or its score needs reference captions.
            ModelUnavailableError: The service has no model of this name, cannot load it, or splits it between models.
            UsageError: The URL is not that of a scoring service, or the service requires a key.
            TableError: The service cannot be reached.
        """
        if theirs := settings_of_the_service(config):
            raise ConfigError(
                f"{', '.join(theirs)} would have no effect: the service uses its own settings; leave these at their defaults"
            )
        pair_score(config, "a service")
        self._service.connect(config.proxy, config.ca_file)
        with self._understood("GET /v1/info"):
            limits = self._get("/v1/info", insist=False)["limits"]
            names = ("max_pairs", "max_queue", "max_body_bytes")
            self.max_pairs, self._max_queue, self._max_body = (int(limits[name]) for name in names)
            longest = float(limits["request_timeout_s"])
            if min(self.max_pairs, self._max_queue, self._max_body) < 1 or not 0 < longest <= _LONGEST_REQUEST_S:
                raise ValueError(f"its limits cannot be used: {limits!r:.200}")
            self.max_pairs = min(self.max_pairs, _MOST_PAIRS)
            self._service.answer_s = max(self._service.answer_s, 2 * longest)
        self._name = self._chosen(config)
        self._info = self._info_when_loaded()
        self._config = config
        self._pairs.close()
        self._pairs = Pairs(config)
        return self._info

    def score_parts(self, parts: Iterable[TaggedRows[Tag]], stats: RunStats) -> Generator[tuple[Tag, ScoreResult]]:
        """Score enough parts concurrently to keep all connections busy; see `Engine`."""
        at_once = min(_MOST_PARTS, 2 + self._connections * self._pairs_of_a_request // self._config.chunk_size)
        return score_concurrently(lambda records: (self.score(records), None), parts, stats, at_once=at_once)

    def score(self, records: Sequence[Record]) -> list[ScoreResult]:
        """Score a part and return one result per record, in order; may be called from several threads.

        Raises:
            TableError: The service cannot be reached, its response cannot be understood, or its model has changed.
        """
        size = self._pairs_of_a_request
        work: list[Future[list[ScoreResult]]] = []
        try:
            for at in range(0, len(records), size):
                work.append(self._pool.submit(self.score_some, records[at : at + size]))
            results = [result for future in work for result in future.result()]
        except (CancelledError, RuntimeError) as exc:  # RuntimeError comes from a pool that is shut down
            if not self._service.closed:
                raise
            raise TableError("the engine was closed") from exc
        finally:
            for future in work:
                future.cancel()
        now = self._info_now()  # None from a replica that has not loaded the model
        if now is not None and replace(now, device=None) != replace(self._info, device=None):
            raise TableError(
                f"{self._shown_name} at {self._service.url} is not the same model as when this run began; restore the "
                "earlier model, or score the table from the start with --restart (start='restart')"
            )
        return results

    def sends(self, record: Record) -> bool:
        """Tell whether a record is sent to the service; this process determines the results of all other records."""
        return not isinstance(self._pairs.pair(record), ScoreResult)

    def score_some(self, records: Sequence[Record]) -> list[ScoreResult]:
        """Score a few records on this thread, with one request unless their images are large.

        Raises:
            TableError: As from `score`.
        """
        done: dict[int, ScoreResult] = {}
        waiting: Waiting = []
        for place, record in enumerate(records):
            pair = self._pairs.pair(record)
            if isinstance(pair, ScoreResult):
                done[place] = pair
                continue
            content = json.dumps({"id": place, **pair}).encode()
            if waiting and sum(len(pair) for _, pair in waiting) + len(content) > min(_MOST_BYTES, self._max_body // 2):
                done |= self._ask_until_done(waiting)
                waiting = []
            waiting.append((place, content))
        if waiting:
            done |= self._ask_until_done(waiting)
        return [Pairs.settled(record, done[place]) for place, record in enumerate(records)]

    def _ask_until_done(self, waiting: Waiting) -> dict[int, ScoreResult]:
        """Score pairs, and send again those that a busy service did not finish."""
        end = time.monotonic() + self._service.patience_s
        done = self._ask(waiting)
        while time.monotonic() < end and (
            late := [one for one in waiting if (done[one[0]].error or "").startswith(_LATE)]
        ):
            done |= self._ask(late)
        return done

    def _ask(self, waiting: Waiting) -> dict[int, ScoreResult]:
        """Score pairs in one request, or in halves if the service refuses that many at once."""
        head = json.dumps({"model": self._name, "score": self._config.score})[:-1].encode()
        content = head + b', "pairs": [' + b", ".join(pair for _, pair in waiting) + b"]}"
        if len(content) > self._max_body and len(waiting) == 1:
            return {waiting[0][0]: _too_large(len(content))}
        self.requests += 1
        answer = self._service.ask("POST", "/v1/similarity", content)
        if answer.status in _SPLIT and len(waiting) > 1:
            middle = len(waiting) // 2
            return self._ask(waiting[:middle]) | self._ask(waiting[middle:])
        if answer.status == 413:
            return {waiting[0][0]: _too_large(len(content))}
        if answer.status != 200:
            raise TableError(f"the service at {self._service.url} refused a request: {answer}")
        with self._understood("POST /v1/similarity"):
            said = answer.body or {}
            if (said["model"], said["score"]) != (self._name, self._config.score):
                raise ValueError(
                    f"it scored with model {said['model']!r} and score {said['score']!r}, not with {self._name!r} and "
                    f"{self._config.score!r}"
                )
            if [result["id"] for result in said["results"]] != [place for place, _ in waiting]:
                raise ValueError(
                    f"it returned {len(said['results'])} results for {len(waiting)} pairs, or returned them in a "
                    "different order"
                )
            limits = score_range(pair_score(self._config, "a service"))
            return {result["id"]: _result(result, limits) for result in said["results"]}

    def _chosen(self, config: Config) -> str:
        """Return the name of the model to request."""
        with self._understood("GET /v1/models"):
            listed = {str(model["id"]): bool(model["default"]) for model in self._get("/v1/models")["data"]}
            if (longest := max(map(len, listed))) > _LONGEST_FACT:
                raise ValueError(f"the name of a model has {longest:,} characters")
            default = next(name for name, is_default in listed.items() if is_default)
        name = self._wanted or (default if config.model == Config().model else str(config.model))
        if name not in listed:
            raise ModelUnavailableError(
                f"the service at {self._service.url} does not serve {name[:_SHOWN]!r}; it serves "
                + ", ".join(printable(each[:_SHOWN]) for each in islice(listed, _MOST_NAMES))
            )
        return name

    @property
    def _shown_name(self) -> str:
        return self._name[:_SHOWN]

    def _info_when_loaded(self) -> ModelInfo:
        """Return the model's description, after making each replica load a model that is loaded on demand."""
        content = json.dumps({"model": self._name, "input": "a"}).encode()
        for _ in range(_REPLICAS):
            if (info := self._info_now()) is not None:
                return info
            answer = self._service.ask("POST", "/v1/embeddings", content, insist=False)
            if answer.status != 200 or answer.body is None:
                raise ModelUnavailableError(
                    f"the service at {self._service.url} cannot load {self._shown_name}: {answer}"
                )
            if answer.body.get("model") != self._name:
                raise ModelUnavailableError(
                    f"{self._shown_name} at {self._service.url} is split between several models, whose scores cannot be compared; "
                    f"name one of them, such as {excerpt(answer.body.get('model'), _SHOWN)}"
                )
        raise TableError(f"the service at {self._service.url} does not describe the model {self._shown_name}")

    def _info_now(self) -> ModelInfo | None:
        """Return the model's description, or None if it is not loaded."""
        with self._understood("GET /v1/info"):
            model = self._get("/v1/info")["models"].get(self._name)
            return model and _info(model)

    def _get(self, path: str, *, insist: bool = True) -> dict[str, Any]:
        answer = self._service.ask("GET", path, insist=insist)
        if answer.status != 200 or answer.body is None:
            raise UsageError(
                f"{self._service.url} is not a text-image-similarity service: GET {path} returned {answer}"
            )
        return answer.body

    @contextmanager
    def _understood(self, asked: str) -> Iterator[None]:
        """Raise a `TableError` for a response in an unexpected form."""
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError, StopIteration, OverflowError) as exc:
            raise TableError(
                f"{self._service.url} did not answer {asked} like a text-image-similarity service of this "
                f"version ({type(exc).__name__}: {printable(str(exc))[:300]}); is another program or a proxy listening there?"
            ) from exc


def settings_of_the_service(config: Config) -> list[str]:
    """Return the names of settings that only the service can choose but that differ from their defaults."""
    return [
        *(name for name in _changed(config) if name not in _OURS),
        *(f"limits.{name}" for name in _changed(config.limits) if name not in _OUR_LIMITS),
    ]


def _result(said: dict[str, Any], limits: tuple[float, float]) -> ScoreResult:
    """Return one result from a response; its scores must be within `limits`.

    Raises:
        KeyError, TypeError, ValueError: The value is not a valid result.
    """
    if (error := said["error"]) is not None:
        return ScoreResult.failed(RowError(ErrorCode(error["code"]), str(error["detail"])))
    low, high = limits
    values = [float(value) for value in (said["similarity"], *(said.get("by_model") or {}).values())]
    if not all(low <= value <= high for value in values):
        raise ValueError(f"a score is not between {low:g} and {high:g}: {values}")
    return ScoreResult(values[0], by_model=tuple(values[1:]))


def _info(said: dict[str, Any]) -> ModelInfo:
    values = {field.name: said[field.name] for field in fields(ModelInfo)}
    for name, value in values.items():
        if not (value is None or (isinstance(value, str) and value.isprintable() and len(value) <= _LONGEST_FACT)):
            raise ValueError(f"{name} is {str(value)[:40]!r}")
    return ModelInfo(**values)


def _changed(settings: Config | Limits) -> list[str]:
    default = type(settings)()
    return [f.name for f in fields(settings) if getattr(settings, f.name) != getattr(default, f.name)]


def _too_large(size: int) -> ScoreResult:
    return ScoreResult.failed(
        RowError(ErrorCode.TOO_MANY_BYTES, f"the request has {size:,} bytes, more than the service accepts")
    )
