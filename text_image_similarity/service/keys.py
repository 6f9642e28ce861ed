"""API keys: who a client is, and what it may do."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from ..errors import ConfigError

Role = Literal["search", "write", "admin"]  # each may do what those before it may

_ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key that clients send.

    Args:
        key: The secret.
        name: What the log calls whoever has it. Keys of one name share their matches, and what is known of them; a key with a
            filter has to have one.
        role: `search` scores and searches, `write` also changes products, `admin` also changes the models of catalogues.
        catalogs: The catalogues that it sees; none stands for all of them.
        where: A filter that all products pass which it finds, changes or adds; None lets it see all of them, as `admin` has to.

    Raises:
        ConfigError: A value cannot be used.
    """

    key: str = field(repr=False)
    name: str = ""
    role: Role = "search"
    catalogs: tuple[str, ...] = ()
    where: Mapping[str, Any] | str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.key, str) or not self.key.strip() == self.key != "":
            raise ConfigError("an API key must be a text that is not empty and has no spaces around it")
        if not isinstance(self.name, str):
            raise ConfigError(f"the name of an API key must be a text, not {self.name!r}")
        if self.role not in _ROLES:
            raise ConfigError(f"role={self.role!r} of the API key {self.name!r} is not one of {', '.join(_ROLES)}")
        named = (self.catalogs,) if isinstance(self.catalogs, str) else tuple(self.catalogs)
        if not all(isinstance(name, str) for name in named):
            raise ConfigError(f"the catalogues of the API key {self.name!r} must be names")
        object.__setattr__(self, "catalogs", named)
        if self.where is not None and not isinstance(self.where, (str, Mapping)):
            raise ConfigError(f"where of the API key {self.name!r} must be a filter: a text or an object")
        if self.where is not None and not self.name.strip():
            raise ConfigError("an API key with a filter (where) needs a name, by which the log keeps its matches apart")
        if self.where is not None and self.role == "admin":
            raise ConfigError(
                f"the API key {self.name!r} has the role admin, which is for whole catalogues, and a filter"
            )

    def sees(self, catalog: str) -> bool:
        """Say whether it sees a catalogue."""
        return not self.catalogs or catalog in self.catalogs

    def may(self, role: Role) -> bool:
        """Say whether it has a role."""
        return _ROLES.index(self.role) >= _ROLES.index(role)


ANYBODY = ApiKey("anybody")  # where the service has no keys


def read_keys(lines: Iterable[str]) -> tuple[ApiKey, ...]:
    """Return the keys in lines, of which each is a key, or a JSON object with the arguments of `ApiKey`; empty ones are left out.

    Raises:
        ConfigError: A line cannot be used; the message names its number and not its text.

    Example:
        >>> [key.role for key in read_keys(["a-key", '{"key": "another", "name": "import", "role": "write"}'])]
        ['search', 'write']
    """
    found = []
    for number, line in enumerate(lines, 1):
        if text := line.strip():
            try:
                found.append(_read_object(text) if text.startswith("{") else ApiKey(text))
            except (ConfigError, ValueError, RecursionError) as exc:
                said = exc if isinstance(exc, ConfigError) else "it is not valid JSON"
                raise ConfigError(f"line {number} of the API keys: {said}") from None
    return tuple(found)


def _read_object(text: str) -> ApiKey:
    given = json.loads(text)
    names = [each.name for each in fields(ApiKey)]
    if unknown := sorted(set(given) - set(names)):
        raise ConfigError(f"{unknown[0]!r} is unknown; there are {', '.join(names)}")
    if "key" not in given:
        raise ConfigError('there is no "key"')
    return ApiKey(**given)
