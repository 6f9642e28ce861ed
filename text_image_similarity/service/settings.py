"""Every setting of the service, validated once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path
from types import MappingProxyType

from ..config import Config, at_least, seconds
from ..errors import ConfigError

# Environment variables that stand in for `api_keys` and `otlp_endpoint`.
KEYS_VARIABLE = "TEXT_IMAGE_SIMILARITY_API_KEYS"
TRACES_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a service.

    Args:
        models: The models that requests may name, the default first. `batch_size` is the most pairs of a batch; images are
            fetched for all models as the default model's config says. Local files are never read.
        lazy: Names of the models that are loaded on their first request instead of at the start.
        splits: Names that stand for several models, each with its weight, such as `{"fast": {"old": 95, "new": 5}}`.
        max_wait_s: Longest time that a pair which is ready waits for others to share its batch, in seconds.
        max_queue: Further requests are refused while this many pairs wait for a model. One batch keeps the model busy; each
            further batch adds its time to the wait.
        max_inflight: Further requests are refused while this many pairs are in progress, downloads included.
        max_pairs: Most pairs of a request.
        max_body_bytes: Longest body of a request, in bytes; all bodies in progress together may have eight times as many.
        request_timeout_s: Seconds after which a request is answered, with the error `timeout` for what is not done.
        drain_delay_s: Seconds between SIGTERM and the end of listening, for load balancers to notice.
        api_keys: Clients must send one of these keys; an empty set admits everybody.
        cache_entries: Embeddings kept in memory for each model. The file given by `embedding_cache` keeps the newest million.
        otlp_endpoint: The collector that traces are sent to, as OTLP over HTTP, such as http://collector:4318; None sends none.

    Raises:
        ConfigError: A value is outside its choices or range.

    Example:
        >>> Settings(models={"mini": Config(model="mini")}).default
        'mini'
    """

    models: Mapping[str, Config]
    lazy: frozenset[str] = frozenset()
    splits: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    max_wait_s: float = 0.005
    max_queue: int = 32
    max_inflight: int = 256
    max_pairs: int = 64
    max_body_bytes: int = 32 * 1024 * 1024
    request_timeout_s: float = 30.0
    drain_delay_s: float = 5.0
    api_keys: frozenset[str] = field(default=frozenset(), repr=False)
    cache_entries: int = 20_000
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
        for setting in ("max_queue", "max_inflight", "max_pairs", "max_body_bytes", "cache_entries"):
            at_least(setting, getattr(self, setting), 1)
        for setting in ("max_wait_s", "drain_delay_s"):
            seconds(setting, getattr(self, setting), 0.0)
        seconds("request_timeout_s", self.request_timeout_s, 0.001)
        if not all(isinstance(key, str) and key.strip() == key != "" for key in self.api_keys):
            raise ConfigError("api_keys must be strings that are not empty and have no spaces around them")
        private = {name: _forbid_files(config) for name, config in self.models.items()}
        object.__setattr__(self, "models", MappingProxyType(private))

    @property
    def default(self) -> str:
        """The name of the model for requests that name none."""
        return next(iter(self.models))

    def with_model(self, config: Config) -> tuple[Settings, str]:
        """Return these settings with one more model, and the name that it got."""
        stem = _name_of(config)
        name = next(
            name
            for name in chain([stem], (f"{stem}-{number}" for number in count(2)))
            if name not in self.models and name not in self.splits
        )
        return replace(self, models={**self.models, name: config}), name

    def without_model(self, name: str) -> Settings:
        """Return these settings without one of the models."""
        return replace(self, models={other: config for other, config in self.models.items() if other != name})

    def __reduce__(self) -> tuple[object, ...]:
        # A MappingProxyType cannot be pickled, and Ray sends settings to its workers.
        values = {name: getattr(self, name) for name in self.__slots__}
        return _restore, (values | {"models": dict(self.models)},)


def parse_keys(texts: Iterable[str]) -> frozenset[str]:
    """Return the keys in some lines or parts: stripped, without empty ones."""
    return frozenset(text.strip() for text in texts if text.strip())


def _restore(values: dict[str, object]) -> Settings:
    return Settings(**values)  # type: ignore[arg-type]


def _forbid_files(config: Config) -> Config:
    return replace(config, limits=replace(config.limits, allow_local_files=False))


def _name_of(config: Config) -> str:
    """Return a valid name for a model: a hub id or an alias as it is, of a path its last part."""
    text = str(config.model)
    if not re.fullmatch(r"[\w-][\w.-]*(?:/[\w.-]+)?", text):
        text = Path(text).name
    return re.sub(r"[^A-Za-z0-9._/-]+", "-", text).strip("._/-")[:90] or "model"


def _check_split(name: str, weights: Mapping[str, float], models: Mapping[str, Config]) -> None:
    for model, weight in weights.items():
        if model not in models:
            raise ConfigError(f"splits: {name} names {model!r}, which is not one of the models {', '.join(models)}")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < 1e9:
            raise ConfigError(f"splits: the weight of {model} in {name} is {weight!r}; it must be a number from 0 on")
    if not sum(weights.values()) > 0:
        raise ConfigError(f"splits: {name} gives no model any weight")
