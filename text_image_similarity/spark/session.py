"""The session that the command line scores with: the one that is there, or one of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# On this machine alone: four tries, where Spark's plain `local` has one and a killed worker would end the run; nothing
# listens beyond loopback, no pages are served.
_LOCAL = {
    "spark.master": "local[*,4]",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.ui.enabled": "false",
}
_QUIET = {"spark.app.name": "text-image-similarity", "spark.ui.showConsoleProgress": "false"}


def require_pyspark() -> None:
    """Raise unless PySpark is installed.

    Raises:
        ConfigError: It is not.
    """
    if find_spec("pyspark") is None:
        raise ConfigError("scoring on Spark needs PySpark: pip install 'text-image-similarity[spark]'")


def open_session(conf: Mapping[str, str]) -> tuple[SparkSession, bool]:
    """Return this process's Spark session, and whether it was started for this.

    Args:
        conf: Spark's settings. Where neither they nor the environment name a master, it is this machine, with all cores.

    Raises:
        ConfigError: PySpark is not installed, or Spark cannot be started with these settings.
    """
    require_pyspark()
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    try:
        return SparkSession.active(), False
    except PySparkException:
        pass  # there is none
    remote = "spark.remote" in conf or "SPARK_REMOTE" in os.environ  # a server that is there has settings of its own
    settings = {**({} if remote else _QUIET), **({} if _names_master(conf) else _LOCAL), **conf}
    builder = SparkSession.builder
    for name, value in settings.items():
        builder = builder.config(name, value)
    try:
        with _python_of_workers(settings):
            return builder.getOrCreate(), True
    except Exception as exc:  # the JVM's own exceptions, py4j's, gRPC's, and a missing java
        said = str(exc).strip().partition("\n")[0] or type(exc).__name__
        raise ConfigError(f"Spark cannot be started: {said}; see its messages above, and `java -version`") from exc


def _names_master(conf: Mapping[str, str]) -> bool:
    """Whether somebody has chosen where Spark runs: the settings, `spark-submit`, the environment, or Spark's defaults."""
    chosen = ("spark.master", "spark.remote")
    if any(name in conf for name in chosen) or any(name in os.environ for name in ("MASTER", "SPARK_REMOTE")):
        return True
    if "PYSPARK_GATEWAY_PORT" in os.environ or "--master" in os.environ.get("PYSPARK_SUBMIT_ARGS", ""):
        return True
    home, folder = os.environ.get("SPARK_HOME"), os.environ.get("SPARK_CONF_DIR")
    defaults = Path(folder or Path(home or "", "conf"), "spark-defaults.conf") if folder or home else None
    if defaults is None or not defaults.is_file():
        return False
    return any(line.strip().startswith(chosen) for line in defaults.read_text(encoding="utf-8").splitlines())


@contextmanager
def _python_of_workers(settings: Mapping[str, str]) -> Iterator[None]:
    """Let workers on this machine run this Python while a session starts; PySpark would take the `python3` of PATH."""
    here = settings.get("spark.master", "").startswith("local")
    python = settings.get("spark.pyspark.python") or (sys.executable if here else None)
    if python is None or "PYSPARK_PYTHON" in os.environ:
        yield
        return
    os.environ["PYSPARK_PYTHON"] = python
    try:
        yield
    finally:
        del os.environ["PYSPARK_PYTHON"]
