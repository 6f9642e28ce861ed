"""Turn encoded images and captions into pixels and token ids, with the copy of this package in the same folder.

The program runs in Triton's python backend and needs NumPy, Pillow, tokenizers and safetensors there. If an image or a
caption cannot be read, only its own request fails, with the library's error code.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import triton_python_backend_utils as pb_utils

from text_image_similarity.config import Limits
from text_image_similarity.decode import decode
from text_image_similarity.encoders.facts import check_pillow, preprocess_from
from text_image_similarity.encoders.token_files import open_tokens
from text_image_similarity.errors import ErrorCode, RowError
from text_image_similarity.preprocess import Pixels
from text_image_similarity.records import caption_of
from text_image_similarity.system import usable_cores


class PreprocessModel:
    """The model `preprocess`, as Triton calls it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the model's settings and its tokenizer."""
        here = Path(__file__).parent
        facts = json.loads((here / "facts.json").read_text(encoding="utf-8"))
        check_pillow("this repository", facts["preprocess"])
        self.preprocess = preprocess_from(facts["preprocess"], fast=False)
        self.tokens = open_tokens(here, facts["tokens"])
        self.widths, self.limits = facts["widths"], Limits(**facts["limits"])
        self.threads = ThreadPoolExecutor(usable_cores())

    def execute(self, requests: list[Any]) -> list[Any]:
        """Process each request separately."""
        return list(self.threads.map(self._answer, requests))

    def finalize(self) -> None:
        """Stop the threads."""
        self.threads.shutdown()

    def _answer(self, request: Any) -> Any:
        try:
            images, captions = (
                pb_utils.get_input_tensor_by_name(request, name).as_numpy().ravel() for name in ("image", "caption")
            )
            pixels = np.stack([self._pixels(image) for image in images])
            found = [
                pb_utils.Tensor("pixels", pixels),
                pb_utils.Tensor("input_ids", self._ids([_text(caption) for caption in captions])),
            ]
            return pb_utils.InferenceResponse(found)
        except RowError as exc:
            return _error(str(exc), pb_utils.TritonError.INVALID_ARG)
        except Exception as exc:  # untrusted bytes must not end this process
            return _error(f"{ErrorCode.ENCODER_ERROR}: {type(exc).__name__}: {exc}", pb_utils.TritonError.INTERNAL)

    def _pixels(self, image: bytes) -> Pixels:
        if len(image) > self.limits.max_bytes:
            raise RowError(ErrorCode.TOO_MANY_BYTES, f"more than {self.limits.max_bytes:,} bytes")
        return self.preprocess.pixels(decode(image, self.limits))

    def _ids(self, captions: list[str]) -> Any:
        rows = self.tokens.encode(captions)
        longest = max(map(len, rows))
        return self.tokens.padded(rows, next(width for width in self.widths if width >= longest))


def _text(caption: bytes) -> str:
    try:
        text = caption_of(caption.decode())
    except UnicodeDecodeError as exc:
        raise RowError(ErrorCode.EMPTY_CAPTION, "the caption is not UTF-8") from exc
    if isinstance(text, RowError):
        raise text
    return text


def _error(text: str, code: int) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))


TritonPythonModel = PreprocessModel  # the name that Triton looks for
