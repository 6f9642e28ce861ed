"""Checkpoints: the state of a run in one safetensors file, with weights, averaged weights, optimiser and progress.

No random state is saved, because every random choice is determined by the seed and the step.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..bounded_json import parse_json
from ..errors import ModelError, UsageError
from ..files import whole_file
from ..folder_lock import FolderLock
from ..folders import follow_links, shown

NAME = "checkpoint.safetensors"
_TENSOR = re.compile(r"model\..+|average\..+|optimiser\.[0-9]{1,9}\..+")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The content of a checkpoint.

    Args:
        tensors: Tensors by name, under `model.`, `average.` and `optimiser.`.
        progress: Step, history and the like, as JSON values.
    """

    tensors: dict[str, Tensor]
    progress: dict[str, Any]


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    average: Mapping[str, Tensor],
    optimiser: torch.optim.Optimizer,
    progress: Mapping[str, object],
) -> None:
    """Write the state of a run into its folder, replacing the previous checkpoint."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.items()}
    for number, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{name}": torch.as_tensor(value) for name, value in state.items()}
    # Copies, because safetensors refuses tensors that share memory.
    plain = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    with whole_file(folder / NAME) as partial:
        save_file(plain, partial, {"progress": json.dumps(progress)})


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """Read the state of a run, or return None if there is none.

    Raises:
        ModelError: The file is damaged.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            progress = parse_json((file.metadata() or {})["progress"])
            names = list(file.keys())
            if strange := [name for name in names if not _TENSOR.fullmatch(name)]:
                raise ValueError(f"it has a tensor {strange[0]!r:.100}, which is not part of a checkpoint")
            return Checkpoint({name: file.get_tensor(name) for name in names}, progress)
    except (OSError, SafetensorError, KeyError, ValueError) as exc:
        raise ModelError(f"{shown(path)} is damaged ({exc}); delete it and train from scratch") from exc


def restore(found: Checkpoint, model: nn.Module, average: dict[str, Tensor], optimiser: torch.optim.Optimizer) -> None:
    """Restore a model, its average and its optimiser from a checkpoint.

    Raises:
        ModelError: The tensors do not fit.
    """
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimiser": {}}
    for name, value in found.tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in parts["optimiser"].items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = value
    try:
        model.load_state_dict(parts["model"])
        for name, value in average.items():
            value.copy_(parts["average"][name])
        _check_state(state, optimiser)
        optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
    except (RuntimeError, KeyError, ValueError) as exc:
        raise ModelError(f"the checkpoint does not fit this model: {exc}") from exc


def _check_state(state: Mapping[int, Mapping[str, Tensor]], optimiser: torch.optim.Optimizer) -> None:
    """Make sure that AdamW's tensors have the shapes of its parameters, which the optimiser itself does not check."""
    shapes = dict(enumerate(each.shape for group in optimiser.param_groups for each in group["params"]))
    for number, tensors in state.items():
        found, shape = {name: value.shape for name, value in tensors.items()}, shapes.get(number)
        if found != {"step": torch.Size(), "exp_avg": shape, "exp_avg_sq": shape}:
            raise ValueError(f"the tensors of the optimiser's parameter {number} do not fit it")


@contextmanager
def only_one_in(folder: Path) -> Iterator[FolderLock]:
    """Lock a run's folder, so that no other run writes into it; remove a new folder if it stays empty.

    The files of the run are written to the lock's `place()`, which stays the same folder even if someone replaces it.

    Raises:
        BusyError: Another run holds the lock.
        ModelError: The folder cannot be written to.
        UsageError: Someone else may have put a link on the way to the folder.
    """
    try:
        place = follow_links(folder)  # the links may be changed from now on
        place.parent.mkdir(parents=True, exist_ok=True)
        is_new = not place.exists()
        lock = FolderLock(place, str(folder))
        lock.acquire()
    except OSError as exc:
        raise ModelError(f"{folder} cannot be written: {exc}") from exc
    try:
        yield lock
    finally:
        with suppress(OSError, UsageError):  # leftovers do no harm
            lock.remove()
            if is_new and not any(place.iterdir()):
                place.rmdir()
        lock.release()
