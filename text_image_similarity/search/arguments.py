"""Checks of arguments; an error names the argument and what it should be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from ..errors import InputTypeError, UsageError

_ENCODER = ("info", "embed_dim", "encode_image", "encode_text")


def several(name: str, given: object, wanted: str) -> Iterable[Any]:
    """Return an iterable of several values unchanged; text, bytes and mappings are single values, and are refused.

    Raises:
        InputTypeError: The value is not an iterable of several values.

    Example:
        >>> several("ids", ["a", "b"], "a list of ids")
        ['a', 'b']
    """
    if isinstance(given, (str, bytes, bytearray, Mapping)) or not isinstance(given, Iterable):
        raise InputTypeError.of(name, wanted, given)
    return given


def texts_of(name: str, given: object, wanted: str) -> tuple[str, ...]:
    """Return texts as a tuple; a single text becomes a tuple of one.

    Raises:
        InputTypeError: The values are not texts.
    """
    texts = (given,) if isinstance(given, str) else tuple(several(name, given, wanted))
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputTypeError.of(f"{name}[{number}]", "a string", text)
    return texts


def check_type(name: str, given: object, kind: type | tuple[type, ...], wanted: str) -> None:
    """Raise an `InputTypeError` unless a value is of a given type."""
    if not isinstance(given, kind):
        raise InputTypeError.of(name, wanted, given)


def check_calls(**given: object) -> None:
    """Raise an `InputTypeError` unless each argument is callable or None."""
    for name, each in given.items():
        if each is not None and not callable(each):
            raise InputTypeError.of(name, "a function", each)


def check_encoder(encoder: object) -> None:
    """Raise an `InputTypeError` unless a value is a loaded encoder or None."""
    if encoder is not None and not all(hasattr(encoder, name) for name in _ENCODER):
        raise InputTypeError.of("encoder", "a loaded encoder, such as one from load_encoder", encoder)


def check_url(name: str, place: str, *, one_host: bool = False) -> None:
    """Raise a `UsageError` if a place is an invalid URL; the message omits it, because it may contain a password.

    Args:
        name: Name of the argument in the message.
        place: The place; one that is not a URL is accepted.
        one_host: Whether the URL must name a single host and port; a URL for PostgreSQL may name several.
    """
    try:
        parts = urlsplit(place)
        _ = one_host and parts.port
    except ValueError as exc:
        raise UsageError(f"{name} is not a valid URL: {exc}") from None


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Add the name of one of several items to errors about it; an empty name means that there is only one."""
    try:
        yield
    except UsageError as problem:
        if not place:
            raise
        raise type(problem)(f"{place}: {problem}") from None
