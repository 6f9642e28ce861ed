"""Spark for tests: a session of this process, and the Python workers behind it."""

from __future__ import annotations

import base64
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psutil

from tests.support.images import make_png
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ON_LOOPBACK = {"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1", "spark.ui.enabled": "false"}
ENVIRONMENT = {"SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
SCHEMA = "number int, url string, caption string"
Row = tuple[int, str | None, str | None]


@contextmanager
def local_session() -> Iterator[SparkSession]:
    """Yield a session with two workers, that runs a failed task once more."""
    from pyspark.sql import SparkSession

    before = dict(os.environ)
    os.environ.update(ENVIRONMENT)
    builder = SparkSession.builder.master("local[2,2]").config("spark.ui.showConsoleProgress", "false")
    for name, value in ON_LOOPBACK.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    os.environ.clear()
    os.environ.update(before)
    yield session
    session.stop()


def kill_a_worker(port: int) -> None:
    """End one of the processes below this one that are connected to a server here, at once."""
    busy = next(p for p in psutil.Process().children(recursive=True) if _is_connected(p, port))
    assert "pyspark.daemon" in busy.cmdline()
    busy.send_signal(signal.SIGKILL)


def _is_connected(process: psutil.Process, port: int) -> bool:
    try:
        return any(c.raddr and c.raddr.port == port for c in process.net_connections("tcp"))
    except psutil.NoSuchProcess:  # it has ended since it was listed
        return False


def faulty_rows(count: int) -> list[Row]:
    """Return numbered pairs of which every fifth has something wrong."""
    wrong_urls = ["missing.png", None, "", "data:,x", "ftp://host.example/x", "data:image/png;base64,iVBORw0KGgo="]
    wrong_captions = [None, "", "  "]
    rows: list[Row] = []
    for i in range(count):
        colour = f"#{i * 40503 % 0xFFFFFF:06x}"
        picture = "data:image/png;base64," + base64.b64encode(make_png(colour, (20 + i % 9, 24))).decode()
        url = wrong_urls[i // 10 % len(wrong_urls)] if i % 10 == 3 else picture
        caption = (
            wrong_captions[i // 10 % len(wrong_captions)] if i % 10 == 8 else f"a plain {colour} wall " * (1 + i % 4)
        )
        rows.append((i, url, caption))
    return rows


def plain(results: Any) -> list[list[Any]]:
    """Return results as JSON has them: similarity and error, with -9 for a similarity that is missing."""
    return [[result.similarity if result.error is None else -9, result.error] for result in results]
