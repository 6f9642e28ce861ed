"""Access control: a request's API key, the catalogues that it may use, and the filter that limits what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from fastapi import Request

from ...errors import ConfigError, InputTypeError, UsageError
from ...normal_forms import normal_form
from ...search import Product
from ...search.fields import BUILT_IN, ERROR, ID
from ...search.filters import MOST_BRACKETS, MOST_CHARACTERS, And, Compare, Filter, OneOf, matches, parse_filter
from ...search.products import stored_values
from ..keys import ANYBODY, ApiKey, Role
from ..problems import ProblemError
from ..search.catalog import ServedCatalog

T = TypeVar("T")


def key_of(request: Request) -> ApiKey:
    """Return the API key of a request; `ANYBODY` if it needed none."""
    key: ApiKey = request.scope.get("state", {}).get("key", ANYBODY)
    return key


def require_role(request: Request, role: Role) -> None:
    """Refuse a request whose key lacks a role.

    Raises:
        ProblemError: `forbidden`.
    """
    key = key_of(request)
    if key.may(role):
        return
    needed = f"this request needs a key with the role {role}"
    if key is ANYBODY:
        raise ProblemError("forbidden", f"{needed}, but the service has no keys; see --api-key-file")
    raise ProblemError("forbidden", f"{needed}, but this key has the role {key.role}")


def catalog_of(request: Request, name: str | None = None) -> ServedCatalog:
    """Return a catalogue by name, or for None the first one that the request's key sees.

    Raises:
        ProblemError: `unknown_catalog`.
    """
    seen = catalogs_of(request)
    if name is None and seen:
        return seen[0]
    found = next((catalog for catalog in seen if catalog.name == name), None)
    if found is None:
        names = ", ".join(catalog.name for catalog in seen) or "none; see --catalog"
        said = "no catalogue is served here" if name is None else f"{name[:100]!r} is not served here"
        raise ProblemError("unknown_catalog", f"{said}; served catalogues: {names}")
    return found


def catalogs_of(request: Request) -> list[ServedCatalog]:
    """Return the catalogues that a request's key sees, the default first."""
    key = key_of(request)
    served: dict[str, ServedCatalog] = request.app.state.catalogs
    return [catalog for name, catalog in served.items() if key.sees(name)]


def check_keys(keys: Iterable[ApiKey], catalog: ServedCatalog) -> None:
    """Make sure that the filters of API keys are valid for a catalogue.

    Raises:
        ConfigError: A filter cannot be used in the catalogue.
    """
    for key in keys:
        if key.sees(catalog.name):
            try:
                parse_filter(key.where, catalog.catalog.fields)
            except UsageError as exc:
                raise ConfigError(
                    f"the filter (where) of the API key {key.name!r} does not fit the catalogue {catalog.name}: {exc}"
                ) from exc


def checked(make: Callable[[], T], where: str = "") -> T:
    """Build a value from a request, and refuse the request if its input is not valid.

    Args:
        make: Function that builds the value.
        where: JSON pointer to the input.

    Raises:
        ProblemError: `invalid_request`.
    """
    try:
        return make()
    except (UsageError, InputTypeError) as exc:
        raise ProblemError("invalid_request", f"{where}: {exc}" if where else str(exc)) from None


def check_length(wheres: Sequence[object]) -> None:
    """Refuse filters that together are longer than a single filter may be, before any of them is parsed.

    Raises:
        ProblemError: `invalid_request`.
    """
    length = 0
    for where in wheres:
        length += _length_of(where)
        if length > MOST_CHARACTERS:
            advice = "fewer queries, or shorter filters" if len(wheres) > 1 else "a shorter filter"
            raise ProblemError(
                "invalid_request",
                f"the filters of a request may be at most {MOST_CHARACTERS:,} characters long in total, counting two "
                f"extra characters for each name and value in JSON; send {advice}",
            )


def _length_of(where: object) -> int:
    """Return the approximate length of a filter as text; counting stops once the filter is too long."""
    length, level = 0, [where]
    for _ in range(MOST_BRACKETS):  # deeper filters are refused by the parser
        below: list[object] = []
        for each in level:
            length += 2
            if isinstance(each, str):
                length += len(each)
            elif isinstance(each, int):
                length += each.bit_length() // 3
            elif isinstance(each, (list, dict)):
                if length + 2 * len(each) > MOST_CHARACTERS:
                    return length + 2 * len(each)
                below += each
                below += each.values() if isinstance(each, dict) else ()
            if length > MOST_CHARACTERS:
                return length
        level = below
    return length


def bound(request: Request, catalog: ServedCatalog, where: object = None) -> Filter | None:
    """Return a request's filter combined with its key's filter, so that the request finds only what the key allows.

    Raises:
        UsageError: A filter is not valid.
    """
    fields = catalog.catalog.fields
    asked = parse_filter(where, fields)  # type: ignore[arg-type]  # other types are refused as the client's mistake
    own = parse_filter(key_of(request).where, fields)
    if own is None or asked is None:
        return asked if own is None else own
    return And((own, asked))


def check_fields(request: Request, names: Iterable[str]) -> None:
    """Refuse to show the values of `_error`, which reveal the addresses of images, to a key without the role `write`.

    Raises:
        ProblemError: `forbidden`.
    """
    if ERROR in names and not key_of(request).may("write"):
        raise ProblemError(
            "forbidden",
            f"the values of {ERROR} require a key with the role write; without one, filter by `{ERROR} exists`",
        )


async def check_products(
    request: Request, catalog: ServedCatalog, ids: Iterable[str | None], *, writes: bool = False
) -> None:
    """Make sure that a request's key may see the given products; for `writes`, see `ServedCatalog.call`.

    Raises:
        ProblemError: `unknown_product`, if the key has a filter, and a product is hidden or does not exist.
    """
    given = [id for id in ids if id is not None]
    if not given or key_of(request).where is None:
        return

    def find_hidden() -> str | None:
        wanted = tuple({normal_form("NFC", id): None for id in given})
        seen = {product.id for product in _seen(request, catalog, OneOf(ID, wanted), len(wanted))}
        return next((id for id in wanted if id not in seen), None)

    if (hidden := await catalog.call(find_hidden, writes=writes)) is not None:
        raise unknown_product(hidden)


async def check_tenant(
    request: Request, served: ServedCatalog, products: Sequence[Product], deleted: Sequence[str]
) -> None:
    """Refuse to change or delete products that a key does not see, or to add products that it would not see."""
    own = bound(request, served)
    if own is None:
        return
    fields = served.catalog.fields
    names = [each.name for each in (*BUILT_IN, *fields)]

    def check_values() -> None:
        for number, product in enumerate(products):
            values = checked(lambda product=product: stored_values(product, fields), f"/products/{number}")  # type: ignore[misc]
            if not matches(own, dict(zip(names, values, strict=True))):
                raise ProblemError(
                    "forbidden",
                    f"/products/{number}: the filter of this key does not allow the product {product.id[:100]!r}",
                )

    await served.call(check_values, writes=True)  # on a thread, because long values take time
    await check_products(request, served, deleted, writes=True)
    there = await served.call(
        lambda: [product.id for product in products if served.catalog.get(product.id) is not None], writes=True
    )
    await check_products(request, served, there, writes=True)


async def product_of(request: Request, catalog: ServedCatalog, id: str, *, writes: bool = False) -> Product:
    """Return a product that a request's key may see; for `writes`, see `ServedCatalog.call`.

    Raises:
        ProblemError: `unknown_product`, whether the product is hidden or does not exist.
    """
    found = await visible(request, catalog, Compare(ID, "eq", normal_form("NFC", id)), 1, writes=writes)
    if not found:
        raise unknown_product(id)
    return found[0]


async def visible(
    request: Request, catalog: ServedCatalog, where: Filter, most: int, *, writes: bool = False
) -> list[Product]:
    """Return at most `most` products that pass a filter and that a request's key may see; for `writes`, see `call`."""
    return await catalog.call(lambda: list(_seen(request, catalog, where, most)), writes=writes)


def _seen(request: Request, catalog: ServedCatalog, where: Filter, most: int) -> Iterator[Product]:
    return islice(catalog.catalog.products(bound(request, catalog, where)), most)


def unknown_product(id: str) -> ProblemError:
    """Return the problem for a product that does not exist, or that the key may not see."""
    return ProblemError("unknown_product", f"there is no product {id[:100]!r}")
