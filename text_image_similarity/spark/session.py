"""The Spark session of the command line: the existing one, or a new one."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError, UsageError
from ..system import require

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

logger = logging.getLogger("text_image_similarity")
_HERE = "local[*,4]"  # four attempts; Spark's plain `local` has only one, so a killed worker would end the run
_LOOPBACK = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.ui.enabled": "false",
}
_QUIET = {"spark.app.name": "text-image-similarity", "spark.ui.showConsoleProgress": "false"}


def open_session(conf: Mapping[str, str]) -> tuple[SparkSession, bool]:
    """Return this process's Spark session, and whether this call started it.

    Args:
        conf: Spark's settings. If neither these settings nor the environment name a master, Spark runs on this machine
            with all cores; it then listens only on loopback and serves no web pages, unless a setting says otherwise.

    Raises:
        UsageError: A name is not a Spark setting.
        MissingExtraError: PySpark is not installed.
        ConfigError: Spark cannot be started with these settings.
    """
    if wrong := [name for name in conf if not name.startswith("spark.")]:
        raise UsageError(f"{wrong[0]!r} is not a Spark setting; those begin with 'spark.', such as spark.master")
    require("scoring on Spark", "pyspark", extra="spark")
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    with suppress(PySparkException):  # there is no session
        session = SparkSession.active()
        if conf:
            logger.warning(
                "this process already has a Spark session; settings that were not applied: %s", ", ".join(conf)
            )
        return session, False
    settings = _settings(conf)
    builder = SparkSession.builder
    for name, value in settings.items():
        builder = builder.config(name, value)
    try:
        with _environment(settings):
            return builder.getOrCreate(), True
    except Exception as exc:  # exceptions of the JVM, py4j and gRPC, and a missing java
        said = str(exc).strip().partition("\n")[0] or type(exc).__name__
        raise ConfigError(f"Spark cannot be started: {said}; see its messages above, and `java -version`") from exc


def _settings(conf: Mapping[str, str]) -> dict[str, str]:
    """Return the settings for a new session: those given, with our defaults for the others."""
    defaults = _defaults()
    chosen = {**defaults, **conf}
    if "spark.remote" in chosen or not os.environ.keys().isdisjoint(("SPARK_REMOTE", "PYSPARK_GATEWAY_PORT")):
        return dict(conf)  # a server and `spark-submit` have their own settings
    named = "--master" in os.environ.get("PYSPARK_SUBMIT_ARGS", "")
    master = chosen.get("spark.master") or ("" if named else os.environ.get("MASTER", _HERE))
    local = {"spark.master": master, **_LOOPBACK} if master.startswith("local") else {}
    ours = {name: value for name, value in {**_QUIET, **local}.items() if name not in defaults}
    return {**ours, **conf}


def _defaults() -> dict[str, str]:
    """Return the settings in Spark's defaults file, if there is one."""
    home = os.environ.get("SPARK_HOME")
    folder = os.environ.get("SPARK_CONF_DIR") or (home and Path(home, "conf"))
    file = Path(folder, "spark-defaults.conf") if folder else None
    if file is None or not file.is_file():
        return {}
    found = re.findall(r"^\s*(spark\.[^\s=:]+)[ \t=:]+(.*\S)", file.read_text(encoding="utf-8"), re.MULTILINE)
    return dict(found)


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Set the variables that PySpark, its JVM and local workers need to start, unless they are already set.

    Without these variables, PySpark would look for Spark in the folder above the working folder, and its workers for
    modules in the working folder; local workers would run the `python3` on PATH.
    """
    import pyspark

    package = Path(pyspark.__path__[0])
    homes = (package / "spark-distribution", package, package.parent.parent)
    home = next((str(home) for home in homes if (home / "bin" / "spark-submit").is_file()), None)
    here = settings.get("spark.master", "").startswith("local")
    python = settings.get("spark.pyspark.python") or (sys.executable if here else None)
    wanted = {"SPARK_HOME": home, "PYTHONSAFEPATH": "1", "PYSPARK_PYTHON": python}
    added = {name: value for name, value in wanted.items() if value and name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
