"""Keeps torch usable in a process that was forked from one where it had run.

A fork copies no threads, and the next computation on several would wait for them forever, in OpenMP. One thread needs none
of them: `torch.utils.data.DataLoader` does the same in its workers. A GPU cannot be used in such a process at all.
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
    """Make this process ready to compute on `device`, whose parent may have done so before it.

    Raises:
        DeviceLostError: The device is a GPU, which the parent used.
    """
    if _first.setdefault("process", os.getpid()) == os.getpid():
        return
    if device.type == "mps" or (device.type == "cuda" and torch.cuda._is_in_bad_fork()):
        raise DeviceLostError(
            f"this process was forked from one that used {device}, which it cannot use itself; load the encoder in the child "
            "process and not before the fork, or start the process with 'spawn'"
        )
    _use_one_thread(os.getpid())


@cache
def _use_one_thread(process: int) -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # or tokenizers does so itself, and prints a warning
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)
        logger.warning(
            "process %d was forked after torch had run, so torch runs on one thread here; for more, load the encoder in the "
            "child process and not before the fork, or start the process with 'spawn'",
            process,
        )
