"""A model's towers as ONNX graphs, and how captions are read without its libraries.

`image.onnx` takes `pixels`, uint8 (batch, height, width, 3), and gives `image_embeds`; `text.onnx` takes `input_ids`, int64
(batch, length), and gives `text_embeds`. Both give unit vectors in float32. This needs torch, onnx and onnxscript.
"""

from __future__ import annotations

from .write import OPSET, drop_weights, write_towers

__all__ = ["OPSET", "drop_weights", "write_towers"]
