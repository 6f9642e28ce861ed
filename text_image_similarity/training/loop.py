"""The training loop: epochs, validation after each epoch, and the best averaged weights.

A run writes into its folder: the best model so far (`config.json`, `model.safetensors`, `tokenizer.json`),
`history.json`, and `checkpoint.safetensors`, from which `resume` continues; at the end also `calibration.json`,
`loss.png` and `recall.png`. On the CPU, a run that was killed and resumed ends with the same weights as an
uninterrupted run, bit for bit.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..config import Config
from ..encoders import dual_encoder_folder
from ..encoders.device import choose_placement
from ..encoders.dual_encoder import read_dual_encoder, write_dual_encoder
from ..encoders.towers import DualEncoder
from ..encoders.towers.image import build_backbone
from ..errors import InputTypeError, ModelError
from ..files import path_text, write_whole
from ..folder_lock import FolderLock
from ..preprocess import check_sides
from .checkpoint import NAME, Checkpoint, load_checkpoint, only_one_in, restore, save_checkpoint
from .config import TrainConfig
from .curves import draw_curves
from .data import Splits, batches, fingerprint, load_splits
from .files import FILES, check_links, check_same, check_unused
from .model import calibrate, encode, measure, rebuild_model, start_model
from .optimisation import average_into
from .step import Stepper, choose_dtype
from .tracking import MlflowTracker, NoTracker, Tracker, require_mlflow

logger = logging.getLogger("text_image_similarity")


_SHOWN = 3  # unreadable photos of an epoch to name in the log


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """Progress of a run after a step.

    Args:
        epoch: Number of the epoch, from 1.
        epochs: Number of epochs in total.
        step: Step of the epoch, from 1.
        steps: Number of steps in an epoch.
        loss: Mean loss of this epoch so far.
        metrics: Metrics of the epoch once it is over, otherwise None.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    metrics: Mapping[str, float] | None = None


OnStep = Callable[[TrainProgress], None]


@dataclass(frozen=True, slots=True)
class TrainResult:
    """The result of a training run.

    Args:
        folder: Folder of the trained model.
        best_epoch: Number, from 1, of the epoch whose averaged weights are the trained model.
        history: Metrics of each epoch: its number, loss, learning rate, and retrieval figures on the validation photos.
        test: Retrieval figures of the trained model on the test photos; empty if there are fewer than two.
        stopped_early: Whether training ended because validation had stopped improving.
    """

    folder: Path
    best_epoch: int
    history: list[dict[str, float]]
    test: dict[str, float]
    stopped_early: bool


def train(
    source: str | PathLike[str],
    out: str | PathLike[str],
    config: TrainConfig,
    *,
    resume: bool = False,
    progress: OnStep | None = None,
) -> TrainResult:
    """Train a dual encoder on photos with captions.

    Args:
        source: A table, a folder of tables named after splits, or the id of a data set on the hub; as for
            `read_dataset`.
        out: Folder for the model; afterwards `Config(model=out)` loads it.
        config: The settings of the run.
        resume: Whether to resume from the folder's checkpoint; if there is none, training starts from scratch.
        progress: Called after each step.

    Returns:
        The model's folder, the best epoch, and the metrics of each epoch and of the final test.

    Raises:
        UsageError: The folder contains another run, or a link that leads out of it; a setting differs from that of the
            run to resume; or there is too little data.
        TableError: The data cannot be read.
        ModelError: The weights to start from cannot be used, the loss is no longer finite, or the folder cannot be
            written to.
        ModelUnavailableError: The weights cannot be downloaded.
        BusyError: Another run is writing into the folder.
    """
    if not isinstance(config, TrainConfig):
        raise InputTypeError.of("config", "a TrainConfig, such as TrainConfig(epochs=5)", config)
    source, folder = path_text(source, "source"), Path(path_text(out, "out"))
    with only_one_in(folder) as lock:
        try:
            return _train(source, lock, config, resume, progress)
        except (OSError, SafetensorError) as exc:
            reason = str(exc).replace(str(lock.inside), str(folder))
            raise ModelError(
                f"{folder} cannot be written: {reason}; free some space and continue with --resume"
            ) from exc


def _train(source: str, lock: FolderLock, config: TrainConfig, resume: bool, progress: OnStep | None) -> TrainResult:
    folder, place = lock.folder, lock.place()
    check_links(place)
    found = load_checkpoint(place) if resume else None
    if found is None:
        check_unused(folder, place)
    fixed: dict[str, Any] = json.loads(json.dumps(config.fixed()))
    if found is not None:
        check_same(folder, found.progress["fixed"], fixed)
    _check(config, resumes=found is not None)
    splits = load_splits(source, config)
    fixed["data"] = fingerprint(splits)
    if found is not None:
        check_same(folder, found.progress["fixed"], fixed)
    run = _Run(config, splits, lock, fixed, found)
    if config.tracking == "none":
        return run.finish(NoTracker(), progress)
    return _tracked(run, {"source": source, **fixed, **run.facts()}, folder.name, progress)


def _check(config: TrainConfig, *, resumes: bool) -> None:
    """Check the settings before the data is read; a resumed run does not need the weights that it started from.

    Raises:
        ConfigError, UsageError: The device, precision, tower, initial model or MLflow is not available.
        ModelError: An image would take too much memory or time.
    """
    choose_dtype(config, choose_placement(Config(device=config.device)).device)
    if config.init is None:
        check_sides(config.image_size)
        build_backbone(config.image_tower, config.image_size)
    elif not resumes:
        dual_encoder_folder(config.init)
    if config.tracking != "none":
        require_mlflow()


def _tracked(run: _Run, parameters: Mapping[str, object], name: str, progress: OnStep | None) -> TrainResult:
    """Finish a run while MLflow records it."""
    config, run_id = run.config, run.state.run_id
    tracker = MlflowTracker(
        config.tracking, experiment=config.experiment, name=name, parameters=parameters, run_id=run_id
    )
    try:
        result = run.finish(tracker, progress)
    except BaseException as exc:
        tracker.end("FAILED" if isinstance(exc, Exception) else "KILLED")
        raise
    tracker.end("FINISHED")
    return result


@dataclass(slots=True)
class _State:
    """The state of a run apart from its tensors, which a checkpoint stores as JSON."""

    step: int = 0  # step of the whole run, from 0
    loss: float = 0.0  # sum over this epoch's steps
    learnt: int = 0  # steps of this epoch whose batch had at least two pairs
    best: list[float] = field(default_factory=list)  # figures of the best weights: mean recall@10, recall@1 and MRR
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    scaler: dict[str, Any] = field(default_factory=dict)
    run_id: str | None = None


class _Run:
    def __init__(
        self, config: TrainConfig, splits: Splits, lock: FolderLock, fixed: dict[str, Any], found: Checkpoint | None
    ):
        self.config, self.state = config, _State()
        self._splits, self._lock, self._fixed = splits, lock, fixed
        if found is None:
            model, self._tokenizer = start_model(config, [c for image in splits.train for c in image.captions])
        else:
            model, self._tokenizer = rebuild_model(
                found.progress["model"], found.progress["tokenizer"], lock.place() / NAME
            )
        self._model: DualEncoder = model.to(choose_placement(Config(device=config.device)).device)
        self._average = {name: value.detach().clone() for name, value in self._model.state_dict().items()}
        self._per_epoch = len(splits.train) // config.batch_size
        self._stepper = Stepper(self._model, self._tokenizer, config, config.epochs * self._per_epoch)
        if found is not None:
            restore(found, self._model, self._average, self._stepper.optimiser)
            self.state = _State(**found.progress["state"])
            self._stepper.scaler.load_state_dict(self.state.scaler)

    def facts(self) -> dict[str, object]:
        """Return facts that the settings do not contain: the model's shape and the sizes of the splits."""
        parts = {f"{name}_photos": len(getattr(self._splits, name)) for name in ("train", "validation", "test")}
        return {**asdict(self._model.config), **parts}

    def finish(self, tracker: Tracker, progress: OnStep | None) -> TrainResult:
        """Run the remaining steps, and evaluate the best weights."""
        state, config = self.state, self.config
        state.run_id = tracker.run_id
        if state.step == 0:
            self._keep()  # so that a folder with a model always has a checkpoint, until someone deletes it
        stopped = self._is_over()
        while len(state.history) < config.epochs and not stopped:
            self._epoch(progress)
            row = self._validate()
            tracker.metrics({name: value for name, value in row.items() if name != "epoch"}, len(state.history))
            self._tell(progress, self._per_epoch, row)
            stopped = self._is_over()
        for path in draw_curves(state.history, self._lock.place()):
            tracker.artifact(path)
        test = self._test()
        tracker.metrics({f"test_{name}": value for name, value in test.items()}, state.best_epoch)
        for name in FILES:
            if (path := self._lock.place() / name).exists():
                tracker.artifact(path)
        return TrainResult(self._lock.folder, state.best_epoch, state.history, test, stopped)

    def _epoch(self, progress: OnStep | None) -> None:
        """Run the remaining steps of an epoch."""
        state, config, unreadable = self.state, self.config, []
        epoch, first = divmod(state.step, self._per_epoch)
        side = self._model.config.image_size
        for batch in batches(self._splits.train, config, side, epoch=epoch, first=first):
            unreadable += batch.unreadable
            if len(batch.captions) > 1:
                state.loss += self._stepper.step(batch, state.step)
                state.learnt += 1
                average_into(self._average, self._model.state_dict(), decay=config.ema, step=state.step)
            state.step += 1
            done = state.step - epoch * self._per_epoch
            if state.step % config.checkpoint_steps == 0 and done < self._per_epoch:
                self._keep()
            self._tell(progress, done)
        if unreadable:
            logger.warning(
                "photos of this epoch that could not be read: %d, such as %s",
                len(unreadable),
                "; ".join(unreadable[:_SHOWN]),
            )

    def _validate(self) -> dict[str, float]:
        """Evaluate the averaged weights after an epoch, keep them if they are the best, and save a checkpoint."""
        state = self.state
        found = measure(encode(self._averaged(), self._tokenizer, self._splits.validation, self.config.loading))
        learning_rate = self._stepper.optimiser.param_groups[-1]["lr"]
        row = {"epoch": len(state.history) + 1, "loss": self._mean_loss(), "learning_rate": learning_rate, **found}
        state.history.append(row)
        # Recall@10 decides first; on an easy data set it soon reaches 1, and then the other figures decide.
        ways, figures = ("text_to_image", "image_to_text"), ("recall@10", "recall@1", "mrr")
        reached = [sum(found[f"{way}_{figure}"] for way in ways) / 2 for figure in figures]
        if reached > state.best:
            state.best, state.best_epoch = reached, len(state.history)
            write_dual_encoder(self._lock.place(), self._averaged(), self._tokenizer)
        state.loss, state.learnt = 0.0, 0
        write_whole(self._lock.place() / "history.json", json.dumps(state.history, indent=2) + "\n")
        self._keep()
        return row

    def _test(self) -> dict[str, float]:
        """Calibrate the best weights on the validation photos, and evaluate them on the test photos."""
        model, tokenizer = read_dual_encoder(self._lock.place())
        model = model.to(next(self._model.parameters()).device)
        loading = self.config.loading
        validation = encode(model, tokenizer, self._splits.validation, loading)
        calibrate(validation, self._lock.place(), model=self._lock.folder.name)
        return measure(encode(model, tokenizer, self._splits.test, loading)) if len(self._splits.test) > 1 else {}

    def _averaged(self) -> DualEncoder:
        model = DualEncoder(self._model.config).to(next(self._model.parameters()).device)
        model.load_state_dict(self._average)
        return model

    def _keep(self) -> None:
        """Save a checkpoint."""
        self.state.scaler = self._stepper.scaler.state_dict()
        progress = {
            "fixed": self._fixed,
            "state": {name: getattr(self.state, name) for name in _State.__slots__},
            "model": asdict(self._model.config),
            "tokenizer": self._tokenizer.to_str(),
        }
        save_checkpoint(self._lock.place(), self._model, self._average, self._stepper.optimiser, progress)

    def _is_over(self) -> bool:
        state, patience = self.state, self.config.patience
        return bool(patience and state.best_epoch and len(state.history) - state.best_epoch >= patience)

    def _mean_loss(self) -> float:
        return self.state.loss / max(1, self.state.learnt)

    def _tell(self, progress: OnStep | None, done: int, row: dict[str, float] | None = None) -> None:
        if progress is not None:
            epoch = len(self.state.history) + (row is None)
            loss = row["loss"] if row else self._mean_loss()
            progress(TrainProgress(epoch, self.config.epochs, done, self._per_epoch, loss, row))
