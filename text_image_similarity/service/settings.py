"""All settings of the service, which are validated once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

from ..checks import at_least, one_of, seconds
from ..config import Config
from ..errors import ConfigError
from .keys import ApiKey

# Environment variables for `audit_log`, `api_keys`, `otlp_endpoint` and the models' `embedding_cache`.
AUDIT_VARIABLE = "TEXT_IMAGE_SIMILARITY_AUDIT_LOG"
CACHE_VARIABLE = "TEXT_IMAGE_SIMILARITY_EMBEDDING_CACHE"
KEYS_VARIABLE = "TEXT_IMAGE_SIMILARITY_API_KEYS"
TRACES_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"

MOST_BODIES = 8  # number of request and response bodies of the maximum length that may be in memory at a time

ENSEMBLE = "ensemble"  # name that stands for all models together

LogMode = Literal["queued", "required", "off"]
LogDetail = Literal["full", "hashed", "off"]


_CATALOG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_HOST = re.compile(r"\*|(?:\*\.)?[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a service.

    Args:
        models: The models that requests may name, the default first. `batch_size` limits the pairs in a batch; images
            are fetched for all models with the default model's settings. Local files are never read.
        lazy: Names of the models that are loaded at their first request instead of at the start.
        model_memory: Maximum number of bytes that the weights of loaded models may take, such as `6GiB` or `800MB`.
            Beyond that, models are unloaded, least recently used first, and loaded again when requests name them; the
            default model and models that requests currently need stay loaded. Memory for images, for encoding (as much
            again with large batches), for `cache_entries` and for libraries (about 1 GB with torch) is not counted. By
            default, all models stay loaded.
        splits: Names whose requests are split between several models by weight, such as `{"fast": {"old": 95, "new":
            5}}`.
        ensemble: Serve all models together under an additional name, `ensemble`: the `mean` of their scores, or with
            `probability` the mean of the probabilities that their `calibration.json` files give. Each image is
            fetched and decoded once.
        max_wait_s: Longest time that a pair waits for others to share its batch, in seconds.
        max_queue: Maximum number of pairs that may wait for a model; requests beyond it are refused, and a client's
            requests are refused as soon as its share is used up. One batch keeps the model busy; each additional batch
            adds its time to the wait.
        max_inflight: Maximum number of pairs in progress, including downloads; requests beyond it are refused. A single
            client may have at most half as many.
        max_pairs: Maximum number of pairs in a request.
        max_body_bytes: Longest request body, in bytes; all request and response bodies in progress together may take
            eight times as much, and those of a single client may take half of that.
        request_timeout_s: Seconds after which a response is sent, with the error `timeout` for unfinished pairs.
        drain_delay_s: Seconds to keep accepting connections after SIGTERM, so that load balancers notice the shutdown.
        api_keys: API keys, one of which clients must send; if there are none, everyone may score and search, and nobody
            may write.
        catalogs: Catalogues to search, by their names in requests, the default first: folders, `postgresql://...`, or
            tables of products, which are read into memory at the start.
        match_log: `queued` writes an entry for each query soon after the response; `required` writes it before the
            response, and refuses the request if that fails; `off` writes none.
        log_queries: How much of a query an entry contains: `full`, `hashed` (without its words), or `off` (only the
            names in its filter).
        log_place: Place of the match log, instead of each catalogue's own log: `postgresql://...`, `mongodb://...` or a
            `.sqlite` file.
        cache_entries: Number of embeddings kept in memory for each model. A file named by `embedding_cache` keeps
            the newest million embeddings.
        allowed_hosts: Names that requests may use in their Host header, such as `scores.example.com` or
            `*.example.com`; `*` allows any. IP addresses are always allowed.
        audit_log: File to which a JSON line is appended for each refused key, blocked address, exceeded limit and
            change to a catalogue, or `-` for stderr; None disables it.
        otlp_endpoint: Collector to which traces are sent, as OTLP over HTTP, such as http://collector:4318; None
            disables traces.

    Raises:
        ConfigError: A value is outside its choices or range.

    Example:
        >>> Settings(models={"mini": Config(model="mini")}).default
        'mini'
    """

    models: Mapping[str, Config]
    lazy: frozenset[str] = frozenset()
    model_memory: int | None = None
    splits: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    ensemble: Literal["mean", "probability"] | None = None
    max_wait_s: float = 0.005
    max_queue: int = 32
    max_inflight: int = 256
    max_pairs: int = 64
    max_body_bytes: int = 32 * 1024 * 1024
    request_timeout_s: float = 30.0
    drain_delay_s: float = 5.0
    api_keys: tuple[str | ApiKey, ...] = field(default=(), repr=False)  # always instances of `ApiKey`
    catalogs: Mapping[str, str] = field(default_factory=dict)
    match_log: LogMode = "queued"
    log_queries: LogDetail = "full"
    log_place: str | None = None
    cache_entries: int = 20_000
    allowed_hosts: tuple[str, ...] = ("*",)
    audit_log: str | None = None
    otlp_endpoint: str | None = None

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigError("a service needs at least one model")
        for name in (*self.models, *self.splits):
            if not _NAME.fullmatch(name):
                raise ConfigError(
                    f"{name!r} is not a valid model name; use letters, digits and . _ / -, as in NAME=MODEL"
                )
        for name in self.lazy - set(self.models):
            raise ConfigError(f"lazy={name!r} is not one of the models {', '.join(self.models)}")
        for name, weights in self.splits.items():
            _check_split(name, weights, self.models)
        self._check_ensemble()
        for setting in ("max_queue", "max_inflight", "max_pairs", "max_body_bytes", "cache_entries"):
            at_least(setting, getattr(self, setting), 1)
        if self.model_memory is not None:
            at_least("model_memory", self.model_memory, 1)
        for setting in ("max_wait_s", "drain_delay_s"):
            seconds(setting, getattr(self, setting), 0.0)
        seconds("request_timeout_s", self.request_timeout_s, 0.001)
        self._check_search()
        self._check_hosts()
        object.__setattr__(self, "api_keys", self._checked_keys())
        object.__setattr__(self, "catalogs", MappingProxyType(dict(self.catalogs)))
        private = {name: _forbid_files(config) for name, config in self.models.items()}
        object.__setattr__(self, "models", MappingProxyType(private))

    def _check_ensemble(self) -> None:
        if self.ensemble is None:
            return
        one_of("ensemble", self.ensemble, ("mean", "probability"))
        if len(self.models) < 2:
            raise ConfigError("an ensemble needs two or more models")
        if ENSEMBLE in (*self.models, *self.splits):
            raise ConfigError(f"{ENSEMBLE!r} is the name of all models together; give that model or split another name")
        if self.lazy or self.model_memory is not None:
            raise ConfigError(
                "an ensemble keeps its models in memory: name them with --model, without --lazy and --model-memory"
            )

    def _check_search(self) -> None:
        for name in self.catalogs:
            if not _CATALOG.fullmatch(name):
                raise ConfigError(
                    f"{name!r} is not a valid name of a catalogue; use letters, digits and . _ -, as in NAME=PLACE"
                )
        one_of("match_log", self.match_log, get_args(LogMode))
        one_of("log_queries", self.log_queries, get_args(LogDetail))

    def _check_hosts(self) -> None:
        for host in self.allowed_hosts:
            if not _HOST.fullmatch(host):
                raise ConfigError(
                    f"allowed_hosts: {host!r} is not a host name without a port, such as scores.example.com"
                )

    def _checked_keys(self) -> tuple[ApiKey, ...]:
        if isinstance(self.api_keys, str):
            raise ConfigError("api_keys must be a list of keys")
        keys = tuple(key if isinstance(key, ApiKey) else ApiKey(key) for key in self.api_keys)
        for key in keys:
            for name in set(key.catalogs) - set(self.catalogs):
                raise ConfigError(f"the API key {key.name!r} is for the catalogue {name!r}, which is not served here")
        return keys

    @property
    def keys(self) -> tuple[ApiKey, ...]:
        """The API keys."""
        return self.api_keys  # type: ignore[return-value]  # since __post_init__

    @property
    def default(self) -> str:
        """The name of the model for requests that name none."""
        return next(iter(self.models))

    @property
    def names(self) -> tuple[str, ...]:
        """Names that requests may use: the models, the default first, then the splits and the ensemble."""
        return (*self.models, *self.splits, *([ENSEMBLE] if self.ensemble else []))

    def config_of(self, name: str) -> Config:
        """Return the settings of a model; for the ensemble, those of the default model."""
        return self.models[self.default if name == ENSEMBLE and self.ensemble else name]

    def with_model(self, config: Config) -> tuple[Settings, str]:
        """Return these settings with another model, and the name that it has in them."""
        stem = _name_of(config)
        name = next(
            name for name in chain([stem], (f"{stem}-{number}" for number in count(2))) if name not in self.names
        )
        return replace(self, models={**self.models, name: config}), name

    def without_model(self, name: str) -> Settings:
        """Return these settings without one of the models."""
        return replace(self, models={other: config for other, config in self.models.items() if other != name})

    def __reduce__(self) -> tuple[object, ...]:
        # A MappingProxyType cannot be pickled, and Ray sends settings to its workers.
        values = {name: getattr(self, name) for name in self.__slots__}
        return _restore, (values | {"models": dict(self.models), "catalogs": dict(self.catalogs)},)


def _restore(values: dict[str, object]) -> Settings:
    return Settings(**values)  # type: ignore[arg-type]


def _forbid_files(config: Config) -> Config:
    return replace(config, limits=replace(config.limits, allow_local_files=False))


def _name_of(config: Config) -> str:
    """Return a valid name for a model: a hub id or an alias itself, or the last part of a path."""
    text = str(config.model)
    if not re.fullmatch(r"[\w-][\w.-]*(?:/[\w.-]+)?", text):
        text = Path(text).name
    return re.sub(r"[^A-Za-z0-9._/-]+", "-", text).strip("._/-")[:90] or "model"


def _check_split(name: str, weights: Mapping[str, float], models: Mapping[str, Config]) -> None:
    for model, weight in weights.items():
        if model not in models:
            raise ConfigError(f"splits: {name} names {model!r}, which is not one of the models {', '.join(models)}")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < 1e9:
            raise ConfigError(
                f"splits: the weight of {model} in {name} is {weight!r}; it must be a number of at least 0"
            )
    if not sum(weights.values()) > 0:
        raise ConfigError(f"splits: {name} has no model with a weight above 0")
