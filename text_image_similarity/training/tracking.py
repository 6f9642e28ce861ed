"""Experiment tracking with MLflow: parameters, a value per metric and epoch, pictures of the curves."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from ..errors import UsageError

logger = logging.getLogger("text_image_similarity")


class Tracker(Protocol):
    """Where a run's course is kept."""

    @property
    def run_id(self) -> str | None:
        """What a resumed run goes on with."""

    def metrics(self, values: Mapping[str, float], epoch: int) -> None:
        """Keep the metrics of an epoch."""

    def artifact(self, path: Path) -> None:
        """Keep a file."""

    def end(self, status: str) -> None:
        """Close the run as `FINISHED`, `FAILED` or `KILLED`."""


class NoTracker:
    """Keeps nothing."""

    run_id = None

    def metrics(self, values: Mapping[str, float], epoch: int) -> None:
        pass

    def artifact(self, path: Path) -> None:
        pass

    def end(self, status: str) -> None:
        pass


class MlflowTracker:
    """Keeps a run in an MLflow store.

    Args:
        uri: The store: `sqlite:///path`, or the address of a server.
        experiment: Made if it is not there.
        name: The run's name.
        parameters: What to note about a new run.
        run_id: A run to go on with, if the store still holds it.
    """

    def __init__(
        self, uri: str, *, experiment: str, name: str, parameters: Mapping[str, object], run_id: str | None
    ) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # MLflow reads it while it is imported
        try:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
        except ImportError as exc:
            raise UsageError(
                "tracking needs MLflow: pip install 'text-image-similarity[train]', or turn it off with --tracking none"
            ) from exc
        try:
            self._client = MlflowClient(tracking_uri=uri)
            self.run_id: str | None = self._reopen(run_id, MlflowException)
            if self.run_id is None:
                found = self._client.get_experiment_by_name(experiment)
                home = found.experiment_id if found else self._client.create_experiment(experiment)
                self.run_id = self._client.create_run(home, run_name=name).info.run_id
                for key, value in parameters.items():
                    self._client.log_param(self.run_id, key, value)
        except MlflowException as exc:
            raise UsageError(f"MLflow cannot use tracking={uri}: {exc.message}") from exc

    def _reopen(self, run_id: str | None, missing: type[Exception]) -> str | None:
        if run_id is None:
            return None
        try:
            self._client.update_run(run_id, status="RUNNING")
        except missing:
            return None
        return run_id

    def metrics(self, values: Mapping[str, float], epoch: int) -> None:
        for name, value in values.items():
            # MLflow takes no @ in a name.
            self._try(self._client.log_metric, name.replace("@", "_at_"), value, step=epoch)

    def artifact(self, path: Path) -> None:
        self._try(self._client.log_artifact, str(path))

    def end(self, status: str) -> None:
        self._try(self._client.set_terminated, status=status)

    def _try(self, log: Callable[..., None], *values: object, **named: object) -> None:
        """Log something about the run; a store that fails in the middle of a run costs its curves, not the run."""
        try:
            log(self.run_id, *values, **named)
        except Exception as exc:  # stores raise what their database or server raises
            logger.warning("MLflow did not take %s: %s", ", ".join(map(str, values)) or "the end of the run", exc)
