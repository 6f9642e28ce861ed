"""Experiment tracking with MLflow: parameters, metrics of each epoch, plots, and the model's files."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from filelock import FileLock

from ..errors import DatabaseError, UsageError
from ..files import on_other_share
from ..sqlite_files import check_sqlite_place
from ..system import require

logger = logging.getLogger("text_image_similarity")


# What MLflow's databases consist of: tables, indexes, and a trigger for stored passwords, which training never writes.
# Only the text of a statement is checked, because SQLite runs it no matter what kind of object the row claims to be.
_OWN_SCHEMA = re.compile(r"CREATE (TABLE|INDEX|UNIQUE INDEX) |$")
_OWN_TRIGGER = (  # in full, with single spaces
    "CREATE TRIGGER prevent_secrets_aad_mutation BEFORE UPDATE ON secrets FOR EACH ROW "
    "WHEN OLD.secret_id != NEW.secret_id OR OLD.secret_name != NEW.secret_name BEGIN "
    "SELECT RAISE(ABORT, 'secret_id and secret_name are immutable (used as AAD in encryption)'); END"
)
_WAIT_S = 300.0  # wait while another run creates the database, which takes seconds on an idle machine


class Tracker(Protocol):
    """A tracker, which records the metrics and files of one training run."""

    @property
    def run_id(self) -> str | None:
        """Id of the tracked run, for resuming it; None if nothing is tracked."""

    def metrics(self, values: Mapping[str, float], epoch: int) -> None:
        """Record the metrics of an epoch."""

    def artifact(self, path: Path) -> None:
        """Record a file."""

    def end(self, status: str) -> None:
        """Close the run as `FINISHED`, `FAILED` or `KILLED`."""


class NoTracker:
    """Tracker that records nothing."""

    run_id = None

    def metrics(self, values: Mapping[str, float], epoch: int) -> None:
        pass

    def artifact(self, path: Path) -> None:
        pass

    def end(self, status: str) -> None:
        pass


class MlflowTracker:
    """Tracker that records a run in an MLflow store.

    Args:
        uri: URI of the store: `sqlite:///path`, or the address of a server.
        experiment: Name of the experiment, which is created if it does not exist.
        name: Name of the run.
        parameters: Parameters to record for a new run.
        run_id: Id of a run to continue, if the store still contains it.
    """

    def __init__(
        self, uri: str, *, experiment: str, name: str, parameters: Mapping[str, object], run_id: str | None
    ) -> None:
        require_mlflow()
        from mlflow import MlflowClient
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        self._metric, self._gone = Metric, False
        try:
            with _alone_in(uri):
                _check_schema(uri)
                self._client = MlflowClient(tracking_uri=_absolute(uri))
                self.run_id: str | None = self._reopen(run_id, MlflowException)
                if self.run_id is None:
                    home = self._experiment(experiment)
                    self.run_id = self._client.create_run(home, run_name=_printable(name)).info.run_id
                    for key, value in parameters.items():
                        self._client.log_param(self.run_id, key, _printable(str(value)))
                place = self._client.get_run(self.run_id).info.artifact_uri
        except UsageError:
            raise
        except Exception as exc:  # stores raise what their database or server raises
            reason = str(getattr(exc, "message", None) or exc).partition("\n")[0]
            raise UsageError(f"MLflow cannot use tracking={uri}: {reason}") from exc
        self._log_file = _local_files(uri, experiment, place) or partial(self._client.log_artifact, self.run_id)

    def _experiment(self, name: str) -> str:
        """Return the id of an experiment, which another run may create at the same time."""
        if found := self._client.get_experiment_by_name(name):
            return str(found.experiment_id)
        try:
            return str(self._client.create_experiment(name))
        except Exception:
            if found := self._client.get_experiment_by_name(name):
                return str(found.experiment_id)
            raise

    def _reopen(self, run_id: str | None, missing: type[Exception]) -> str | None:
        if run_id is None:
            return None
        try:
            self._client.update_run(run_id, status="RUNNING")
        except missing:
            return None
        return run_id

    def metrics(self, values: Mapping[str, float], epoch: int) -> None:
        now = int(1000 * time.time())
        # MLflow does not allow @ in a name.
        batch = [self._metric(name.replace("@", "_at_"), value, now, epoch) for name, value in values.items()]
        self._try(self._client.log_batch, self.run_id, metrics=batch)

    def artifact(self, path: Path) -> None:
        self._try(self._log_file, str(path))

    def end(self, status: str) -> None:
        self._try(self._client.set_terminated, self.run_id, status=status)

    def _try(self, log: Callable[..., object], *values: object, **named: object) -> None:
        """Record something about the run. If the store fails, the run continues without it."""
        if self._gone:
            return
        try:
            log(*values, **named)
        except Exception as exc:  # stores raise what their database or server raises
            self._gone = True
            logger.warning("MLflow failed, so no more data of this run is sent to it: %s", exc)


@contextmanager
def _alone_in(uri: str) -> Iterator[None]:
    """Lock an SQLite file while a run is created in it, because MLflow creates its tables without a lock."""
    path = _sqlite_file(uri)
    if path is None or not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        yield  # a server, or a path for which MLflow will report an error
        return
    lock = path.with_name(f"{path.name}.lock")
    with FileLock(lock, timeout=_WAIT_S):
        try:
            yield
        finally:
            lock.unlink(
                missing_ok=True
            )  # the file is removed while the lock is held; a waiting process finds it gone and creates its own


def _sqlite_file(uri: str) -> Path | None:
    """Return the file of an SQLite database; None for another store."""
    scheme, found, file = uri.partition(":///")
    return Path(file.partition("?")[0]) if found and scheme.startswith("sqlite") else None


def _absolute(uri: str) -> str:
    """Return an SQLite URI with a full path; MLflow may resolve a relative one against an earlier working folder."""
    scheme, found, file = uri.partition(":///")
    if not (found and scheme.startswith("sqlite")) or file.startswith(("?", ":memory:", "file:")) or not file:
        return uri
    full = f"{Path.cwd().as_posix()}/" if not Path(file.partition("?")[0]).is_absolute() else ""
    return uri if "?" in full else f"{scheme}:///{full}{file}"


def _check_schema(uri: str) -> None:
    """Refuse an SQLite database whose schema does more than store data, because the file may come from a stranger."""
    if not uri.startswith("sqlite"):
        return
    from sqlalchemy import create_engine

    if file := _sqlite_file(uri):
        try:
            check_sqlite_place(Path(str(file).removeprefix("file:")))
        except DatabaseError as exc:
            raise UsageError(f"tracking={uri}: {exc}") from exc
    engine = create_engine(uri)  # as MLflow opens it, so that both see the same file
    try:
        with engine.connect() as database:
            found = database.exec_driver_sql("SELECT type, name, coalesce(sql, '') FROM sqlite_master").all()
    finally:
        engine.dispose()
    for kind, name, sql in found:
        if not _OWN_SCHEMA.match(sql) and " ".join(sql.split()) != _OWN_TRIGGER:
            raise UsageError(
                f"the database of tracking={uri} contains the {kind} {name!r:.100}, which MLflow did not create and which "
                "could change what is recorded; name another database as tracking, or use tracking=none"
            )


def _local_files(uri: str, experiment: str, place: str) -> Callable[[str], object] | None:
    """Return the function that copies files to the place of a run in a local store; None for a server.

    A local store may come from a stranger, who must not be able to choose which server receives the model and MLflow's
    token, nor which files of this machine are replaced. The place is not read again, because the store could then name
    another one.

    Raises:
        UsageError: The place is not on this machine, or the store is in the working folder and the place is not.
    """
    if not (uri.startswith("sqlite") or _is_local(uri)):
        return None
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
    from mlflow.utils.file_utils import local_file_uri_to_path

    advice = "use another experiment, or the server's address as tracking"
    if _is_local(place):
        files = LocalArtifactRepository(place)
        here = Path.cwd().resolve()
        store = _sqlite_file(uri) or Path(local_file_uri_to_path(uri))
        folder = Path(files.artifact_dir)
        # Asked first, because Windows would log in to the host of a share.
        if not on_other_share(folder, store) and (not _is_below(store, here) or _is_below(folder, here)):
            copy: Callable[[str], object] = files.log_artifact
            return copy
        advice = (
            f"use another experiment, or a database outside {here}: a database in that folder may send files only there"
        )
    raise UsageError(f"experiment={experiment} in tracking={uri} sends files to {place}; {advice}")


def _is_below(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder)


def _is_local(place: str) -> bool:
    """Tell whether a place is a path, which may begin with a drive, or a `file:` URI on this machine."""
    parts = urlsplit(place)
    return (len(parts.scheme) < 2 or parts.scheme == "file") and not (parts.netloc or place.startswith("\\\\"))


def _printable(text: str) -> str:
    """Return a text that a database can store; a path may contain other bytes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def require_mlflow() -> None:
    """Make sure that MLflow is installed and sends no telemetry.

    Raises:
        MissingExtraError: MLflow is not installed.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # MLflow reads this variable on import
    require("tracking (turned off by --tracking none)", "mlflow", extra="train")
