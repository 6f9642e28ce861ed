"""What the scores of a model mean: its calibration, from its own folder or from another one."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError
from ..files import CALIBRATION
from .load import model_folder

if TYPE_CHECKING:
    from ..metrics import Calibration


def load_calibration(model: str | PathLike[str], folder: str | PathLike[str] | None = None) -> Calibration:
    """Load the curve from a model's cosines to the probability that a pair matches.

    Args:
        model: A model's folder, or `mini`; as `Config.model`.
        folder: Where `evaluate --calibrate FOLDER` wrote `calibration.json`; None is the model's own folder.

    Returns:
        The curve; `load_calibration("mini").probability(scores)` turns cosines into probabilities from 0 to 1.

    Raises:
        ConfigError: The model has no calibration, as models of the hub, and no folder is given.
        ModelError: The folder holds no calibration, or a damaged one.
    """
    from ..metrics import Calibration  # here, because it loads SciPy, which scoring does without

    if folder is not None:
        return Calibration.load(Path(folder).expanduser())
    own = model_folder(model)
    if not (own / CALIBRATION).is_file():
        raise ConfigError(
            f"there is no calibration for the scores of {model}: make one with `text-image-similarity evaluate SOURCE "
            f"--model {model} --calibrate FOLDER`, then name it with --calibration FOLDER (calibration=FOLDER)"
        )
    return Calibration.load(own)
