"""Add tables to a catalogue; the position is saved in the ledger after each transaction, so that a run can resume."""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import blake2b
from pathlib import Path

from ..bounded_json import parse_json
from ..checks import excerpt
from ..config import NOWHERE, Config
from ..errors import RowError, StoppedError, UsageError
from ..fetch import locate
from ..formats import is_url, with_folder
from ..records import Progress
from .ingest import AddReport, Ingest
from .ledger import intact
from .product_images import keep_root, steady_reference
from .product_tables import ProductSource
from .products import Product, with_images
from .session import Session

logger = logging.getLogger("text_image_similarity")


def add_table(
    session: Session,
    source: ProductSource,
    *,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> AddReport:
    """Add the products of a table; an interrupted call resumes after the last row that was written.

    Args:
        session: Session of the catalogue.
        source: The table.
        progress: Called at once and after each transaction with (rows done, failed or refused of these, rows in total).
        stop: Called at once and after each transaction; True ends the call.

    Raises:
        StoppedError: `stop` returned True; rows written so far are kept.
        UsageError: A column is missing.
        TableError: The table cannot be read, or was changed in the meantime.
        ModelError, DatabaseError: The model or the catalogue fails; rows written so far are kept.
    """
    declared = session.ledger.fields
    source.check(declared)
    position = _Position(session, source)
    start = position.read()
    if start:
        logger.info("resuming at row %s of %s, where an earlier run ended", f"{start + 1:,}", source.place)
    ingest = Ingest(session, base=source.folder or ".")
    config = with_folder(session.config, source.folder)
    keep_root(session.ledger.database, config.files_under or NOWHERE)
    numbers: deque[int] = deque()  # numbers of rows whose products are being processed

    def products() -> Iterator[Product]:
        for number, product in source.products(declared, start):
            checked = _located(product, config)
            if isinstance(checked, UsageError):
                where = "" if checked is product else f"row {number} of {source.place}: "
                ingest.report.refuse(f"{where}{checked}")
            else:
                numbers.append(number)
                yield checked

    def check(done: int) -> None:
        """Report the progress, and stop if requested."""
        if progress is not None:
            progress(done, ingest.failed + ingest.report.refused, source.total)
        if stop():
            raise _stopped(source, done)

    check(start)
    done, written = start, 0
    with closing(ingest.add(products())) as transactions:
        for _ in transactions:
            now = ingest.report.products - ingest.report.refused  # refused rows are counted as soon as they are read
            while written < now:
                done = numbers.popleft()
                written += 1
            position.write(done)
            check(done)
    source.check_unchanged()
    position.forget()
    check(source.total)
    return ingest.report


def _located(product: Product | UsageError, config: Config) -> Product | UsageError:
    """Return a product with the locations of its image files, or the reason why one may not be read."""
    if isinstance(product, UsageError):
        return product
    try:
        return with_images(
            product, [steady_reference(locate(image, config), config.files_under) for image in product.images]
        )
    except RowError as error:
        return UsageError(error.detail)


def _stopped(source: ProductSource, done: int) -> StoppedError:
    return StoppedError(
        f"stopped on request with {done:,} of {source.total:,} rows of {source.place} done; the same command resumes from there"
    )


class _Position:
    """The position in a table, saved in the catalogue's settings."""

    def __init__(self, session: Session, source: ProductSource) -> None:
        self._ledger, self._database, self._identity = session.ledger, session.ledger.database, source.identity
        place = source.place if is_url(source.place) else str(Path(source.place).absolute())
        self._key = f"added {blake2b(place.encode('utf-8', 'backslashreplace'), digest_size=16).hexdigest()}"

    def read(self) -> int:
        """Return how many rows are done; 0 if the table was changed or products were deleted in the meantime."""
        found = self._database.read("SELECT value FROM setting WHERE name = ?", (self._key,))
        with intact(self._database):
            kept = dict(parse_json(found[0][0])) if found else {}
            if (
                self._identity is None
                or kept.get("identity") != self._identity
                or kept.get("deleted") != self._deleted()
            ):
                return 0
            if type(rows := kept["rows"]) is not int or rows < 0:
                raise ValueError(f"the number of rows that are done is {excerpt(rows)}")
            return rows

    def write(self, rows: int) -> None:
        """Save the number of rows that are done."""
        if self._identity is None:
            return
        kept = json.dumps({"identity": self._identity, "rows": rows, "deleted": self._deleted()})
        with self._database.write() as transaction:
            transaction.run(
                "INSERT INTO setting (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (self._key, kept),
            )

    def _deleted(self) -> int:
        """Return the version of the last deletion, even if its record has been pruned; 0 if there was none."""
        (last,) = self._database.read("SELECT max(version) FROM removed")[0]
        return max(last or 0, self._ledger.pruned)

    def forget(self) -> None:
        """Make the next run begin with the first row."""
        with self._database.write() as transaction:
            transaction.run("DELETE FROM setting WHERE name = ?", (self._key,))
