"""Experiment tracking with MLflow: parameters, metrics of each epoch, and plots."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from filelock import FileLock

from ..errors import UsageError
from ..system import require

logger = logging.getLogger("text_image_similarity")


_WAIT_S = 300.0  # wait while another run creates the database, which takes seconds on an idle machine


class Tracker(Protocol):
    """The protocol of experiment trackers."""

    @property
    def run_id(self) -> str | None:
        """Id with which a resumed run continues."""

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
        run_id: Id of a run to continue, if the store still holds it.
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
                self._client = MlflowClient(tracking_uri=uri)
                self.run_id: str | None = self._reopen(run_id, MlflowException)
                if self.run_id is None:
                    home = self._experiment(experiment)
                    self.run_id = self._client.create_run(home, run_name=_printable(name)).info.run_id
                    for key, value in parameters.items():
                        self._client.log_param(self.run_id, key, _printable(str(value)))
                place = self._client.get_run(self.run_id).info.artifact_uri
        except Exception as exc:  # stores raise what their database or server raises
            reason = str(getattr(exc, "message", None) or exc).partition("\n")[0]
            raise UsageError(f"MLflow cannot use tracking={uri}: {reason}") from exc
        # Whoever made a file may not choose which server gets the model and MLflow's token.
        if (uri.startswith("sqlite") or _is_local(uri)) and not _is_local(place):
            raise UsageError(
                f"experiment={experiment} in tracking={uri} sends files to {place}; use another experiment, or the server's "
                "address as tracking"
            )

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
        self._try(self._client.log_batch, metrics=batch)

    def artifact(self, path: Path) -> None:
        self._try(self._client.log_artifact, local_path=str(path))

    def end(self, status: str) -> None:
        self._try(self._client.set_terminated, status=status)

    def _try(self, log: Callable[..., object], **values: object) -> None:
        """Record something about the run. If the store fails, the run continues without it."""
        if self._gone:
            return
        try:
            log(self.run_id, **values)
        except Exception as exc:  # stores raise what their database or server raises
            self._gone = True
            logger.warning("MLflow failed; no more data of this run is sent to it: %s", exc)


@contextmanager
def _alone_in(uri: str) -> Iterator[None]:
    """Lock an SQLite file while a run is created in it, because MLflow creates its tables without a lock."""
    scheme, found, file = uri.partition(":///")
    path = Path(file.partition("?")[0])
    if not (found and scheme.startswith("sqlite") and path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        yield  # a server, or a path for which MLflow will report an error
        return
    lock = path.with_name(f"{path.name}.lock")
    with FileLock(lock, timeout=_WAIT_S):
        try:
            yield
        finally:
            lock.unlink(
                missing_ok=True
            )  # removed while it is held; a waiting process finds it gone and creates its own


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
