"""What a model is, and how it takes its images, as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import PIL
from PIL import Image

from ..errors import ModelError
from ..preprocess import Preprocess
from .two_tower import TwoTowerEncoder


def model_facts(encoder: TwoTowerEncoder) -> dict[str, Any]:
    """Return what an exported form says of its model, but for its tokens."""
    return {
        "embed_dim": encoder.embed_dim,
        "context_length": encoder.context_length,
        "logit_scale": encoder.logit_scale,
        "logit_bias": encoder.logit_bias,
        "preprocess": preprocess_facts(encoder.preprocess),
    }


def preprocess_facts(how: Preprocess) -> dict[str, Any]:
    """Return a preprocessing as JSON, with the major version of Pillow, on which its pixels depend."""
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
    """Return the preprocessing that `preprocess_facts` described."""
    if fast:
        import torch  # noqa: F401 - which resizes then; loaded here, not within the time of the first image
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
    """Make sure that pixels become here what they became where a preprocessing was described.

    Raises:
        ModelError: This is another major version of Pillow.
    """
    made, here = facts["pillow"], int(PIL.__version__.partition(".")[0])
    if made != here:
        raise ModelError(
            f"{name} was exported with Pillow {made}, and this is Pillow {PIL.__version__}, which resizes some images to other "
            f"pixels; install Pillow {made}, or export the model again"
        )
