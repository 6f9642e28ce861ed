"""Compute the cosine of an image's and a caption's unit vectors, and return it with the vectors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import triton_python_backend_utils as pb_utils

from text_image_similarity.errors import ErrorCode, RowError
from text_image_similarity.similarity import cosine


class SimilarityModel:
    """The model `similarity`, as Triton calls it."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """Process each request separately."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        image, text = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in ("image_vector", "text_vector")
        )
        similarity = cosine(image, text)[:, None]  # (n, 1)
        if not np.isfinite(similarity).all():
            error = RowError(ErrorCode.NON_FINITE, "the model returned an embedding that is not finite")
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        found = {"similarity": similarity, "image_embeds": image, "text_embeds": text}
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, values) for name, values in found.items()])


TritonPythonModel = SimilarityModel  # the name that Triton looks for
