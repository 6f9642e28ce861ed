"""What callers hand in, checked before anything is done: an error names the argument and what it should be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from ..errors import InputTypeError, UsageError

_ENCODER = ("info", "embed_dim", "encode_image", "encode_text")


def several(name: str, given: object, wanted: str) -> Iterable[Any]:
    """Return what can be gone through; a text, bytes or a mapping is one thing and not several.

    Raises:
        InputTypeError: It is something else.

    Example:
        >>> several("ids", ["a", "b"], "a list of ids")
        ['a', 'b']
    """
    if isinstance(given, (str, bytes, bytearray, Mapping)) or not isinstance(given, Iterable):
        raise InputTypeError.of(name, wanted, given)
    return given


def texts_of(name: str, given: object, wanted: str) -> tuple[str, ...]:
    """Return texts, of which a single one may stand by itself.

    Raises:
        InputTypeError: They are something else.
    """
    texts = (given,) if isinstance(given, str) else tuple(several(name, given, wanted))
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputTypeError.of(f"{name}[{number}]", "a text", text)
    return texts


def check_type(name: str, given: object, kind: type | tuple[type, ...], wanted: str) -> None:
    """Raise an `InputTypeError` unless something is of a type."""
    if not isinstance(given, kind):
        raise InputTypeError.of(name, wanted, given)


def check_calls(**given: object) -> None:
    """Raise an `InputTypeError` unless each argument can be called, or is None."""
    for name, each in given.items():
        if each is not None and not callable(each):
            raise InputTypeError.of(name, "a function", each)


def check_encoder(encoder: object) -> None:
    """Raise an `InputTypeError` unless something is a loaded encoder, or None."""
    if encoder is not None and not all(hasattr(encoder, name) for name in _ENCODER):
        raise InputTypeError.of("encoder", "a loaded encoder, as load_encoder returns one", encoder)


def check_url(name: str, place: str, *, one_host: bool = False) -> None:
    """Raise a `UsageError` if a place is a URL that cannot be read; the message is without it, for its password.

    Args:
        name: What the message calls it.
        place: A URL, or something else, which passes.
        one_host: Whether it names a single host with at most one port, where PostgreSQL takes several.
    """
    try:
        parts = urlsplit(place)
        _ = one_host and parts.port
    except ValueError as exc:
        raise UsageError(f"{name} is not a valid URL: {exc}") from None


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Say in what is wrong with one of several things which one it is; an empty place stands for the only one."""
    try:
        yield
    except UsageError as problem:
        if not place:
            raise
        raise type(problem)(f"{place}: {problem}") from None
