"""Keep torch usable in a process that was forked after torch had run.

A fork does not copy threads, so the next multi-threaded computation would wait forever for OpenMP's threads. Running on
one thread avoids this wait; `torch.utils.data.DataLoader` does the same in its workers. A GPU that the parent process
has used cannot be used at all.
"""

from __future__ import annotations

import logging
import os
from functools import cache

import torch

from ..errors import DeviceLostError

logger = logging.getLogger("text_image_similarity")
_first: dict[str, int] = {}


def adapt_to_fork(device: torch.device) -> None:
    """Prepare this process to compute on `device`, which its parent may have used before the fork.

    Raises:
        DeviceLostError: The device is a GPU that the parent used.
    """
    if _first.setdefault("process", os.getpid()) == os.getpid():
        return
    if device.type == "mps" or (device.type == "cuda" and torch.cuda._is_in_bad_fork()):
        raise DeviceLostError(
            f"this process cannot use {device}, because it was forked from one that had used it; load the encoder in the child "
            "process, not before the fork, or start the process with 'spawn'"
        )
    _use_one_thread(os.getpid())


@cache
def _use_one_thread(process: int) -> None:
    os.environ.setdefault(
        "TOKENIZERS_PARALLELISM", "false"
    )  # otherwise tokenizers does this itself and prints a warning
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)
        logger.warning(
            "process %d was forked after torch had run, so torch runs on one thread here; to use more, load the encoder in the "
            "child process, not before the fork, or start the process with 'spawn'",
            process,
        )
