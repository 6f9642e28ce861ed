"""Embeddings -> their cosine, by the same sum as everywhere in this package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...encoders.two_tower import unit_rows
from ...errors import ErrorCode, RowError
from ...similarity import cosine
from .requests import Arrays, answer, attempt, taken


class SimilarityModel:
    """What the server runs as `TritonPythonModel`."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Do nothing: there is nothing to read."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request."""
        inputs = [taken(request, ("image_vector", "text_vector")) for request in requests]
        return [answer(attempt(lambda arrays=arrays: _scored(arrays))) for arrays in inputs]  # type: ignore[misc]


def _scored(arrays: Arrays) -> Arrays:
    image, text = unit_rows(arrays["image_vector"]), unit_rows(arrays["text_vector"])
    cosines = cosine(image, text)
    if not np.isfinite(cosines).all():
        raise RowError(ErrorCode.NON_FINITE, "the model gave no finite embedding")
    return {"image_embeds": image, "text_embeds": text, "similarity": cosines.astype(np.float32)[:, None]}
