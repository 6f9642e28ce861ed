"""Pictures and captions as bytes -> pixels and token ids, by the rules of the export that lies beside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...config import Limits
from ...decode import decode
from ...encoders.facts import preprocess_from
from ...encoders.token_files import open_tokens
from ...errors import ErrorCode, RowError
from ...preprocess import Pixels
from ...records import caption_of
from ...system import usable_cores
from .requests import Arrays, answer, attempt, taken, text_parameters


class PreprocessModel:
    """What the server runs as `TritonPythonModel`."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the export's rules, and use them once, so that the first request waits for nothing."""
        folder = Path(args["model_repository"], args["model_version"])
        given = text_parameters(args)
        facts = json.loads((folder / "export.json").read_text(encoding="utf-8"))
        self.width = int(given["caption_step"])
        self.most_caption = int(given["max_caption_bytes"])
        self.limits = Limits(
            max_bytes=int(given["max_bytes"]), max_pixels=int(given["max_pixels"]), max_side=int(given["max_side"])
        )
        self.how = preprocess_from(facts["preprocess"], fast=False)
        self.tokens = open_tokens(folder, facts["tokens"])
        self.threads = ThreadPoolExecutor(usable_cores(), thread_name_prefix="preprocess")
        self.how.pixels(Image.new("RGB", (64, 48)))
        self.tokens.encode(["a dog"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request, or say what is wrong with it."""
        inputs = [taken(request, ("image", "caption")) for request in requests]
        return [answer(found) for found in self.threads.map(lambda arrays: attempt(lambda: self._made(arrays)), inputs)]

    def finalize(self) -> None:
        """End the threads."""
        self.threads.shutdown()

    def _made(self, arrays: Arrays) -> Arrays:
        captions = [self._caption(given) for given in arrays["caption"].reshape(-1)]
        pixels = [self._pixels(given) for given in arrays["image"].reshape(-1)]
        rows = self.tokens.encode(captions)
        *_, widest = self.tokens.batches([max(rows, key=len)], most=1, step=self.width)
        return {"pixels": np.stack(pixels), "input_ids": self.tokens.padded(rows, widest.shape[1])}

    def _pixels(self, data: bytes) -> Pixels:
        if len(data) > self.limits.max_bytes:
            raise RowError(ErrorCode.TOO_MANY_BYTES, f"more than {self.limits.max_bytes:,} bytes")
        return self.how.pixels(decode(data, self.limits))

    def _caption(self, data: bytes) -> str:
        if len(data) > self.most_caption:
            raise RowError(ErrorCode.ENCODER_ERROR, f"the caption has more than {self.most_caption:,} bytes")
        try:
            caption = caption_of(data.decode())
        except UnicodeDecodeError as exc:
            raise RowError(ErrorCode.ENCODER_ERROR, f"the caption is not UTF-8: {exc}") from exc
        if isinstance(caption, RowError):
            raise caption
        return caption
