"""Load the calibration of a model's scores, from the model's own folder or from another one."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError
from ..files import CALIBRATION
from .load import model_folder, on_network_share

if TYPE_CHECKING:
    from ..metrics import Calibration


def load_calibration(model: str | PathLike[str], folder: str | PathLike[str] | None = None) -> Calibration:
    """Load the curve that maps a model's cosines to the probability that a pair matches.

    Args:
        model: A model's folder, or `mini`, as in `Config.model`.
        folder: Folder in which `evaluate --calibrate FOLDER` wrote `calibration.json`; by default the model's own.

    Returns:
        The curve; `load_calibration("mini").probability(scores)` turns cosines into probabilities from 0 to 1.

    Raises:
        ConfigError: No folder is given, and the model has no calibration of its own. Hub models never have a
            calibration.
        ModelError: The folder does not contain a calibration, or the calibration is damaged.
    """
    from ..metrics import Calibration  # imported here because it loads SciPy, which scoring does not need

    if folder is not None:
        return Calibration.load(Path(folder).expanduser())
    own = model_folder(model)
    if not (own / CALIBRATION).is_file():
        raise ConfigError(
            f"there is no calibration for the scores of {model}: make one with `text-image-similarity evaluate SOURCE "
            f"--model {model} --calibrate FOLDER`, then name it with --calibration FOLDER (calibration=FOLDER)"
        )
    return Calibration.load(own)


def calibrated_folder(model: str) -> Path | None:
    """Return the folder of a model that a file names; None if it has no calibration or is on a network share."""
    if not model or on_network_share(model):
        return None
    folder = model_folder(model)
    return folder if (folder / CALIBRATION).is_file() else None
