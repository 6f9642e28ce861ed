"""Checks of settings; their errors state what a value must be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from ipaddress import ip_network
from itertools import islice
from typing import Any, TypeVar, cast

from .errors import ConfigError, InputTypeError

F = TypeVar("F", bound=Callable[..., Any])
_LEVELS, _ITEMS = 3, 10  # levels of a value, and items of a list or mapping, that an excerpt can show
SETTINGS = ("model", "revision", "device", "precision", "backend", "preprocess", "score", "batch_size", "base_dir")


def settings_in_config(function: F) -> F:
    """Make a function refuse settings such as `model="mini"`, with an `InputTypeError` that shows the right call."""

    @wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        if wrong := {name: named[name] for name in SETTINGS if name in named}:
            what = ", ".join(f"{name}={value!r}" for name, value in wrong.items())
            short = f" or, for short, config={wrong['model']!r}" if list(wrong) == ["model"] else ""
            name = function.__qualname__.removesuffix(".__init__")
            raise InputTypeError(f"{name}() takes settings as config: write config=Config({what}){short}")
        return function(*given, **named)

    return cast(F, call)


def excerpt(value: object, most: int = 100) -> str:
    """Return the beginning of a value's `repr`, which is never built for a whole text, list or mapping.

    Args:
        value: Any value, such as one from a request.
        most: Maximum number of characters.

    Example:
        >>> excerpt("x" * 10**6, 8), excerpt(["a", {"b": 1.5}])
        ("'xxxxxxx", "['a', {'b': 1.5}]")
    """
    return repr(_beginning(value, most, _LEVELS))[:most]


def _beginning(value: Any, most: int, levels: int) -> Any:
    """Return as much of a value as an excerpt of `most` characters can show."""
    if isinstance(value, (str, bytes)):
        return value[:most]
    if isinstance(value, (list, tuple, Mapping)) and not levels:
        return ...
    if isinstance(value, Mapping):
        return {
            _beginning(key, most, 0): _beginning(each, most, levels - 1) for key, each in islice(value.items(), _ITEMS)
        }
    if type(value) in (list, tuple):
        return type(value)(_beginning(each, most, levels - 1) for each in value[:_ITEMS])
    return value


def one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise a `ConfigError` that names the choices unless a setting is one of them."""
    if value not in choices:
        raise ConfigError(f"{name}={value!r} is not one of {', '.join(choices)}")


def at_least(name: str, value: object, least: int) -> None:
    """Raise a `ConfigError` unless a setting is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name}={value!r} must be a whole number of at least {least}")


def auto_or_at_least(name: str, value: object, least: int) -> None:
    """Raise a `ConfigError` unless a setting is `auto` or a whole number of at least `least`."""
    if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise ConfigError(f"{name}={value!r} must be auto or a whole number of at least {least}")


def true_or_false(name: str, value: object) -> None:
    """Raise a `ConfigError` unless a setting is a bool."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be True or False, not {value!r}")


def seconds(name: str, value: object, least: float) -> None:
    """Raise a `ConfigError` unless a setting is a number of seconds from `least` to a day."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= 86_400:
        raise ConfigError(f"{name}={value!r} must be a number of seconds from {least:g} to 86400 (one day)")


def is_text_encoding(name: object) -> bool:
    """Tell whether a value names a character encoding that Python supports."""
    try:
        return isinstance(name, str) and isinstance("".encode(name), bytes)
    except (LookupError, ValueError):
        return False


def networks_of(name: str, given: object) -> tuple[str, ...]:
    """Return networks in their canonical spelling.

    Raises:
        ConfigError: The value is not a list of networks such as `10.1.0.0/16` and `fd00:1::/32`.
    """
    try:
        return tuple(str(ip_network(network)) for network in _several(name, given))
    except ValueError as exc:
        raise ConfigError(f"{name} must be a list of networks, such as 10.1.0.0/16: {exc}") from exc


def ports_of(name: str, given: object) -> tuple[int, ...]:
    """Return ports as a tuple.

    Raises:
        ConfigError: The value is not a list of whole numbers from 1 to 65535.
    """
    ports = _several(name, given)
    if any(type(port) is not int or not 0 < port < 65536 for port in ports):
        raise ConfigError(f"{name} must be a list of whole numbers from 1 to 65535, not {ports!r}")
    return ports


def _several(name: str, given: object) -> tuple[Any, ...]:
    """Return the items of a list as a tuple.

    Raises:
        ConfigError: The value is not a list.
    """
    if not isinstance(given, (list, tuple)):
        raise ConfigError(f"{name} must be a list, not {given!r}")
    return tuple(given)
