"""The cosine of an image's and a caption's unit vectors."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """What Triton calls."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        image, text = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in ("image_embeds", "text_embeds")
        )
        similarity = (image * text).sum(axis=1, keepdims=True)  # (n, 1)
        return pb_utils.InferenceResponse([pb_utils.Tensor("similarity", similarity)])
