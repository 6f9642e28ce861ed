"""Write a model's towers as ONNX graphs.

`image.onnx` maps `pixels`, uint8 (batch, height, width, 3), to `image_embeds`, and `text.onnx` maps `input_ids`, int64
(batch, length), to `text_embeds`. Both graphs return unit vectors in float32. Writing them needs torch, onnx and
onnxscript.
"""

from __future__ import annotations

from .write import OPSET, drop_weights, write_towers

__all__ = ["OPSET", "drop_weights", "write_towers"]
