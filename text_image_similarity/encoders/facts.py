"""Describe a model and its preprocessing as JSON, and restore the preprocessing from that description."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import PIL
from PIL import Image

from ..errors import ModelError
from ..preprocess import Preprocess
from ..system import refuse_planted_driver
from .two_tower import TwoTowerEncoder


def model_facts(encoder: TwoTowerEncoder) -> dict[str, Any]:
    """Return the description of a model that an export stores, without its tokens."""
    return {
        "embed_dim": encoder.embed_dim,
        "context_length": encoder.context_length,
        "logit_scale": encoder.logit_scale,
        "logit_bias": encoder.logit_bias,
        "preprocess": preprocess_facts(encoder.preprocess),
    }


def preprocess_facts(how: Preprocess) -> dict[str, Any]:
    """Return a description of the preprocessing, with the major version of Pillow, on which the pixels depend."""
    return {
        "size": how.size,
        "crop": how.crop,
        "mean": how.mean,
        "std": how.std,
        "resample": int(how.resample),
        "fit": how.fit,
        "fill": how.fill,
        "rounded": how.rounded,
        "patches": how.patches,
        "pillow": int(PIL.__version__.partition(".")[0]),
    }


def preprocess_from(facts: Mapping[str, Any], *, fast: bool) -> Preprocess:
    """Return the preprocessing that `preprocess_facts` described.

    Args:
        facts: The description.
        fast: Whether to use the fast preprocessing.
    """
    if fast:
        refuse_planted_driver()
        import torch  # noqa: F401 - resizes the images; imported here so that the first image does not wait for it
    size, crop, patches = facts["size"], facts["crop"], facts["patches"]
    return Preprocess(
        size=size if isinstance(size, int) else (size[0], size[1]),
        crop=crop and (crop[0], crop[1]),
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
        resample=Image.Resampling(facts["resample"]),
        fast=fast,
        fit=facts["fit"],
        fill=facts["fill"],
        rounded=facts["rounded"],
        patches=patches and (patches[0], patches[1]),
    )


def check_pillow(name: str, facts: Mapping[str, Any]) -> None:
    """Check that Pillow has the major version with which a model was exported, so that pixels are the same.

    Raises:
        ModelError: Pillow has a different major version.
    """
    made, here = facts["pillow"], int(PIL.__version__.partition(".")[0])
    if made != here:
        raise ModelError(
            f"{name} was exported with Pillow {made}, but Pillow {PIL.__version__} is installed, which resizes some images "
            f"differently; install Pillow {made}, or export the model again"
        )
