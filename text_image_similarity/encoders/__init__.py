"""Load models, and encode images and captions with them.

`load_encoder` finds the model that a `Config` names and passes it to the module for its family. Each family imports its
heavy libraries only when it is used, so importing this package is cheap.
"""

from __future__ import annotations

from .adapter import UnpreparedEncoder, as_preparing
from .cached import CachedModel, cached_models
from .calibrated import calibrated_folder, load_calibration
from .load import dual_encoder_folder, load_encoder, model_folder, on_network_share, resolve_model
from .protocols import CutIds, Encoder, ModelInfo, OverlappingEncoder, PreparingEncoder
from .several import Ensemble, SeveralEncoders, calibrations_of, column_names, load_encoders

__all__ = [
    "CachedModel",
    "CutIds",
    "Encoder",
    "Ensemble",
    "ModelInfo",
    "OverlappingEncoder",
    "PreparingEncoder",
    "SeveralEncoders",
    "UnpreparedEncoder",
    "as_preparing",
    "cached_models",
    "calibrated_folder",
    "calibrations_of",
    "column_names",
    "dual_encoder_folder",
    "load_calibration",
    "load_encoder",
    "load_encoders",
    "model_folder",
    "on_network_share",
    "resolve_model",
]
