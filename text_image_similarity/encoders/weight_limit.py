"""Stop the construction of a torch network whose settings request far more weights than its files hold.

Libraries build a network before they read its weights, so a few digits in a stranger's settings could fill the memory.
A weight or a buffer is counted when its module registers it: its memory is reserved by then, but most is not yet used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from threading import local
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from ..errors import ModelError

_SPARE = 64 << 20  # values that libraries add and then drop, such as a classifier
_TIMES = 4  # a library may register a weight again after reading it
_SMALLEST = 8192  # a smaller weight counts as this many values, because its module takes memory too
_state = local()  # networks may be built in other threads at the same time


@contextmanager
def limited_by(name: str, find: Callable[[], Iterable[Path]]) -> Iterator[None]:
    """Limit the size of the networks that this thread builds during a block.

    Args:
        name: The model's name, for messages.
        find: Function that returns the files of weights, called when the first weight is registered. Without files,
            there is no limit. A file with several names is counted once.

    Raises:
        ModelError: A network is far larger than the files.
    """
    left: int | None = None

    def count(weight: Tensor) -> None:
        nonlocal left
        if left is None:
            files = {_identity(path): path for path in find()}
            left = _SPARE + _TIMES * sum(map(_most_values, files.values())) if files else 1 << 62
        left -= max(weight.numel(), _SMALLEST)
        if left < 0:
            raise ModelError(
                f"the settings of {name} describe a network that is far larger than the weights that come with it; use the "
                "settings that were saved with these weights"
            )

    before, _state.count = getattr(_state, "count", None), count
    try:
        yield
    finally:
        _state.count = before


def _identity(path: Path) -> tuple[int, int] | Path:
    """Return a value that is the same for all names of a file, or its path if the file system does not number files."""
    found = path.stat()
    return (found.st_dev, found.st_ino) if found.st_ino else path


def _most_values(path: Path) -> int:
    """Return the largest number of values in a file: one per byte for a pickle, which is not opened here."""
    if path.suffix != ".safetensors":
        return path.stat().st_size
    with safe_open(path, "numpy") as file:
        return sum(prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118 - not a mapping


def _count(module: nn.Module, name: str, weight: Any) -> None:
    count = getattr(_state, "count", None)
    if count is not None and weight is not None:
        count(weight)


register_module_parameter_registration_hook(_count)
register_module_buffer_registration_hook(_count)
