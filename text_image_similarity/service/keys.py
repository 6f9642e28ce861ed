"""API keys: identities and permissions of clients."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from ..errors import ConfigError

Role = Literal["search", "write", "admin"]  # each includes the permissions of those before it

_ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key that clients send.

    Args:
        key: The secret.
        name: Name of the key's owner in the match log. Keys with the same name share their matches and events; a key
            with a filter must have a name.
        role: `search` may score and search, `write` may also change products, and `admin` may also change the models of
            catalogues.
        catalogs: Catalogues that the key may see; empty means all of them.
        where: Filter that all products that the key finds, changes or adds must pass; None allows all products, as
            `admin` requires.

    Raises:
        ConfigError: A value is not valid.
    """

    key: str = field(repr=False)
    name: str = ""
    role: Role = "search"
    catalogs: tuple[str, ...] = ()
    where: Mapping[str, Any] | str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.key, str) or not self.key.strip() == self.key != "":
            raise ConfigError("an API key must be a non-empty string without surrounding spaces")
        if not isinstance(self.name, str):
            raise ConfigError(f"the name of an API key must be a string, not {self.name!r}")
        if self.role not in _ROLES:
            raise ConfigError(f"role={self.role!r} of the API key {self.name!r} is not one of {', '.join(_ROLES)}")
        named = (self.catalogs,) if isinstance(self.catalogs, str) else tuple(self.catalogs)
        if not all(isinstance(name, str) for name in named):
            raise ConfigError(f"the catalogues of the API key {self.name!r} must be a list of names")
        object.__setattr__(self, "catalogs", named)
        if self.where is not None and not isinstance(self.where, (str, Mapping)):
            raise ConfigError(f"the filter (where) of the API key {self.name!r} must be a string or an object")
        if self.where is not None and not self.name.strip():
            raise ConfigError("an API key with a filter (where) needs a name, which identifies its matches in the log")
        if self.where is not None and self.role == "admin":
            raise ConfigError(
                f"the API key {self.name!r} has the role admin, which applies to whole catalogues and cannot be combined with a filter"
            )

    def sees(self, catalog: str) -> bool:
        """Tell whether the key may see a catalogue."""
        return not self.catalogs or catalog in self.catalogs

    def may(self, role: Role) -> bool:
        """Tell whether the key has the permissions of a role."""
        return _ROLES.index(self.role) >= _ROLES.index(role)


ANYBODY = ApiKey("anybody")  # used if the service has no keys


def read_keys(lines: Iterable[str]) -> tuple[ApiKey, ...]:
    """Return the keys in lines, each a key or a JSON object with the arguments of `ApiKey`; empty lines are skipped.

    Raises:
        ConfigError: A line is not valid; the message contains its number but not its text.

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
        raise ConfigError(f"a key has no member {unknown[0]!r}; its members are {', '.join(names)}")
    if "key" not in given:
        raise ConfigError('the member "key" is missing')
    return ApiKey(**given)
