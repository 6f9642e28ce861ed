"""Train a dual encoder on images with captions.

Names are imported on first use, so that `train --help` does not load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..system import lazy_names, refuse_planted_driver

if TYPE_CHECKING:
    from .config import TrainConfig
    from .loop import TrainProgress, TrainResult, train

__all__ = ["TrainConfig", "TrainProgress", "TrainResult", "train"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {"config": ("TrainConfig",), "loop": ("TrainProgress", "TrainResult", "train")},
    before=refuse_planted_driver,  # loop imports torch
)
