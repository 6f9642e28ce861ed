"""Arguments of the service on Ray, from `serve run` and Serve's config files, checked and converted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from ...checks import one_of
from ...config import Config, Limits
from ...errors import ConfigError
from ...pipeline import portable
from ..keys import read_keys
from ..settings import AUDIT_VARIABLE, KEYS_VARIABLE, TRACES_VARIABLE, Settings

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicas:
    """Settings of a deployment's replicas.

    Args:
        num_cpus: CPUs of a replica, which encodes with as many threads.
        num_gpus: GPUs of a replica; with a fraction, replicas share a GPU.
        min_replicas: Minimum number of replicas, at least 1, because a request for a model without replicas would time
            out while one is loaded.
        max_replicas: Maximum number of replicas; None means the same number as `min_replicas`.
        target_ongoing_requests: Requests in progress per replica that Ray aims for by adding and removing replicas;
            None means the batch size for a model, and 64 for the gateway.
        max_ongoing_requests: Maximum number of concurrent requests of a model's replica, beyond which requests wait in
            the order in which they arrived, regardless of the client; None means as many as all gateways may have in
            progress. A gateway accepts as many as `max_inflight` allows.
        max_queued_requests: Maximum number of requests that may wait for a replica in each gateway; further ones are
            refused with the status 429.

    Raises:
        ConfigError: A value is outside its range.
    """

    num_cpus: float = 1.0
    num_gpus: float = 0.0
    min_replicas: int = 1
    max_replicas: int | None = None
    target_ongoing_requests: float | None = None
    max_ongoing_requests: int | None = None
    max_queued_requests: int = 256

    def __post_init__(self) -> None:
        for name, least in (("num_cpus", 0), ("num_gpus", 0), ("min_replicas", 1), ("max_queued_requests", 1)):
            if not getattr(self, name) >= least:
                raise ConfigError(f"{name}={getattr(self, name)!r} must be at least {least}")
        for name, least in (("max_replicas", self.min_replicas), ("max_ongoing_requests", 1)):
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)!r} must be at least {least}")
        if self.target_ongoing_requests is not None and not self.target_ongoing_requests > 0:
            raise ConfigError(f"target_ongoing_requests={self.target_ongoing_requests!r} must be more than 0")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to deploy: the service's settings, and the replicas of its models and gateway.

    Args:
        settings: Settings of the service.
        models: Replicas of each model's deployment.
        gateway: Replicas of the gateway.
        log_format: Format of all logs: `text` or `json`.
    """

    settings: Settings
    models: Mapping[str, Replicas]
    gateway: Replicas
    log_format: str


def _field_names(kind: type) -> frozenset[str]:
    return frozenset(field.name for field in fields(kind))


_SEARCH = {"catalogs", "match_log", "log_queries", "log_place"}  # settings of one process; see docs/catalog-service.md
_SERVICE = _field_names(Settings) - {"models", "lazy", "model_memory", "ensemble", "drain_delay_s"} - _SEARCH
_SHARED = (_field_names(Config) | _field_names(Replicas)) - {
    "model",
    "revision",
    "score",
    "chunk_size",
    "base_dir",
    "files_under",
    "dialect",
    "feeders",  # settings of a run over many rows
}
_OWN = _SHARED - {"limits"} | {"model", "revision"}


def read_arguments(args: Mapping[str, Any]) -> Plan:
    """Check the arguments of a deployment, and return what to deploy.

    Args:
        args: See `build`. Values may be strings, as on the command line; mappings and lists are then JSON.

    Raises:
        ConfigError: An argument is unknown or wrong.
    """
    given = {name: _parse_value(name, value) for name, value in args.items()}
    _check("the service", given, _SERVICE | _SHARED | {"models", "gateway", "log_format"})
    shared: dict[str, Any] = {"io_workers": 64} | {name: given[name] for name in given if name in _SHARED}
    models = _read_models(given.get("models", "fast"))
    service = {name: given[name] for name in given if name in _SERVICE}
    gateway = given.get("gateway", {})
    if not isinstance(gateway, Mapping):
        raise ConfigError(f"gateway={gateway!r} must be a mapping, such as {{min_replicas: 2}}")
    _check("the gateway", gateway, _field_names(Replicas) - {"max_ongoing_requests"})
    if isinstance(limits := given.get("limits", {}), Mapping):
        _check("limits", limits, _field_names(Limits))
    configs, replicas = {}, {}
    for name, own in models.items():
        where = f"model {name}"
        _check(where, own, _OWN)
        every = shared | own
        configs[name] = portable(_build(where, Config, every))
        replicas[name] = _build(where, Replicas, every)
    settings = _build("the service", Settings, service | {"models": configs})
    log_format = given.get("log_format", "text")
    one_of("log_format", log_format, ("text", "json"))
    return Plan(settings, replicas, _build("the gateway", Replicas, gateway), log_format)


def apply_environment(settings: Settings, environment: Mapping[str, str]) -> Settings:
    """Return settings with the keys, audit log and collector that an environment names, where they have none yet."""
    return replace(
        settings,
        api_keys=settings.api_keys or read_keys(environment.get(KEYS_VARIABLE, "").split(",")),
        audit_log=settings.audit_log or environment.get(AUDIT_VARIABLE) or None,
        otlp_endpoint=settings.otlp_endpoint or environment.get(TRACES_VARIABLE) or None,
    )


def _parse_value(name: str, value: Any) -> Any:
    """Return a value, or if it is a string that holds a JSON list or object, the parsed list or object."""
    if not isinstance(value, str) or not value.startswith(("{", "[")):
        return value
    try:
        return json.loads(value)
    except ValueError as exc:
        raise ConfigError(f"{name}: {value[:100]} is not valid JSON: {exc}") from exc


def _read_models(given: Any) -> dict[str, dict[str, Any]]:
    """Return each model's arguments by its name, from any of the forms that `build` accepts."""
    if isinstance(given, str):
        given = given.split(",")
    if isinstance(given, list):
        given = {str(name).strip(): {} for name in given}
    if not isinstance(given, Mapping):
        raise ConfigError(f"models={given!r} must be a mapping of names to models, or a list of names")
    found = {}
    for name, own in given.items():
        own = {} if own is None else {"model": own} if isinstance(own, str) else own
        if not isinstance(own, Mapping):
            raise ConfigError(f"model {name}: {own!r} must be a model's name, or a mapping with the key model")
        found[str(name)] = {"model": str(name), **own}
    return found


def _check(where: str, given: Mapping[str, Any], known: frozenset[str]) -> None:
    for name in given:
        if name not in known:
            raise ConfigError(f"{where} has no argument {name!r}; the arguments are {', '.join(sorted(known))}")


def _build(where: str, kind: type[T], given: Mapping[str, Any]) -> T:
    """Return an instance of a dataclass with converted values, ignoring arguments without a field."""
    try:
        return TypeAdapter(kind).validate_python({name: given[name] for name in given if name in _field_names(kind)})
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        message = first["ctx"]["error"] if first["type"] == "value_error" else f"{place}: {first['msg']}"
        raise ConfigError(f"{where}: {message}") from exc
